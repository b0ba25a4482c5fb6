"""Fine-tuning on one task, from a trained backbone or from scratch.

  python -m experiments.finetune --task=qm9_u0 --data=converted/qm9 \
      --checkpoint=runs/jmp_l --workdir=runs/qm9_u0
  python -m experiments.finetune --target=energy=energy \
      --target=forces=conservative_forces --train_data=mine.extxyz \
      --checkpoint=jmp-s.pt --workdir=runs/mine

`--task` reads the flag file of that name in experiments/flags/finetune; flags that are
given on the command line override it. `--train_data` takes files of your own as they
are; `--data` takes what `python -m data.convert` made. Running it again with the same
--workdir continues. At the end the best weights are evaluated on the test split.
`--num_members=N` trains a committee of N models with different seeds.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import flags
from absl import logging

from data.command_line import program as program_lib
from data.records import datasets as datasets_lib
from experiments.command_line import command
from experiments.command_line import config as config_lib
from experiments.command_line import conversions
from experiments.command_line import data_flags
from experiments.command_line import finetune_flags
from experiments.command_line import model_flags
from experiments.command_line import runtime_flags
from experiments.command_line import schedule_flags
from experiments.command_line import tasks as declarations
from experiments.command_line import training_flags
from jmp_hk import dataset_info
from jmp_hk import names as names_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import processes
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.training import config as train_config
from jmp_hk.training import metrics

FLAG_FILES = pathlib.Path(__file__).parent / "flags" / "finetune"


def with_task_file(arguments: Sequence[str]) -> list[str]:
  """Puts the flag file of --task, where it is given, before the other arguments.

  Args:
    arguments: the command line without the program.
  """
  # --task=NAME and --task NAME are both common.
  pairs = zip(arguments, [*arguments[1:], ""], strict=True)
  names = [
    text.partition("=")[2] or following
    for text, following in pairs
    if text.lstrip("-").partition("=")[0] == "task" and text.startswith("-")
  ]
  known = [name for name in names if not names_lib.find_problem(name)]
  files = [FLAG_FILES / f"{name}.flags" for name in known]
  return [*(f"--flagfile={path}" for path in files if path.is_file()), *arguments]


def run(values: flags.FlagValues) -> None:
  """Runs the fine-tuning that the flags describe.

  Raises:
    FlagError: flags that cannot be used.
  """
  with runtime_flags.running(values, runtime_flags.expected_errors):
    workdir, data = check_flags(values)
    from jmp_hk.training import preflight  # Slow to import.

    preflight.check_directory(workdir)
    directories = member_directories(values, workdir)
    data.convert("experiments.finetune")
    config = make_config(values, data)
    from experiments.reports import result  # Slow to import.

    for member, directory in enumerate(directories):
      if len(directories) > 1:
        logging.info("Member %d of %d: %s", member + 1, len(directories), directory)
      own = with_seed(config, config.trainer.train.seed + member)
      config_lib.train(own, directory, values, test_split=values.test_split)
      if processes.is_first():
        result.test(own, directory, values.test_split, values.fold)
    if len(directories) > 1 and processes.is_first():
      result.test_committee(config, directories, workdir, values.test_split)


def member_directories(
  values: flags.FlagValues, workdir: pathlib.Path
) -> list[pathlib.Path]:
  """Directories of the runs that --num_members asks for, see `members.directories`.

  Raises:
    FlagError: --workdir holds another number of models.
  """
  from jmp_hk.checkpoints import members  # Slow to import.

  try:
    return members.directories(workdir, values.num_members)
  except ValueError as error:
    raise command.FlagError(f"--workdir and --num_members: {error}") from error


def with_seed(config: config_lib.RunConfig, seed: int) -> config_lib.RunConfig:
  """The configuration of a run with another seed."""
  train = dataclasses.replace(config.trainer.train, seed=seed)
  return dataclasses.replace(
    config, trainer=dataclasses.replace(config.trainer, train=train)
  )


def check_flags(
  values: flags.FlagValues,
) -> tuple[pathlib.Path, conversions.Data]:
  """Checks what can be checked without converted data.

  Returns:
    The working directory, and where the data lie.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  workdir = pathlib.Path(finetune_flags.directory(values, "workdir"))
  task = tasks_lib.TaskConfig("data", finetune_flags.targets(values))
  data = finetune_flags.read_data(values, workdir, _graph(values, task))
  if not data.conversions:
    split = datasets_lib.DatasetConfig("data", data.directory)
    task = make_task(values, data_flags.load_info(split, "--data"))
  data_flags.budget(values, make_backbone(values, task))
  return workdir, data


def make_config(
  values: flags.FlagValues, data: conversions.Data
) -> config_lib.RunConfig:
  """Turns flags into the configuration of the run.

  Args:
    values: parsed flags.
    data: where the data lie, which must be converted.

  Raises:
    FlagError: flags that cannot be used.
  """
  split = datasets_lib.DatasetConfig("data", data.directory, split=values.train_split)
  info = data_flags.load_info(split, "--data")
  data_flags.check_splits(
    values, info, ("train_split", "validation_splits", "test_split")
  )
  task = make_task(values, info)
  dataset = dataclasses.replace(
    split, name=task.name, truncation=_truncation(values, task, info.graph)
  )
  backbone = make_backbone(values, task)
  try:
    (opened,) = datasets_lib.open_datasets((dataset,), (task,))
  except ValueError as error:
    raise command.FlagError(f"--data: {error}") from error
  return config_lib.RunConfig(
    datasets=(dataset,),
    trainer=train_config.TrainerConfig(
      model=model_lib.ModelConfig(
        backbone, (task,), values.precision, stress=task.is_conservative
      ),
      train=schedule_flags.train(
        values, backbone, opened.num_structures, metrics.primary_metric(task)
      ),
      budget=data_flags.budget(values, backbone),
      loss=model_flags.loss(values),
      pipeline=data_flags.pipeline(values),
      validation_limit=values.validation_limit,
      initial=training_flags.initial(values),
    ),
    conversions=tuple(
      dataclasses.replace(conversion, dataset=task.name)
      for conversion in data.conversions
    ),
    validation_splits=tuple(values.validation_splits),
  )


def make_task(
  values: flags.FlagValues, info: dataset_info.DatasetInfo
) -> tasks_lib.TaskConfig:
  """The task on converted data.

  Raises:
    FlagError: the data lack its labels.
  """
  try:
    targets = declare.with_classes(finetune_flags.targets(values), info)
  except command.FlagError:
    raise
  except ValueError as error:
    raise command.FlagError(f"--target: {error}") from error
  name = values.task or values.name or info.name
  if not values.task and name in declarations.TASKS:
    name = f"own_{name}"  # Not to be compared with what is published.
  return tasks_lib.TaskConfig(name, targets)


def make_backbone(
  values: flags.FlagValues, task: tasks_lib.TaskConfig
) -> backbone_lib.BackboneConfig:
  """The backbone of the checkpoint, or --model.

  Raises:
    FlagError: the checkpoint cannot be read, or the flags contradict it.
  """
  trained = None
  if values.checkpoint:
    trained = _read_checkpoint(values)[0].backbone
  return finetune_flags.backbone(values, trained, edges=task.needs_edges)


def _graph(
  values: flags.FlagValues, task: tasks_lib.TaskConfig
) -> graph_config.GraphConfig:
  """Graph settings of --train_data where flags give none.

  Those of the heads of --checkpoint where they agree, else the defaults.
  """
  if not values.checkpoint:
    truncation = graph_config.Truncation.of_new_model(
      is_conservative=task.is_conservative
    )
    return graph_config.GraphConfig(truncation=truncation)
  if not values.train_data:
    return graph_config.GraphConfig()
  return _graph_of_heads(values)


def _truncation(
  values: flags.FlagValues,
  task: tasks_lib.TaskConfig,
  converted: graph_config.GraphConfig,
) -> graph_config.Truncation | None:
  """The truncation in place of that of the converted data, None to keep it.

  Without --truncation, data that were converted with another than the published one
  keep it. So do models that start from a checkpoint, and tasks of the paper; other
  models get what suits their forces.
  """
  kept = converted.truncation
  if values.truncation:
    chosen = graph_config.Truncation(values.truncation)
  elif kept is not graph_config.Truncation.PUBLISHED:
    chosen = kept
  elif values.checkpoint:
    chosen = _graph_of_heads(values).truncation
  elif values.task:
    chosen = kept
  else:
    chosen = graph_config.Truncation.of_new_model(is_conservative=task.is_conservative)
  return None if chosen is kept else chosen


def _graph_of_heads(values: flags.FlagValues) -> graph_config.GraphConfig:
  """What the graphs of all heads of --checkpoint have in common."""
  infos = _read_checkpoint(values)[1].values()
  return graph_config.common(info.graph for info in infos)


def _read_checkpoint(
  values: flags.FlagValues,
) -> tuple[model_lib.ModelConfig, dict[str, dataset_info.DatasetInfo]]:
  """Configuration and constants of the model that --checkpoint names.

  Raises:
    FlagError: there is none.
  """
  from jmp_hk.checkpoints import loading  # Slow to import.
  from jmp_hk.checkpoints import model_directory

  try:
    return loading.read_description(values.checkpoint)
  except model_directory.CheckpointError as error:
    raise command.FlagError(f"--checkpoint: {error}") from error


PROGRAM = program_lib.Program(
  name="experiments.finetune",
  description=__doc__,
  define_flags=finetune_flags.define,
  run=run,
  required=("workdir",),
  errors=runtime_flags.expected_errors,
  complete=with_task_file,
)

if __name__ == "__main__":
  PROGRAM.start()
