"""Splits have no record in common, and units say so."""

import pytest

from data.conversion import base
from data.conversion import splits


def _unit(split: str, payload, *files: str) -> base.Unit:
  return base.Unit(split, f"{files[0]}[{split}]", files, payload)


@pytest.mark.parametrize(
  "one, two",
  [
    (_unit("train", [0, 1, 2], "a"), _unit("test", [5, 2], "a")),
    (_unit("train", None, "a"), _unit("test", None, "a")),
    (_unit("train", [["x", 0, 3]], "a"), _unit("test", [["x", 0, 3]], "a")),
    (
      _unit("train", {"a": None, "b": [1]}, "a", "b"),
      _unit("test", {"b": [0, 1]}, "b"),
    ),
  ],
)
def test_a_record_in_two_splits_is_refused(one, two):
  with pytest.raises(base.PlanError, match="in the splits 'train' and 'test'"):
    splits.check_disjoint([one, two])


def test_other_records_other_files_and_units_of_one_split_are_fine():
  splits.check_disjoint(
    [
      _unit("train", [0, 1], "a"),
      _unit("train", [1, 2], "a"),
      _unit("test", [3], "a"),
      _unit("test", [0, 1], "b"),
      _unit("train", (0, 10), "c"),  # A range, whose end is not included.
      _unit("test", (10, 20), "c"),
      _unit("val", {"d": [0], "e": None}, "d", "e"),
    ]
  )
