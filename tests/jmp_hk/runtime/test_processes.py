"""Runs of several processes on one machine, with gloo between them."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from jmp_hk.checkpoints import checkpointer
from jmp_hk.runtime import processes
from tests import compiling

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_PROGRAM = "tests.jmp_hk.runtime.toy_processes"
_STEPS = 12


def _free_port() -> int:
  with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    return sock.getsockname()[1]


def _start(workdir, steps, count, death="0:0:"):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": compiling.with_flag("--xla_force_host_platform_device_count=1"),
    "PYTHONPATH": str(_ROOT),
    "JAX_COMPILATION_CACHE_DIR": str(_ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
  }
  port = _free_port()
  workdir.mkdir(exist_ok=True)
  return [
    subprocess.Popen(
      [
        sys.executable,
        "-m",
        _PROGRAM,
        str(workdir),
        str(steps),
        str(i),
        str(count),
        str(port),
        death,
      ],
      cwd=_ROOT,
      env=environment,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for i in range(count)
  ]


@pytest.mark.parametrize(
  ("tasks", "node", "local", "gpus", "expected"),
  [
    ("8(x64)", 63, 5, "0,1,2,3,4,5,6,7", [5]),
    ("1(x2)", 1, 0, "0,1,2,3", [0, 1, 2, 3]),
    ("2(x2),1", 1, 1, "0,1,2,3", [2, 3]),
    ("2(x2),1", 2, 0, "0,1,2,3", [0, 1, 2, 3]),
    ("8", 0, 5, "GPU-8f2a", [0]),  # Bound to one, by --gpus-per-task=1.
    ("4", 0, 3, "0,1", None),
    ("4", 0, 3, "", None),
  ],
)
def test_a_task_of_slurm_takes_its_share_of_the_gpus_it_sees(
  tasks, node, local, gpus, expected
):
  environment = {
    "SLURM_STEP_TASKS_PER_NODE": tasks,
    "SLURM_NODEID": str(node),
    "SLURM_LOCALID": str(local),
    "CUDA_VISIBLE_DEVICES": gpus,
  }
  assert processes.slurm_devices(environment) == expected
  chosen = environment | {"JAX_LOCAL_DEVICE_IDS": "0"}
  assert processes.slurm_devices(chosen) is None


def test_where_cuda_names_no_gpus_slurm_counts_them():
  environment = {
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "1",
  }
  assert processes.slurm_devices(environment) is None
  counted = environment | {"SLURM_GPUS_ON_NODE": "4"}
  assert processes.slurm_devices(counted) == [2, 3]
  assert processes.slurm_devices({"SLURM_GPUS_ON_NODE": "4"}) is None


def _finish(started, timeout=240):
  """Output of every process; all of them must end."""
  try:
    return [process.communicate(timeout=timeout)[0] for process in started]
  finally:
    for process in started:
      process.kill()


def _params(workdir, index=0):
  with np.load(workdir / f"params{index}.npz") as file:
    return dict(file)


def _losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["loss"] for line in lines]


def _assert_equal(left, right):
  chex.assert_trees_all_close(left, right, rtol=2e-6, atol=1e-7)


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory):
  """The directory of an uninterrupted run of one process."""
  workdir = tmp_path_factory.mktemp("whole")
  started = _start(workdir, _STEPS, 1)
  outputs = _finish(started)
  assert started[0].returncode == 0, outputs
  return workdir


def test_two_processes_equal_one(whole, tmp_path):
  two = _start(tmp_path / "two", _STEPS, 2)
  outputs = _finish(two)
  assert [p.returncode for p in two] == [0, 0], outputs
  # The same weights, in both processes.
  for index in range(2):
    _assert_equal(_params(whole), _params(tmp_path / "two", index))
  # One line of metrics a step: the second process writes none.
  assert len(_losses(tmp_path / "two")) == _STEPS
  chex.assert_trees_all_close(_losses(whole), _losses(tmp_path / "two"), rtol=1e-6)


@pytest.mark.parametrize("death", ["5:1:exit", "5:0:exit", "5:1:raise"])
def test_a_process_that_ends_takes_the_others_along(tmp_path, death):
  _, dying, how = death.split(":")
  started = _start(tmp_path / "run", 500, 2, death)
  first, second = started[int(dying)], started[1 - int(dying)]
  output = _finish([first])[0]
  begin = time.monotonic()
  message = _finish([second])[0]
  # Within a minute and with a reason.
  assert time.monotonic() - begin < 60
  assert first.returncode == (9 if how == "exit" else 1), output
  assert second.returncode == 1
  # The reason is the last line, and nothing of what jax says when it aborts is there.
  assert "another process of this run has ended" in message.splitlines()[-1], message
  for dump in ("Fatal Python error", "stack trace", "most recent call"):
    assert dump not in message
  if how == "raise":
    assert "The data are broken." in output


_WAITING = """
import faulthandler, os, sys, time
faulthandler.enable()  # As absl does in the runners.
from jmp_hk.runtime import configuration
from jmp_hk.runtime import processes

me, port = int(sys.argv[1]), sys.argv[2]
config = configuration.RuntimeConfig(
  coordinator_address=f"127.0.0.1:{port}", num_processes=2, process_id=me
)
configuration.configure(config)
processes.connect(config)
processes._POLL_SECONDS = 0.3
with processes.ends_together():
  if me == 0:
    time.sleep(2)
  processes.wait_for_all("begin")
  print("All are here.", flush=True)
  time.sleep(1 if me == 0 else 100)
  os._exit(9)
"""


def test_without_process_0_the_others_end_even_where_they_exchange_nothing():
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)}
  port = str(_free_port())
  started = [
    subprocess.Popen(
      [sys.executable, "-c", _WAITING, str(index), port],
      env=environment,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    for index in range(2)
  ]
  outputs = _finish(started)
  assert [process.returncode for process in started] == [9, 1], outputs
  assert "another process of this run has ended" in outputs[1].splitlines()[-1]
  for dump in ("Fatal Python error", "stack trace", "most recent call"):
    assert dump not in outputs[1]
  # It had waited for the other one, longer than a request to the coordinator may take.
  assert outputs[1].startswith("All are here.")


def test_two_processes_continue_as_one(whole, tmp_path):
  # One of them gets SIGTERM, and both stop at the same step; continued by one process.
  stopped = _start(tmp_path / "run", _STEPS, 2, "6:1:terminate")
  outputs = _finish(stopped)
  assert [p.returncode for p in stopped] == [143, 143], outputs
  [step] = checkpointer.complete_steps(tmp_path / "run" / "checkpoints")[-1:]
  # One line of metrics a step: the second process writes none.
  assert 0 < step <= 6 and len(_losses(tmp_path / "run")) == step
  one = _start(tmp_path / "run", _STEPS, 1)
  outputs = _finish(one)
  assert one[0].returncode == 0, outputs
  _assert_equal(_params(tmp_path / "run"), _params(whole))
  chex.assert_trees_all_close(_losses(whole), _losses(tmp_path / "run"), rtol=1e-6)


def test_own_errors_are_not_mistaken():
  assert not processes.lost_another(FileNotFoundError("No such file: peer.npz"))
  assert not processes.lost_another(ValueError("The data are broken."))
  assert processes.lost_another(
    ValueError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer")
  )
