"""Ranges of settings: which numbers are taken, and how they are described."""

import dataclasses
import math
from typing import ClassVar

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jmp_hk import ranges


@dataclasses.dataclass(frozen=True)
class _Config:
  RANGES: ClassVar[dict[str, ranges.Range]] = {
    "decay": ranges.DECAY,
    "steps": ranges.POSITIVE_COUNT,
  }

  decay: float = 0.5
  steps: int = 3
  free: float = math.nan

  def __post_init__(self) -> None:
    ranges.check(self)


class RangesTest(parameterized.TestCase):
  @parameterized.parameters(
    (ranges.NOT_NEGATIVE, (0, 1, 0.5, np.float32(2), np.int64(3)), (-1e-9, -1)),
    (ranges.POSITIVE, (1e-300, 7), (0, 0.0, -1)),
    (ranges.DECAY, (0, 0.999), (1, 1.0, -0.1)),
    (ranges.FRACTION, (0, 1, 0.5), (1.01, -0.1)),
    (ranges.COUNT, (0, 5, np.int32(5)), (-1, 1.0, 0.5)),
    (ranges.POSITIVE_COUNT, (1,), (0, 2.0)),
    (ranges.Range(above=0, most=100), (1e-3, 100), (0, 100.5, 1e6)),
    (ranges.Range(above=0, is_finite=False), (math.inf,), (0, -math.inf)),
  )
  def test_what_is_taken(self, allowed, taken, refused):
    never = ("1", None, True, 1j, math.nan, [1])
    if allowed.is_finite:
      never += (math.inf, -math.inf)
    for value in taken:
      self.assertTrue(allowed.contains(value), value)
    for value in (*refused, *never):
      self.assertFalse(allowed.contains(value), value)

  @parameterized.parameters(
    (ranges.DECAY, "a number, at least 0 and below 1"),
    (ranges.POSITIVE_COUNT, "a whole number, at least 1"),
    (ranges.FRACTION, "a number, from 0 to 1"),
    (ranges.Range(), "a number"),
  )
  def test_descriptions(self, allowed, expected):
    self.assertEqual(str(allowed), expected)

  def test_configurations_are_checked_where_they_are_made(self):
    _Config()
    with self.assertRaisesRegex(
      ranges.RangeError, "^steps must be a whole number, at least 1, not 2.5.$"
    ):
      _Config(steps=2.5)
    with self.assertRaisesRegex(ranges.RangeError, "^decay must be"):
      dataclasses.replace(_Config(), decay=1.0)


if __name__ == "__main__":
  absltest.main()
