"""Settings of the data pipeline."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """One dataset of a mixture.

  Attributes:
    name: name of its task; the task of that name says what is learned on it.
    directory: folder that `data.convert` wrote.
    weight: relative probability of a draw from it. Either all datasets of a mixture
      have one, or none, and then sizes and temperature decide.
    split: split to read.
  """

  name: str
  directory: str
  weight: float | None = None
  split: str = "train"


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
  """How batches are made from datasets.

  The global batch consists of `num_lanes` sub-batches, each packed to the budget. Draw
  t belongs to lane t % num_lanes, whatever processes and devices serve the lanes.

  Attributes:
    seed: of order, mixture and edge dropout.
    num_lanes: sub-batches of one step over all processes.
    temperature: T in p_i ∝ (n_i/N)^(1/T); 1 is proportional to size, inf uniform.
    edge_dropout: probability of leaving out each directed edge.
    num_workers: processes that build graphs; 0 builds them in this one.
    pool_size: structures per lane that wait for a batch they fit into.
    shuffle_buffer: records within which the order is shuffled.
    shards_per_group: shards that are read side by side.
    prefetch_batches: packed batches that are made ahead; 0 makes them on demand.
  """

  seed: int = 0
  num_lanes: int = 1
  temperature: float = 2.0
  edge_dropout: float = 0.0
  num_workers: int = 0
  pool_size: int = 64
  shuffle_buffer: int = 10_000
  shards_per_group: int = 16
  prefetch_batches: int = 2

  def __post_init__(self):
    positive = ("num_lanes", "temperature", "pool_size", "shuffle_buffer",
                "shards_per_group")
    for name in positive:
      if not getattr(self, name) > 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
    for name in ("seed", "num_workers", "prefetch_batches"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
    if not 0.0 <= self.edge_dropout < 1.0:
      raise ValueError(f"edge_dropout must lie in [0, 1), got {self.edge_dropout}.")


def parse_datasets(
    entries: Sequence[str], split: str = "train"
) -> tuple[DatasetConfig, ...]:
  """Reads "NAME=DIR[:WEIGHT]" entries, as the flag `--datasets` gives them.

  Args:
    entries: one string per dataset.
    split: split to read of each.

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
