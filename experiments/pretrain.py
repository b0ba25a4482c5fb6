"""Joint pre-training on a mixture of datasets.

  python -m experiments.pretrain --flagfile=experiments/flags/pretrain_demo.flags

Running it again with the same --workdir continues.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib

from absl import flags

from data.command_line import program as program_lib
from data.records import datasets as datasets_lib
from experiments.command_line import command
from experiments.command_line import config as config_lib
from experiments.command_line import data_flags
from experiments.command_line import model_flags
from experiments.command_line import runtime_flags
from experiments.command_line import training_flags
from jmp_hk import dataset_info
from jmp_hk.graphs import config as graph_config
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import config as pipeline_config
from jmp_hk.pipeline import mixture as mixture_lib
from jmp_hk.runtime import processes
from jmp_hk.training import config as train_config


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  data_flags.define(values)
  model_flags.define_model(values)
  model_flags.define_loss(values)
  training_flags.define_optimizer(values)
  training_flags.define_schedule(values)
  training_flags.define_run(values)
  training_flags.define_start(values)
  training_flags.define_intervals(values)
  runtime_flags.define(values)
  values.set_default("packing", pipeline_config.Packing.FULL)


def run(values: flags.FlagValues) -> None:
  """Runs the pre-training that the flags describe.

  Raises:
    FlagError: flags that cannot be used.
  """
  workdir, mixture = check_flags(values)
  with runtime_flags.running(values, runtime_flags.expected_errors):
    from jmp_hk.training import preflight  # Slow to import.

    preflight.check_directory(workdir)
    mixture.convert("experiments.pretrain")
    config = make_config(values, mixture)
    config_lib.train(config, workdir, values)
    if processes.is_first():
      _print_next(config, workdir)


def _print_next(config: config_lib.RunConfig, workdir: pathlib.Path) -> None:
  """Says what can be done with the model."""
  print(f"\nModel:  {workdir}")
  if config.validation_datasets:
    dataset = config.validation_datasets[0]
    print(
      f"Next:   python -m experiments.evaluate --checkpoint={workdir} \\\n"
      f"            --head={dataset.name} --data={dataset.directory} "
      f"--split={dataset.split}\n"
      f"        python -m experiments.finetune --checkpoint={workdir} …"
    )


def check_flags(
  values: flags.FlagValues,
) -> tuple[pathlib.Path, data_flags.Mixture]:
  """Checks what can be checked without converted data.

  Returns:
    The working directory, and the datasets.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  workdir = pathlib.Path(values.workdir)
  mixture = data_flags.read_mixture(values, workdir)
  if model_flags.is_conservative(values) and values.precision == "bfloat16":
    raise command.FlagError(
      "--forces=conservative needs --precision=float32 or --precision=tensorfloat32: "
      "derivatives of an energy in bfloat16 are too coarse."
    )
  backbone = model_flags.pretraining_backbone(values)
  model_flags.force_coefficients(values, mixture.names)
  data_flags.budget(values, backbone)
  if values.num_steps:
    training_flags.train(values, values.num_steps)
  return workdir, mixture


def make_config(
  values: flags.FlagValues, mixture: data_flags.Mixture
) -> config_lib.RunConfig:
  """Turns flags into the configuration of the run.

  Args:
    values: parsed flags.
    mixture: the datasets, which must be converted.

  Raises:
    FlagError: flags that cannot be used.
  """
  infos = {dataset.name: data_flags.load_info(dataset) for dataset in mixture.datasets}
  datasets = _with_truncation(values, mixture.datasets, infos)
  if command.is_chosen(values["validation_splits"]) and not any(
    info.num_structures.get(split)
    for info in infos.values()
    for split in values.validation_splits
  ):
    for info in infos.values():
      data_flags.check_splits(values, info, ["validation_splits"])
  model = model_lib.ModelConfig(
    backbone=model_flags.pretraining_backbone(values),
    tasks=model_flags.make_tasks(values, infos),
    precision=values.precision,
  )
  try:
    opened = datasets_lib.open_datasets(datasets, model.tasks)
    chances = mixture_lib.probabilities(opened, values.temperature)
  except ValueError as error:
    raise command.FlagError(f"--datasets: {error}") from error
  draws = values.num_epochs * mixture_lib.epoch_length(opened, chances)
  num_steps = values.num_steps or round(draws / values.batch_size)
  return config_lib.RunConfig(
    datasets=datasets,
    trainer=train_config.TrainerConfig(
      model=model,
      train=training_flags.train(values, num_steps),
      budget=data_flags.budget(values, model.backbone),
      loss=model_flags.loss(values),
      pipeline=data_flags.pipeline(values, values.temperature),
      validation_limit=values.validation_limit,
      initial=training_flags.initial(values),
    ),
    conversions=mixture.conversions,
    validation_splits=tuple(values.validation_splits),
  )


def _with_truncation(
  values: flags.FlagValues,
  datasets: Sequence[datasets_lib.DatasetConfig],
  infos: Mapping[str, dataset_info.DatasetInfo],
) -> tuple[datasets_lib.DatasetConfig, ...]:
  """The datasets; graphs of new conservative models end smoothly unless flags say."""
  chosen = values.truncation or values.checkpoint
  if chosen or not model_flags.is_conservative(values):
    return tuple(datasets)
  published = graph_config.Truncation.PUBLISHED
  smooth = graph_config.Truncation.of_new_model(is_conservative=True)
  return tuple(
    dataclasses.replace(dataset, truncation=smooth)
    if infos[dataset.name].graph.truncation is published
    else dataset
    for dataset in datasets
  )


PROGRAM = program_lib.Program(
  name="experiments.pretrain",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=("workdir",),
  errors=runtime_flags.expected_errors,
)

if __name__ == "__main__":
  PROGRAM.start()
