"""Flags of the fine-tuning demo."""

import pathlib

from absl import flags
import pytest

from experiments import finetune_demo
from experiments.command_line import command
from experiments.command_line import finetune_flags
from experiments.command_line import tasks
from tests.experiments import demo_data
from tests.experiments import finetune_data

_FILES = sorted(
  path for path in finetune_demo.FLAG_FILES.glob("*.flags") if path.stem != "common"
)


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_flag_files_name_shipped_data(path, monkeypatch):
  monkeypatch.chdir(demo_data.ROOT)
  values = finetune_data.parse(f"--flagfile={path}", "--workdir=w")
  data = finetune_flags.read_data(values, pathlib.Path("w"))
  assert pathlib.Path(data.conversions[0].input).exists()
  assert finetune_flags.targets(values)
  # Its labels are not the paper's, so neither may its name be.
  assert values.name.startswith("demo_") and values.name not in tasks.TASKS


def test_both_starts_have_the_same_budget(monkeypatch, tmp_path):
  monkeypatch.chdir(demo_data.ROOT)
  values = _demo(f"--checkpoint={tmp_path}", "--workdir=w", "--tasks=rmd17")
  scratch, tuned = (
    finetune_demo._flags(values, "rmd17", start, tmp_path / start)
    for start in (finetune_demo.SCRATCH, finetune_demo.FINE_TUNED)
  )
  differences = {name for name in scratch if scratch[name].value != tuned[name].value}
  assert differences == {"workdir", "checkpoint"}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--checkpoint=nowhere", "--workdir=w", "--tasks=rmd17"], "pre-training demo"),
    (["--workdir=w", "--tasks=rmd17"], "--checkpoint is required"),
    (["--checkpoint=.", "--workdir=w", "--tasks=rmd18"], "no 'rmd18' among"),
  ],
)
def test_wrong_flags_say_what_to_do(arguments, message):
  with pytest.raises(command.FlagError, match=message):
    finetune_demo.run(_demo(*arguments))


def _demo(*arguments: str) -> flags.FlagValues:
  """Parses arguments of the demo."""
  values = flags.FlagValues()
  finetune_demo.define_flags(values)
  values(["finetune_demo", *arguments])
  return values
