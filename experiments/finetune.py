"""Fine-tuning on one task, from a trained backbone or from scratch.

  python -m experiments.finetune --task=qm9_u0 --data=converted/qm9 \
      --checkpoint=runs/jmp_l --workdir=runs/qm9_u0
  python -m experiments.finetune --target=gap=scalar,reduction=mean \
      --data=converted/mine --checkpoint=runs/jmp_l --workdir=runs/gap

`--task` reads the flag file of that name in experiments/flags/finetune; further flags
on the command line count more. Running it again with the same --workdir continues. At
the end the best weights are evaluated on the test split. See `--help` for the flags.
"""

from collections.abc import Sequence
import pathlib

from absl import app
from absl import flags
from absl import logging

from data.records import datasets as datasets_lib
from experiments.command_line import command
from experiments.command_line import config as config_lib
from experiments.command_line import conversions
from experiments.command_line import data_flags
from experiments.command_line import finetune_flags
from experiments.command_line import model_flags
from experiments.command_line import tasks as declarations
from experiments.command_line import training_flags
from experiments.command_line import workdir as workdir_lib
from jmp_hk import dataset_info as info_lib
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import configuration
from jmp_hk.runtime import processes
from jmp_hk.targets import config as tasks_lib

FLAG_FILES = pathlib.Path(__file__).parent / "flags" / "finetune"

# Wrong flags and bad data: one line without a traceback.
EXPECTED_ERRORS = (
  config_lib.FlagError,
  processes.ConnectionFailedError,
  *conversions.ERRORS,
)


def parse_flags(
  argv: Sequence[str], values: flags.FlagValues = flags.FLAGS
) -> list[str]:
  """Parses the command line; --task puts its flag file first.

  Args:
    argv: program and arguments.
    values: where the flags are defined.

  Returns:
    The arguments that are no flags.
  """
  program, *arguments = argv
  names = [a.split("=", 1)[1] for a in arguments if a.lstrip("-").startswith("task=")]
  files = [FLAG_FILES / f"{name}.flags" for name in names]
  read = [f"--flagfile={path}" for path in files if path.is_file()]
  return values([program, *read, *arguments])


def make_config(
  values: flags.FlagValues, workdir: pathlib.Path
) -> config_lib.RunConfig:
  """Turns flags into the config of the run; its dataset must be converted.

  Raises:
    FlagError: flags that cannot be used.
  """
  from jmp_hk.training import metrics  # Imports jax.

  directory = finetune_flags.dataset(values, workdir)
  split = datasets_lib.DatasetConfig("data", directory, split=values.train_split)
  info = data_flags.load_info(split, "--data")
  task = make_task(values, info)
  dataset = datasets_lib.DatasetConfig(
    task.name, directory, split=values.train_split
  )
  model = make_model(values, task)
  try:
    (opened,) = datasets_lib.open_datasets((dataset,), model.tasks)
  except ValueError as error:
    raise config_lib.FlagError(f"--data: {error}") from error
  made = finetune_flags.conversion(values, task.name)
  return config_lib.RunConfig(
    datasets=(dataset,),
    conversions=(made,) if made else (),
    model=model,
    loss=model_flags.loss(values),
    pipeline=finetune_flags.pipeline(values),
    budget=data_flags.budget(values),
    train=finetune_flags.train(
      values, model, opened.num_structures, metrics.primary_metric(task)
    ),
    validation=data_flags.validation(values),
    initial=initial(values),
  )


def make_task(
  values: flags.FlagValues, info: info_lib.DatasetInfo
) -> tasks_lib.TaskConfig:
  """The task on converted data.

  Raises:
    FlagError: the data lack its labels.
  """
  targets = declarations.with_classes(finetune_flags.targets(values), info)
  name = values.task or values.name or info.name
  if not values.task and name in declarations.TASKS:
    name = f"own_{name}"  # Not to be compared with what is published.
  return tasks_lib.TaskConfig(name, targets)


def make_model(
  values: flags.FlagValues, task: tasks_lib.TaskConfig
) -> model_lib.ModelConfig:
  """The backbone of the checkpoint, or --model, with the heads of the task.

  Raises:
    FlagError: the checkpoint cannot be read, or the flags contradict it.
  """
  trained = None
  if values.checkpoint:
    from jmp_hk.checkpoints import model_directory  # Imports jax.

    try:
      path = model_directory.find_checkpoint(values.checkpoint)
      trained = model_directory.read_description(path)[0].backbone
    except model_directory.CheckpointError as error:
      raise config_lib.FlagError(f"--checkpoint: {error}") from error
  return model_lib.ModelConfig(
    backbone=finetune_flags.backbone(values, trained, edges=task.needs_edges),
    tasks=(task,),
    precision=values.precision,
    stress=task.is_conservative,
  )


def initial(values: flags.FlagValues) -> config_lib.InitialConfig | None:
  """Where the backbone comes from."""
  if not values.checkpoint:
    return None
  return config_lib.InitialConfig(values.checkpoint, values.ema)


def check_flags(values: flags.FlagValues) -> pathlib.Path:
  """Checks what can be checked without converted data.

  Returns:
    The working directory.

  Raises:
    FlagError: flags that cannot be used.
  """
  if not values.workdir:
    raise config_lib.FlagError(
      "--workdir is required: name a directory for the outputs of the run."
    )
  workdir = pathlib.Path(finetune_flags.directory(values, "workdir"))
  task = tasks_lib.TaskConfig("data", finetune_flags.targets(values))
  directory = finetune_flags.dataset(values, workdir)
  if not finetune_flags.conversion(values, task.name):
    split = datasets_lib.DatasetConfig("data", directory)
    info = data_flags.load_info(split, "--data")
    task = make_task(values, info)
  make_model(values, task)
  data_flags.budget(values)
  return workdir


def convert_raw_data(values: flags.FlagValues, workdir: pathlib.Path) -> None:
  """Converts what --convert names, unless that is done."""
  made = finetune_flags.conversion(values, "data")
  if made:
    directories = {"data": finetune_flags.dataset(values, workdir)}
    conversions.run([made], directories, "experiments.finetune")


def run(values: flags.FlagValues) -> None:
  """Runs the fine-tuning that the flags describe.

  Raises:
    FlagError: flags that cannot be used.
  """
  started = training_flags.environment_config(values)
  configuration.configure(started)
  processes.connect(started)
  with processes.ends_together(EXPECTED_ERRORS):
    _run(values)
    processes.wait_for_all("done")


def _run(values: flags.FlagValues) -> None:
  """`run`, with jax started."""
  workdir = check_flags(values)
  if processes.is_first():
    convert_raw_data(values, workdir)
  processes.wait_for_all("converted")
  config = make_config(values, workdir)
  if processes.is_first():
    config_lib.store(config, workdir)
    workdir_lib.save_flags(workdir, values)
  from experiments import session  # Imports TensorFlow.

  session.run(config, workdir)
  if processes.is_first():
    from experiments import finetune_results

    finetune_results.evaluate(config, workdir, values.test_split, values.fold)
  logging.info("Done: %s", workdir)


def main(argv: Sequence[str]) -> int:
  """Runs the command line; wrong flags give one line and exit code 1."""
  return command.run_main(run, argv, lambda: EXPECTED_ERRORS)


if __name__ == "__main__":
  finetune_flags.define()
  app.run(main, flags_parser=parse_flags)
