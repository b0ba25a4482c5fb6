"""Opens converted datasets: checks them fast, before anything slow is imported."""

import dataclasses
import pathlib
from collections.abc import Sequence

from data import records
from data.pipeline import config as config_lib
from jmp_hk import dataset_info, dataset_info_io, tasks as tasks_lib


@dataclasses.dataclass(frozen=True)
class Dataset:
  """One split of a converted dataset together with the task it trains.

  Attributes:
    name: name of dataset and task.
    split: name of the split.
    shards: its files in order.
    num_structures: structures of the split.
    info: constants of the dataset. Where forces are derivatives of the energy, its
      energy scale is the force scale.
    task: index of the task among the model's tasks.
    targets: labels to read; those without a loss are not.
    weight: explicit relative probability, or None.
  """

  name: str
  split: str
  shards: tuple[pathlib.Path, ...]
  num_structures: int
  info: dataset_info.DatasetInfo
  task: int
  targets: tuple[tasks_lib.TargetConfig, ...]
  weight: float | None = None


def open_datasets(
    configs: Sequence[config_lib.DatasetConfig],
    tasks: Sequence[tasks_lib.TaskConfig],
) -> tuple[Dataset, ...]:
  """Opens every dataset of a mixture.

  Args:
    configs: the datasets.
    tasks: the model's tasks, in the model's order.

  Returns:
    The datasets, in the order of `configs`.

  Raises:
    ValueError: a dataset has no task, the split is empty, or a label has no
      statistics.
    DatasetInfoError: a directory is no converted dataset.
    RecordFileError: a split or a shard is missing.
  """
  return tuple(_open(config, tasks) for config in configs)


def _open(
    config: config_lib.DatasetConfig, tasks: Sequence[tasks_lib.TaskConfig]
) -> Dataset:
  names = [task.name for task in tasks]
  if config.name not in names:
    raise ValueError(
        f"Dataset {config.name!r} has no task of that name; the model has {names}."
    )
  if not pathlib.Path(config.directory).is_dir():
    raise ValueError(
        f"Dataset {config.name!r}: the directory {config.directory} does not exist. "
        "Convert the raw files with `python -m data.convert`, or correct --datasets."
    )
  task = names.index(config.name)
  info = dataset_info_io.load(config.directory)
  shards = records.list_shards(pathlib.Path(config.directory), config.split)
  num_structures = info.num_structures.get(config.split, 0)
  if not num_structures:
    raise ValueError(
        f"Dataset {config.name!r} has no structures in split {config.split!r}; it has "
        f"{dict(info.num_structures)}."
    )
  if tasks[task].is_conservative:
    # Forces are derivatives of the energy, so both have one scale.
    info = dataclasses.replace(info, energy_scale=info.force_scale)
  targets = tuple(target for target in tasks[task].targets if target.is_learned)
  for target in targets:
    if target.name not in ("energy", "forces") and target.name not in info.targets:
      raise ValueError(
          f"Dataset {config.name!r} has no label {target.name!r}; besides energy and "
          f"forces it has {sorted(info.targets)}."
      )
  return Dataset(
      name=config.name,
      split=config.split,
      shards=tuple(shards),
      num_structures=num_structures,
      info=info,
      task=task,
      targets=targets,
      weight=config.weight,
  )
