"""The configuration of a training run: what flags become, and what is stored."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import flags

from data.records import datasets as datasets_lib
from data.records import overlaps
from data.records import shards
from experiments.command_line import command
from experiments.command_line import conversions as conversions_lib
from jmp_hk import dataset_info
from jmp_hk.pipeline import datasets
from jmp_hk.runtime import processes
from jmp_hk.training import config as train_config
from jmp_hk.training import run_directory

# Differences in these do not make another run.
_FREE = (
  "conversions",
  "validation_splits",
  "datasets.*.directory",
  *run_directory.FREE_FIELDS,
)


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Everything that decides a training run.

  Attributes:
    datasets: the mixture.
    trainer: model, optimiser, batches.
    conversions: raw files that some of the datasets come from.
    validation_splits: names of validation splits; the first that a dataset has is used.
  """

  datasets: tuple[datasets_lib.DatasetConfig, ...]
  trainer: train_config.TrainerConfig
  conversions: tuple[conversions_lib.Conversion, ...] = ()
  validation_splits: tuple[str, ...] = ("val", "val_id")

  @property
  def validation_datasets(self) -> tuple[datasets_lib.DatasetConfig, ...]:
    """The validation split of every dataset that has one."""
    result = []
    for dataset in self.datasets:
      info = dataset_info.load(dataset.directory)
      splits = [
        name for name in self.validation_splits if info.num_structures.get(name)
      ]
      if splits:
        result.append(dataclasses.replace(dataset, split=splits[0]))
    return tuple(result)


def store(config: RunConfig, workdir: pathlib.Path) -> None:
  """Stores the configuration in a run's directory, or checks that it is that run's.

  Args:
    config: configuration of the run.
    workdir: directory of the run.

  Raises:
    FlagError: the directory holds another run; lists the differences.
  """
  parts = _parts(config)
  try:
    run_directory.check_config(parts, workdir, _FREE)
  except run_directory.OtherRunError as error:
    raise command.FlagError(f"--workdir: {error}") from error
  run_directory.store_config(parts, workdir)


def train(
  config: RunConfig,
  workdir: pathlib.Path,
  values: flags.FlagValues,
  test_split: str = "",
) -> None:
  """Trains, or continues the run in its directory.

  Args:
    config: configuration of the run.
    workdir: directory of the run; the configuration and the flags are stored there.
    values: parsed flags.
    test_split: split that is used after the run, and checked before it.

  Raises:
    FlagError: the directory holds another run.
    PreflightError: the run would fail later on.
  """
  from jmp_hk.training import preflight  # Slow to import.

  tasks = config.trainer.model.tasks
  test_datasets = [
    dataclasses.replace(dataset, split=test_split)
    for dataset in config.datasets
    if dataset_info.load(dataset.directory).num_structures.get(test_split)
  ]
  opened = [
    datasets_lib.open_datasets(entries, tasks)
    for entries in (config.datasets, config.validation_datasets, test_datasets)
  ]
  config = dataclasses.replace(
    config, trainer=run_directory.complete(config.trainer, workdir)
  )
  preflight.check(config.trainer, [d for split in opened for d in split], workdir)
  if processes.is_first():
    check_disjoint(*opened)
    store(config, workdir)
    command.save_flags(workdir, values)
  processes.wait_for_all("stored")
  from jmp_hk.training import trainer  # Slow to import; wrong flags shall fail fast.

  training, validation, _ = opened
  trainer.Trainer(config.trainer, training, validation, workdir).run()


def check_disjoint(
  training: Sequence[datasets.Dataset], *held_out: Sequence[datasets.Dataset]
) -> None:
  """Checks that structures that are held out are not trained on.

  Args:
    training: training splits, one of each dataset.
    *held_out: splits to validate or to test on, of the same datasets.

  Raises:
    FlagError: a record is in two splits.
  """
  sources = {dataset.name: dataset.source for dataset in training}
  for dataset in (dataset for split in held_out for dataset in split):
    pair = sources[dataset.name], dataset.source
    if not all(isinstance(source, shards.Split) for source in pair):
      continue
    try:
      overlaps.check(*pair)  # pyright: ignore[reportArgumentType]
    except overlaps.OverlapError as error:
      raise command.FlagError(str(error)) from error


def _parts(config: RunConfig) -> Mapping[str, Any]:
  return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
