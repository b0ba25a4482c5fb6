"""Pre-training on real data: outputs, kill -9, restart, processes, devices."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from jmp_hk.checkpoints import model_directory
from jmp_hk.training import plot
from jmp_hk.training import writers
from tests import compiling
from tests import schnet  # noqa: F401  Loads the checkpoints of `_SMALL`.
from tests.experiments import demo_data

_TIMING = ("seconds", "steps_per_second", "structures_per_second")
_FLAGS = (
  *demo_data.TINY_FLAGS,
  "--num_steps=12",
  "--batch_size=12",
  "--num_microbatches=2",
  "--log_every=1",
  "--evaluate_every=6",
  "--checkpoint_every=3",
  "--edge_dropout=0.1",
  "--keep_last=9",
)

# A backbone of the tests, which is compiled in a few seconds and takes quick steps.
_SMALL_STEPS = 24
_SMALL = (
  "--model=schnet_tiny",
  f"--num_steps={_SMALL_STEPS}",
  "--model_override=num_blocks=1,atom_channels=8,num_radial=4",
)
_WITH_SCHNET = (
  "import runpy, tests.schnet; "
  "runpy.run_module('experiments.pretrain', run_name='__main__', alter_sys=True)"
)


def _command(workdir: pathlib.Path, datasets, *arguments: str) -> list[str]:
  """The program with its flags; with those of `_SMALL`, the program that knows it."""
  is_small = set(_SMALL) <= set(arguments)
  return [
    sys.executable,
    *(("-c", _WITH_SCHNET) if is_small else ("-m", "experiments.pretrain")),
    f"--workdir={workdir}",
    demo_data.dataset_flag(datasets),
    *(flag for flag in _FLAGS if not (is_small and flag.startswith("--model"))),
    *arguments,
  ]


def _environment(devices: int = 1) -> dict[str, str]:
  flag = f"--xla_force_host_platform_device_count={devices}"
  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": compiling.with_flag(flag),
    "JAX_COMPILATION_CACHE_DIR": str(demo_data.ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_LOG_COMPILES": "1",
  }


def _run(workdir: pathlib.Path, datasets, *arguments: str, devices: int = 1) -> str:
  process = subprocess.run(
    _command(workdir, datasets, *arguments),
    cwd=demo_data.ROOT,
    text=True,
    capture_output=True,
    env=_environment(devices),
  )
  assert process.returncode == 0, process.stderr
  return process.stdout + process.stderr


def _lines(workdir: pathlib.Path) -> list[dict]:
  lines = writers.read_metrics(workdir / writers.METRICS_FILE)
  return [{k: v for k, v in line.items() if k not in _TIMING} for line in lines]


def _variables(workdir: pathlib.Path, step: int = 12):
  return model_directory.load_model_directory(workdir, step=step).variables


@pytest.fixture(name="whole", scope="module")
def _whole(datasets, tmp_path_factory):
  """A finished run and what it printed."""
  workdir = tmp_path_factory.mktemp("whole")
  return workdir, _run(workdir, datasets)


def test_a_run_leaves_everything_below_its_directory(whole):
  workdir, output = whole
  files = {path.name for path in workdir.iterdir()}
  assert {
    "flags.txt",
    "config.json",
    "budget.json",
    writers.METRICS_FILE,
    plot.PLOT_FILE,
    "results.json",
    writers.TENSORBOARD_DIRECTORY,
    model_directory.CHECKPOINTS,
  } <= files
  lines = _lines(workdir)
  assert [l["step"] for l in lines if l["kind"] == "train"] == list(range(1, 13))
  last = [l for l in lines if l["kind"] == "val"][-1]
  for name in ("oc20", "ani1x"):
    for metric in (
      "energy_mae_mev",
      "energy_mae_mev_per_atom",
      "force_mae_mev_per_angstrom",
      "force_cosine",
    ):
      assert np.isfinite(last[f"{name}/{metric}"])
  for text in ("structures/s", "ETA", "meV/Å", "% full", "baseline", "Next:"):
    assert text in output
  # The linear fit stands beside the model, and scale factors were fitted.
  results = json.loads((workdir / "results.json").read_text())
  assert set(results["validation"]) - {"step"} == set(results["linear_fit"])
  model = model_directory.load_model_directory(workdir)
  assert all(x > 0 for x in jax.tree.leaves(model.variables.scales))
  assert list(model.infos) == ["oc20", "ani1x"]


def test_every_step_function_is_compiled_once(whole):
  _, output = whole
  for name in ("train_step", "eval_step"):
    assert output.count(f"Compiling jit({name}) ") == 1, name


def _killed(whole, directory: pathlib.Path) -> pathlib.Path:
  """A copy of the run, as if it had been killed before its checkpoint of step 12."""
  workdir = directory / "run"
  shutil.copytree(whole[0], workdir)
  for path in (workdir / model_directory.CHECKPOINTS).iterdir():
    if int(path.name) > 9:
      shutil.rmtree(path)
  return workdir


def test_continued_it_goes_on_as_if_nothing_had_happened(whole, datasets, tmp_path):
  workdir = _killed(whole, tmp_path)
  _run(workdir, datasets)
  # Data order, dropout, weights and their average: every number is the same.
  assert _lines(workdir) == _lines(whole[0])
  chex.assert_trees_all_equal(_variables(workdir), _variables(whole[0]))


def test_two_devices_equal_one(whole, datasets, tmp_path):
  workdir = _killed(whole, tmp_path)
  _continue_on_two_of_three_devices(workdir, datasets)
  _assert_equal_runs(workdir, whole[0], 12)


def _continue_on_two_of_three_devices(workdir, datasets, *arguments: str) -> None:
  """One process with three devices goes on.

  It trains on as many as get a microbatch, and validates on all.
  """
  output = _run(workdir, datasets, *arguments, devices=3)
  assert "2 of 3 devices are used" in output
  assert " on 2 devices (cpu); validation uses 3." in output


def _assert_equal_runs(ours: pathlib.Path, theirs: pathlib.Path, step: int) -> None:
  """Checks that metrics and the weights of the last step are equal to rounding."""
  _assert_close(_lines(ours), _lines(theirs))
  chex.assert_trees_all_close(
    _variables(ours, step), _variables(theirs, step), rtol=1e-4, atol=1e-6
  )


def test_two_processes_of_which_one_is_killed_and_two_devices_equal_one(
  datasets, tmp_path
):
  _run(tmp_path / "whole", datasets, *_SMALL)
  workdir, victim = tmp_path / "run", random.randrange(2)
  logs = [tmp_path / f"{index}.log" for index in range(2)]
  started = _start_two(workdir, datasets, logs)
  step = random.randint(1, _SMALL_STEPS // 2)
  while not any(line["step"] >= step for line in _lines(workdir)):
    assert started[0].poll() is None and started[1].poll() is None
    time.sleep(0.005)
  time.sleep(0.1 * random.random())
  started[victim].kill()
  codes = [process.wait() for process in started]
  outputs = [path.read_text() for path in logs]
  case = f"Process {victim} was killed after step {step}: {outputs}"
  # The other one ends too, and says why in its last line.
  assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1, case
  last = outputs[1 - victim].splitlines()[-1]
  assert "because another process of this run has ended" in last, case
  for dump in ("Fatal Python error", "stack trace", "Traceback"):
    assert dump not in outputs[1 - victim], case
  _continue_on_two_of_three_devices(workdir, datasets, *_SMALL)
  _assert_equal_runs(workdir, tmp_path / "whole", _SMALL_STEPS)


def _start_two(workdir, datasets, logs) -> list[subprocess.Popen]:
  """Starts a run of two processes, which write to the given files."""
  with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
  started = []
  for index, path in enumerate(logs):
    flags = (
      f"--coordinator_address=127.0.0.1:{port}",
      "--num_processes=2",
      f"--process_id={index}",
    )
    with path.open("w") as file:
      started.append(
        subprocess.Popen(
          _command(workdir, datasets, *_SMALL, *flags),
          cwd=demo_data.ROOT,
          env=_environment() | {"JAX_LOG_COMPILES": "0"},
          stdout=file,
          stderr=subprocess.STDOUT,
        )
      )
  return started


def _assert_close(ours: list[dict], theirs: list[dict]) -> None:
  """Checks that metrics are equal to rounding in float32."""
  assert len(ours) == len(theirs)
  for left, right in zip(ours, theirs):
    assert set(left) == set(right)
    for name in set(left) - {"kind"}:
      assert left[name] == pytest.approx(right[name], rel=5e-6, abs=1e-7), name
