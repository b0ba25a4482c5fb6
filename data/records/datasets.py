"""Converted datasets: how a command line names them, and how they are opened."""

from collections.abc import Sequence
import dataclasses
import math
import pathlib

from data.records import shards as shards_lib
from data.records import source as source_lib
from jmp_hk import dataset_info
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels

ShardSource = source_lib.ShardSource
_COORDINATES = {"positions", "cell"}  # What has a unit and is no label.


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """One dataset of a mixture.

  Attributes:
    name: name of its task, which says what is learned on it.
    directory: folder that `data.convert` wrote.
    weight: relative probability of a draw from it. Either all datasets of a mixture
      have one, or none, and then sizes and temperature decide.
    split: name of the split to read.
    truncation: how graphs end, in place of what was chosen in the conversion.
  """

  name: str
  directory: str
  weight: float | None = None
  split: str = "train"
  truncation: graph_config.Truncation | None = None


def parse_datasets(
  entries: Sequence[str], split: str = "train"
) -> tuple[DatasetConfig, ...]:
  """Reads "NAME=DIR[:WEIGHT]" entries, as the flag `--datasets` gives them.

  Args:
    entries: one string per dataset.
    split: name of the split to read of each.

  Returns:
    The datasets in the given order.

  Raises:
    ValueError: an entry cannot be read, a name occurs twice, or there is none.
  """
  datasets = []
  for entry in entries:
    name, equals, rest = entry.strip().partition("=")
    directory, weight = rest, None
    head, colon, tail = rest.rpartition(":")
    if colon and head:
      try:
        directory, weight = head, float(tail)
      except ValueError:
        directory = rest  # A colon inside the path.
    if not (equals and name and directory):
      raise ValueError(f"Dataset {entry!r} does not read NAME=DIRECTORY[:WEIGHT].")
    if weight is not None and not (weight > 0 and math.isfinite(weight)):
      raise ValueError(f"The weight of dataset {name!r} must be positive, got {tail}.")
    datasets.append(DatasetConfig(name, directory, weight, split))
  if not datasets:
    raise ValueError("No dataset was given: name at least one as NAME=DIRECTORY.")
  names = [dataset.name for dataset in datasets]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(f"The datasets {twice} were given more than once.")
  return tuple(datasets)


def open_datasets(
  configs: Sequence[DatasetConfig],
  tasks: Sequence[tasks_lib.TaskConfig],
) -> tuple[datasets_lib.Dataset, ...]:
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
  config: DatasetConfig, tasks: Sequence[tasks_lib.TaskConfig]
) -> datasets_lib.Dataset:
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
  info = dataset_info.load(config.directory)
  if config.truncation is not None:
    graph = dataclasses.replace(info.graph, truncation=config.truncation)
    info = dataclasses.replace(info, graph=graph)
  shards = shards_lib.list_shards(pathlib.Path(config.directory), config.split)
  num_structures = info.num_structures.get(config.split, 0)
  if not num_structures:
    raise ValueError(
      f"Dataset {config.name!r} has no structures in split {config.split!r}; it has "
      f"{dict(info.num_structures)}."
    )
  labels.check_statistics(tasks[task], info)
  missing = _missing(info, config)
  return datasets_lib.Dataset(
    name=config.name,
    split=config.split,
    num_structures=num_structures,
    source=ShardSource(
      config.name,
      config.split,
      tuple(shards),
      num_structures,
      missing,
      frozenset(info.units) - _COORDINATES - set(missing),
    ),
    info=info,
    task=task,
    weight=config.weight,
  )


def _missing(info: dataset_info.DatasetInfo, config: DatasetConfig) -> dict[str, int]:
  """Labels that some structures of a split lack, and how many."""
  facts = info.splits.get(config.split)
  return {k: v for k, v in facts.missing.items() if v} if facts else {}
