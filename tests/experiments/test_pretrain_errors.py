"""Wrong flags end in under five seconds with a sentence that says what to do."""

import os
import subprocess
import sys
import time

from absl import flags
import pytest

from experiments import pretrain
from experiments.command_line import command
from experiments.command_line import config as config_lib
from tests.experiments import demo_data

_SECONDS = 5.0


def _parse(*arguments: str) -> flags.FlagValues:
  values = flags.FlagValues()
  pretrain.define_flags(values)
  values(["pretrain", *arguments])
  return values


def _complaint(*arguments: str) -> str:
  """What the program would say."""
  values = _parse(*arguments)
  with pytest.raises(command.FlagError) as error:
    _, mixture = pretrain.check_flags(values)
    pretrain.make_config(values, mixture)
  return str(error.value)


def _fail(*arguments: str) -> str:
  """Runs the program; returns its complaint."""
  start = time.perf_counter()
  process = subprocess.run(
    [sys.executable, "-m", "experiments.pretrain", *arguments],
    cwd=demo_data.ROOT,
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  seconds = time.perf_counter() - start
  assert process.returncode == 1, process.stdout + process.stderr
  lines = [line for line in process.stderr.splitlines() if line.strip()]
  assert len(lines) == 2 and lines[0].startswith("error: "), process.stderr
  assert seconds < _SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
  return lines[0]


def test_data_flags(datasets, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  ani1x = datasets["ani1x"]
  for arguments, message in [
    ([], "--workdir is required"),
    ([workdir], "name converted datasets with --datasets"),
    ([workdir, "--datasets=a=/no/where"], "/no/where of 'a' does not exist"),
    ([workdir, f"--datasets=a={tmp_path}"], "dataset_info.json does not exist"),
    ([workdir, f"--datasets=a={ani1x},a={ani1x}"], "more than once"),
    ([workdir, f"--datasets={ani1x}"], "NAME=DIRECTORY[:WEIGHT]"),
    ([workdir, f"--datasets=a={ani1x}:2,b={ani1x}"], "every dataset a weight or none"),
    ([workdir, "--convert=a=oc20"], "NAME=CONVERTER:INPUT"),
    ([workdir, "--convert=a=oc21:x"], "there is no converter 'oc21'; there are"),
    ([workdir, "--convert=a=oc20:/no/where"], "/no/where of 'a' does not exist"),
  ]:
    assert message in _complaint(*arguments), arguments
  # Nothing was written.
  assert not (tmp_path / "run").exists()


def test_other_flags(datasets, tmp_path):
  base = [
    f"--workdir={tmp_path / 'run'}",
    demo_data.dataset_flag(datasets),
    "--num_steps=100",
    "--warmup_steps=1",
  ]
  for flag, message in [
    ("--warmup_steps=100", "shorten the warm-up or train for longer"),
    ("--force_coefficients=oc22=1", "names oc22, but the datasets are oc20, ani1x"),
    ("--force_coefficients=many", "neither VALUE nor NAME=VALUE"),
    ("--model_override=depth=3", "FIELD one of atom_channels"),
    ("--model_override=num_blocks=few", "should be of type int"),
    ("--budget=atoms=3", "FIELD one of num_graphs"),
    ("--learning_rate_factors=head", "PATTERN=FACTOR"),
  ]:
    assert message in _complaint(*base, flag), flag
  assert not (tmp_path / "run").exists()


def test_the_program_fails_fast_with_two_lines(datasets, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  for arguments, message in [
    ([workdir, "--datasets=a=/no/where"], "/no/where of 'a' does not exist"),
    ([workdir, demo_data.dataset_flag(datasets)], "shorten the warm-up"),
    ([workdir, "--ema_decay=1"], "expected a number, at least 0 and below 1"),
    ([workdir, "extra"], "unexpected argument 'extra'"),
    ([workdir, "--precison=float32"], "Did you mean --precision?"),
  ]:
    assert message in _fail(*arguments)


def test_directory_of_another_run(datasets, tmp_path):
  arguments = [
    f"--workdir={tmp_path}",
    demo_data.dataset_flag(datasets),
    *demo_data.TINY_FLAGS,
    "--num_steps=10",
  ]
  values = _parse(*arguments)
  _, mixture = pretrain.check_flags(values)
  config_lib.store(pretrain.make_config(values, mixture), tmp_path)
  message = _fail(*arguments, "--precision=bfloat16", "--temperature=1")
  assert "precision: 'float32' → 'bfloat16'" in message
  assert "temperature: 2.0 → 1.0" in message and "another directory" in message
