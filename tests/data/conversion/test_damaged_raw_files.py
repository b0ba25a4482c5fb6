"""Damaged raw files are refused, or read as other valid files; a few of each sort.

`python -m pytest tests/faults` damages the files of every dataset, many times.
"""

import dataclasses

import numpy as np
import pytest

from tests.faults import outcomes
from tests.faults import raw_damage
from tests.faults import raw_sources

_ALLOWED = {outcomes.REFUSED, outcomes.EQUAL, outcomes.OTHER}
_KNOWN = {source.name: source for source in raw_sources.SOURCES}


@pytest.mark.parametrize(
  "name",
  [
    "OC20, extxyz.xz and txt.xz",
    "OC22, LMDB",
    "QM9, tar.bz2",
    "MatBench, json.gz",
    "MD22, npz",
    "MD22, xyz",
  ],
)
def test_damaged_files_are_refused_or_valid(name, tmp_path):
  harness = raw_damage.Harness(_KNOWN[name], tmp_path)
  rng = np.random.default_rng(1)
  for is_cut in (False, True):
    found = set(harness.attempts(3, is_cut, rng, in_children=False))
    assert found <= _ALLOWED, harness.failures
    if not _KNOWN[name].most_changed:
      assert outcomes.OTHER not in found


def test_a_changed_number_is_a_failure_where_the_format_has_a_checksum(tmp_path):
  source = _KNOWN["MD22, xyz"]
  harness = raw_damage.Harness(source, tmp_path)
  path = next((tmp_path / "raw").glob("*.xyz"))
  text = path.read_text()
  number = text.split()[5]
  changed = repr(float(number) + 0.5)
  path.write_text(text.replace(number, changed, 1))
  for most, expected in ((1, outcomes.OTHER), (0, None)):
    judged = dataclasses.replace(source, most_changed=most)
    output = tmp_path / str(most)
    code, text = raw_damage.judge(
      judged, tmp_path / "raw", output, harness._whole, False
    )
    assert raw_damage._OUTCOMES.get(code) == expected, text
  assert "1 structures lost and 1 others" in text
