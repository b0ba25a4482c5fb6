"""Flipped bits and truncations in the raw files of every dataset.

Run by `python -m pytest tests/faults`, not by `python -m pytest`.
"""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.faults import raw_sources

pytestmark = pytest.mark.slow

_FLIPS, _TRUNCATIONS = 40, 15  # Of each kind.


@pytest.mark.parametrize("name", [source.name for source in raw_sources.SOURCES])
def test_damaged_raw_files_are_refused_or_read_as_valid_ones(name, outcomes):
  report = convert_damaged(name, _FLIPS, _TRUNCATIONS, 0)
  print(json.dumps(report, indent=1))
  outcomes.rows += report["rows"]
  assert report["failures"] == []
  assert sum(row[-1] for row in report["rows"]) == _FLIPS + _TRUNCATIONS


def convert_damaged(name: str, flips: int, truncations: int, seed: int) -> dict:
  """Converts damaged files from a process of its own, which copies itself."""
  numbers = map(str, (flips, truncations, seed))
  process = subprocess.run(
    [sys.executable, "-m", "tests.faults.raw_damage", *numbers, name],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 0, process.stderr[-2000:]
  return json.loads(process.stdout.splitlines()[-1])
