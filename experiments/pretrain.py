"""Joint pre-training on a mixture of datasets.

  python -m experiments.pretrain --flagfile=experiments/flags/pretrain_demo.flags

Running it again with the same --workdir continues. See `--help` for the flags.
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
from experiments.command_line import model_flags
from experiments.command_line import training_flags
from experiments.command_line import workdir as workdir_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import mixture
from jmp_hk.runtime import configuration
from jmp_hk.runtime import processes

# Wrong flags and bad data: one line without a traceback.
_EXPECTED_ERRORS = (
  config_lib.FlagError,
  processes.ConnectionFailedError,
  *conversions.ERRORS,
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  data_flags.define(values)
  model_flags.define_model(values)
  model_flags.define_loss(values)
  training_flags.define_optimizer(values)
  training_flags.define_run(values)
  training_flags.define_environment(values)


def make_config(
  values: flags.FlagValues, workdir: pathlib.Path
) -> config_lib.RunConfig:
  """Turns flags into the config of the run; its datasets must be converted.

  Raises:
    FlagError: flags that cannot be used.
  """
  made = data_flags.conversions(values)
  datasets = data_flags.datasets(values, made, workdir)
  infos = {dataset.name: data_flags.load_info(dataset) for dataset in datasets}
  model = model_lib.ModelConfig(
    backbone=model_flags.backbone(values),
    tasks=model_flags.make_tasks(values, infos),
    precision=values.precision,
  )
  try:
    opened = datasets_lib.open_datasets(datasets, model.tasks)
    chances = mixture.probabilities(opened, values.temperature)
  except ValueError as error:
    raise config_lib.FlagError(f"--datasets: {error}") from error
  draws = values.num_epochs * mixture.epoch_length(opened, chances)
  num_steps = values.num_steps or round(
    draws / (values.num_microbatches * values.batch_size)
  )
  return config_lib.RunConfig(
    datasets=datasets,
    conversions=made,
    model=model,
    loss=model_flags.loss(values),
    pipeline=data_flags.pipeline(values),
    budget=data_flags.budget(values),
    train=training_flags.train(values, num_steps),
    validation=data_flags.validation(values),
  )


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
  workdir = pathlib.Path(values.workdir)
  made = data_flags.conversions(values)
  datasets = data_flags.datasets(values, made, workdir)
  model_flags.backbone(values)
  model_flags.force_coefficients(values, [dataset.name for dataset in datasets])
  data_flags.budget(values)
  if values.num_steps:
    training_flags.train(values, values.num_steps)
  return workdir


def convert_raw_data(values: flags.FlagValues, workdir: pathlib.Path) -> None:
  """Converts what --convert names; what is done already stays."""
  made = data_flags.conversions(values)
  directories = {
    dataset.name: dataset.directory
    for dataset in data_flags.datasets(values, made, workdir)
  }
  conversions.run(made, directories, "experiments.pretrain")


def run(values: flags.FlagValues) -> None:
  """Runs the pre-training that the flags describe.

  Raises:
    FlagError: flags that cannot be used.
  """
  workdir = check_flags(values)
  started = training_flags.environment_config(values)
  configuration.configure(started)
  processes.connect(started)
  with processes.ends_together(_EXPECTED_ERRORS):
    _run(values, workdir)
    processes.wait_for_all("done")


def _run(values: flags.FlagValues, workdir: pathlib.Path) -> None:
  """`run`, with jax started."""
  if processes.is_first():
    convert_raw_data(values, workdir)
  processes.wait_for_all("converted")
  config = make_config(values, workdir)
  if processes.is_first():
    config_lib.store(config, workdir)
    workdir_lib.save_flags(workdir, values)
  from experiments import session  # Imports TensorFlow.

  session.run(config, workdir)
  logging.info("Done: %s", workdir)


def main(argv: Sequence[str]) -> int:
  """Runs the command line; wrong flags give one line and exit code 1."""
  return command.run_main(run, argv, lambda: _EXPECTED_ERRORS)


if __name__ == "__main__":
  define_flags()
  app.run(main)
