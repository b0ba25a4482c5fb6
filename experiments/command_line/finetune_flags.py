"""Flags about fine-tuning: task, data, start, schedule in epochs."""

import dataclasses
import pathlib

from absl import flags

from data.command_line import flag_help
from experiments.command_line import command
from experiments.command_line import conversions
from experiments.command_line import data_flags
from experiments.command_line import model_flags
from experiments.command_line import own_data
from experiments.command_line import runtime_flags
from experiments.command_line import schedule_flags
from experiments.command_line import tasks as declarations
from experiments.command_line import training_flags
from jmp_hk import serialization
from jmp_hk.graphs import config as graph_config
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib
from jmp_hk.training import config as train_config

_SOURCES = ("data", "convert", "train_data")
# Recipe A of the paper, where it differs from pre-training.
_DEFAULTS = {
  "precision": "float32",
  "edge_dropout": 0.0,
  "structure_wise_loss": False,
  "learning_rate": 8e-5,
  "warmup_steps": 0,
  "warmup_factor": 0.1,
  "clip": train_config.Clip.VALUE,
  "learning_rate_factors": [schedule_flags.PUBLISHED],
  "num_epochs": 500.0,
  "evaluate_every": 0,
  "checkpoint_every": 10_000,
  "primary_metric": "",
  "keep_last": 1,
  "seed": 42,
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of fine-tuning; defaults are the paper's recipe."""
  _define_task(values)
  _define_members(values)
  own_data.define(values)
  _define_data(values)
  training_flags.define_start(values)
  data_flags.define_batches(values)
  model_flags.define_model(values)
  model_flags.define_averages(values)
  training_flags.define_optimizer(values)
  training_flags.define_schedule(values)
  training_flags.define_run(values)
  training_flags.define_intervals(values)
  runtime_flags.define(values)
  schedule_flags.define(values)
  for name, default in _DEFAULTS.items():
    values.set_default(name, default)


@flag_help.group("What is learned")
def _define_task(values: flags.FlagValues) -> None:
  string = lambda name, default, text: flags.DEFINE_string(
    name, default, text, flag_values=values
  )
  string(
    "task",
    "",
    "NAME: Task of the paper, e.g. qm9_u0; for other data use --target. On the "
    "command line it also reads the task's flag file, "
    "experiments/flags/finetune/NAME.flags. "
    f"The tasks are {', '.join(declarations.TASKS)}.",
  )
  flags.DEFINE_multi_string(
    "target",
    [],
    "NAME=KIND[,reduction=sum|mean|max][,coefficient=X][,classes=N][,missing=allowed]"
    "[,key=KEY][,unit=UNIT]: What is learned on data of your own: NAME is a label of "
    "the data, coefficient the factor of its loss. With missing=allowed some "
    "structures may lack the label. Of --train_data, key is the entry that holds the "
    f"label and unit its unit. KIND is one of {', '.join(spec_lib.kinds())}.",
    flag_values=values,
  )
  string(
    "name",
    "",
    "NAME: Name of a task of your own in the model and in reports, by default that of "
    "the data.",
  )


@flag_help.group("What is learned")
def _define_members(values: flags.FlagValues) -> None:
  flags.DEFINE_integer(
    "num_members",
    1,
    "Number of models to train one after another, with the seeds --seed, --seed + 1 "
    "and so on, in WORKDIR/member_0 and so on. Together they are a committee: "
    "--checkpoint=WORKDIR predicts means and standard deviations.",
    lower_bound=1,
    flag_values=values,
  )


@flag_help.group("Data")
def _define_data(values: flags.FlagValues) -> None:
  string = lambda name, default, text: flags.DEFINE_string(
    name, default, text, flag_values=values
  )
  string(
    "data",
    "",
    "DIR: Directory of the converted data (python -m data.convert); {fold} in it "
    "stands for --fold.",
  )
  string(
    "convert",
    "",
    "CONVERTER:INPUT[,OPTION=VALUE]…: Before training, convert INPUT to --data (by "
    "default WORKDIR/data), unless that is done. CONVERTER is a --dataset of python -m "
    "data.convert, options are its flags.",
  )
  flags.DEFINE_integer(
    "fold",
    0,
    "Number that {fold} in --data, --convert and --workdir stands for.",
    lower_bound=0,
    flag_values=values,
  )
  string("train_split", "train", "NAME: Name of the split to train on.")
  string(
    "test_split",
    "test",
    "NAME: Name of the split that the best weights are evaluated on at the end, "
    "if the data have it; empty evaluates on none.",
  )


def directory(values: flags.FlagValues, name: str) -> str:
  """The flag --data, --convert or --workdir with the fold filled in."""
  return str(values[name].value).replace("{fold}", str(values.fold))


def read_data(
  values: flags.FlagValues,
  workdir: pathlib.Path,
  graph: graph_config.GraphConfig = graph_config.GraphConfig(),
) -> conversions.Data:
  """Reads --data, --convert and --train_data.

  Args:
    values: parsed flags.
    workdir: directory of the run, where raw files are converted to without --data.
    graph: graph settings of the checkpoint, for --train_data.

  Raises:
    FlagError: nothing or too much is given, or it cannot be read.
  """
  given = [name for name in _SOURCES if values[name].value]
  if "train_data" in given:
    if len(given) > 1:
      raise command.FlagError(
        "--train_data is converted by itself: leave out --"
        + " and --".join(name for name in given if name != "train_data")
        + "."
      )
    converted = str(pathlib.Path(workdir) / data_flags.CONVERTED)
    return own_data.read(values, converted, targets(values), graph)
  for name in ("val_data", "test_data"):
    if values[name].value:
      raise command.FlagError(f"--{name} needs --train_data beside it.")
  made: tuple[conversions.Conversion, ...] = ()
  if values.convert:
    entry = f"{conversions.DATA}={directory(values, 'convert')}"
    made = (conversions.parse(entry),)
  if values.data:
    return conversions.Data(directory(values, "data"), made)
  if not made:
    raise command.FlagError(
      "No data: name your own file with --train_data=FILE, a converted dataset with "
      "--data=DIR, or raw files with --convert=CONVERTER:INPUT."
    )
  return conversions.Data(str(pathlib.Path(workdir) / data_flags.CONVERTED), made)


def targets(values: flags.FlagValues) -> tuple[tasks_lib.TargetConfig, ...]:
  """What is learned.

  Raises:
    FlagError: neither or both of --task and --target are given, or one is wrong.
  """
  if bool(values.task) == bool(values.target):
    raise command.FlagError(
      "Say what to learn: either --task=NAME, a task of the paper, or "
      "--target=NAME=KIND, a label of your own data; not both."
    )
  if values.task:
    return declarations.find(values.task).targets
  return declarations.parse_targets(values.target)


def backbone(
  values: flags.FlagValues,
  trained: backbone_lib.BackboneConfig | None,
  *,
  edges: bool,
) -> backbone_lib.BackboneConfig:
  """The backbone: that of the checkpoint, else --model.

  Args:
    values: parsed flags.
    trained: backbone of the checkpoint, if there is one.
    edges: whether a head needs embeddings of edges.

  Raises:
    FlagError: --model or --model_override contradict the checkpoint. Those of flag
      files do not count: the recipes name JMP-L's size for training from scratch.
  """
  wanted = model_flags.backbone(values)
  own = {
    "direct_vectors": edges,
    "dropout": values.dropout,
    "edge_dropout": values.edge_dropout,
    "remat": values.remat,
  }
  chosen = dataclasses.replace(trained if trained is not None else wanted, **own)
  is_named = values["model"].present or values["model_override"].present
  if trained is not None and is_named:
    changes = serialization.differences(
      serialization.to_json(chosen),
      serialization.to_json(dataclasses.replace(wanted, **own)),
    )
    if changes:
      raise command.FlagError(
        "--model and --model_override do not fit the backbone of --checkpoint: "
        f"{'; '.join(changes)}. Leave them out, the checkpoint knows its sizes."
      )
  return chosen
