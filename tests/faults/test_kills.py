"""Conversions and training runs that are killed go on to equal results.

Run by `python -m pytest tests/faults`, not by `python -m pytest`.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import compiling

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_KILLS = {
  "conversion": 40,
  "conversion by two processes": 16,
  "pre-training": 26,
  "pre-training of GemNet-OC": 6,
  "fine-tuning": 26,
}


@pytest.mark.parametrize("name", _KILLS)
def test_killed_runs_go_on_to_equal_results(name, tmp_path, outcomes):
  report = kill(name, _KILLS[name], 0, tmp_path)
  print(json.dumps(report, indent=1))
  outcomes.rows += report["rows"]
  assert report["failures"] == []
  assert sum(row[-1] for row in report["rows"]) == _KILLS[name]


def kill(name: str, count: int, seed: int, folder: pathlib.Path) -> dict:
  """Kills runs of a case from a process of its own, in which jax has not started."""
  process = subprocess.run(
    [sys.executable, "-m", "tests.faults.kills", name, str(count), str(seed), folder],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
    env=os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(_ROOT / ".jax_cache"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
      "XLA_FLAGS": compiling.with_flag(""),
    },
  )
  assert process.returncode == 0, process.stderr[-3000:]
  return json.loads(process.stdout.splitlines()[-1])
