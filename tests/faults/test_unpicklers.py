"""Reading 400,000 damaged and hostile pickles: no crash, no call, bounded work.

Run by `python -m pytest tests/faults`, not by `python -m pytest`.
"""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.faults import outcomes as table

_KINDS = {"record": "OC22 record", "checkpoint": "PyTorch checkpoint"}
_PROCESSES = 4
_PICKLES = 100_000  # In each process.


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(_PROCESSES))
def test_mutated_pickles_are_refused_or_read(seed, outcomes):
  report = read_mutations(_PICKLES, seed)
  print(json.dumps(report, indent=1))
  for entry, count in report["table"].items():
    kind, _, outcome = entry.partition(": ")
    outcome = {"accepted": table.OTHER}.get(outcome, outcome)
    outcomes.add("mutated pickle", _KINDS[kind], outcome, count)
  assert report["failures"] == []
  assert sum(report["table"].values()) == _PICKLES


def read_mutations(count: int, seed: int) -> dict:
  """Reads mutated pickles in a process of its own, which has to end well."""
  process = subprocess.run(
    [sys.executable, "-m", "tests.faults.pickle_mutations", str(count), str(seed)],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  # 98 and 99 stand for a forbidden event and for a call, negative numbers for a crash.
  assert process.returncode == 0, process.stderr[-2000:]
  return json.loads(process.stdout)
