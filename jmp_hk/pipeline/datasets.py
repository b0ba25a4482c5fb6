"""Where the structures of a run come from, and the task that each dataset trains."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any
from typing import Protocol

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import random_streams


class Source(Protocol):
  """The structures of one split, wherever they are kept."""

  @property
  def identity(self) -> Any:
    """A JSON value that changes when positions in the stream change their meaning."""
    ...

  def shuffled(
    self, config: config_lib.PipelineConfig, seed: int, start: int = 0
  ) -> Iterator[structure_lib.Structure]:
    """Yields structures for ever: every epoch has each of them once, in another order.

    Args:
      config: how the order is shuffled.
      seed: seed of the order.
      start: number of structures of this stream to leave out.
    """
    ...

  def ordered(self, stride: int = 1) -> Iterator[structure_lib.Structure]:
    """Yields every structure, or every `stride`-th, once and in order."""
    ...

  def spread(self, count: int) -> Iterator[structure_lib.Structure]:
    """Yields up to `count` structures from all over the split, in little time."""
    ...


@dataclasses.dataclass(frozen=True)
class Dataset:
  """One split of a dataset together with the task it trains.

  Attributes:
    name: name of the dataset and of its task.
    split: name of the split.
    num_structures: number of structures in the split.
    info: constants of the dataset.
    task: index of the task among the model's tasks.
    source: gives the structures.
    weight: explicit relative probability of a draw from this dataset, or None.
  """

  name: str
  split: str
  num_structures: int
  info: dataset_info.DatasetInfo
  task: int
  source: Source
  weight: float | None = None

  def evenly(self, limit: int = 0) -> Iterator[structure_lib.Structure]:
    """Structures from all over the split, in order: `limit` of them, 0 for all."""
    return evenly(self.source, self.num_structures, limit)


def evenly_spaced(count: int, limit: int = 0) -> range:
  """Indices from all over `count` items, in order: `limit` of them, 0 for all."""
  stride = max(1, count // limit) if limit else 1
  return range(0, count, stride)[: limit or None]


def evenly(
  source: Source, count: int, limit: int = 0
) -> Iterator[structure_lib.Structure]:
  """The structures of a source, which has `count`, at `evenly_spaced` indices."""
  chosen = evenly_spaced(count, limit)
  return itertools.islice(source.ordered(chosen.step), len(chosen))


class MemorySource:
  """Structures in a list, shuffled anew in every epoch."""

  def __init__(self, structures: Sequence[structure_lib.Structure]) -> None:
    """Takes the structures of a split.

    Args:
      structures: at least one structure.

    Raises:
      ValueError: there are none.
    """
    if not structures:
      raise ValueError("A split needs at least one structure.")
    self._structures = list(structures)

  @property
  def identity(self) -> str:
    """See `Source`."""
    return f"{len(self._structures)} structures in memory"

  def shuffled(
    self, config: config_lib.PipelineConfig, seed: int, start: int = 0
  ) -> Iterator[structure_lib.Structure]:
    """See `Source`; the order is a permutation of the whole split."""
    del config
    epoch, skip = divmod(start, len(self._structures))
    while True:
      rng = random_streams.generator(seed, random_streams.ORDER, epoch)
      for index in rng.permutation(len(self._structures))[skip:]:
        yield self._structures[int(index)]
      epoch, skip = epoch + 1, 0

  def ordered(self, stride: int = 1) -> Iterator[structure_lib.Structure]:
    """See `Source`."""
    return iter(self._structures[::stride])

  def spread(self, count: int) -> Iterator[structure_lib.Structure]:
    """See `Source`."""
    chosen = np.linspace(
      0, len(self._structures) - 1, min(count, len(self._structures))
    )
    return (self._structures[int(index)] for index in np.unique(chosen.astype(int)))
