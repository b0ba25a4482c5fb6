"""Opens converted datasets: checks them fast, before anything slow is imported."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib

from data import records
from data.pipeline import config as config_lib
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.pipeline import config as pipeline_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels

Dataset = datasets_lib.Dataset


@dataclasses.dataclass(frozen=True)
class ShardSource:
  """The TFRecord shards of one split; TensorFlow is imported when they are read.

  Attributes:
    name: name of the dataset, for error messages.
    split: name of the split, likewise.
    shards: the files, in order.
    num_structures: structures that the dataset's `dataset_info.json` promises.
  """

  name: str
  split: str
  shards: tuple[pathlib.Path, ...]
  num_structures: int

  @property
  def identity(self) -> int:
    """See `jmp_hk.pipeline.datasets.Source`."""
    return len(self.shards)

  def shuffled(
    self, config: pipeline_config.PipelineConfig, seed: int, start: int = 0
  ) -> Iterator[structure_lib.Structure]:
    """See `jmp_hk.pipeline.datasets.Source`."""
    reader = _reader(self, seed, config.shuffle_buffer, config.shards_per_group)
    return reader.shuffled(start)

  def ordered(self, stride: int = 1) -> Iterator[structure_lib.Structure]:
    """See `jmp_hk.pipeline.datasets.Source`."""
    return _reader(self).ordered(stride)

  def spread(self, count: int) -> Iterator[structure_lib.Structure]:
    """See `jmp_hk.pipeline.datasets.Source`."""
    return _reader(self).spread(count)


def _reader(source: ShardSource, *settings: int):
  from data.pipeline import shard_reader  # Imports TensorFlow.

  return shard_reader.ShardReader(source, *settings)


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
  info = dataset_info.load(config.directory)
  shards = records.list_shards(pathlib.Path(config.directory), config.split)
  num_structures = info.num_structures.get(config.split, 0)
  if not num_structures:
    raise ValueError(
      f"Dataset {config.name!r} has no structures in split {config.split!r}; it has "
      f"{dict(info.num_structures)}."
    )
  labels.check_statistics(tasks[task], info)
  return Dataset(
    name=config.name,
    split=config.split,
    num_structures=num_structures,
    source=ShardSource(config.name, config.split, tuple(shards), num_structures),
    info=info,
    task=task,
    weight=config.weight,
  )
