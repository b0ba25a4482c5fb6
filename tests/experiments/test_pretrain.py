"""Pre-training on real data: outputs, kill -9, restart, several devices."""

import json
import os
import pathlib
import shutil
import signal
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
  "--dropout=0.1",
  "--keep_last=9",
)


def _command(workdir: pathlib.Path, datasets, *arguments: str) -> list[str]:
  return [
    sys.executable,
    "-m",
    "experiments.pretrain",
    f"--workdir={workdir}",
    demo_data.dataset_flag(datasets),
    *_FLAGS,
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


def test_killed_at_any_moment_it_continues_as_if_nothing_had_happened(
  whole, datasets, tmp_path
):
  process = subprocess.Popen(
    _command(tmp_path, datasets),
    cwd=demo_data.ROOT,
    env=_environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  while process.poll() is None and not any(l["step"] >= 8 for l in _lines(tmp_path)):
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  _run(tmp_path, datasets)
  # Data order, dropout, weights and their average: every number is the same.
  assert _lines(tmp_path) == _lines(whole[0])
  ours, theirs = (
    model_directory.load_model_directory(path, step=12).variables
    for path in (tmp_path, whole[0])
  )
  chex.assert_trees_all_equal(ours, theirs)


def test_two_devices_continue_with_the_same_curve(whole, datasets, tmp_path):
  # From the checkpoint of step 3 of the run on one device.
  workdir = tmp_path / "run"
  shutil.copytree(whole[0], workdir)
  for path in (workdir / model_directory.CHECKPOINTS).iterdir():
    if path.name not in ("0", "3"):
      shutil.rmtree(path)
  _run(workdir, datasets, devices=2)
  assert len(_lines(workdir)) == len(_lines(whole[0]))
  for ours, theirs in zip(_lines(workdir), _lines(whole[0])):
    for name in set(ours) - {"kind"}:
      assert ours[name] == pytest.approx(theirs[name], rel=2e-3, abs=1e-6), name
