"""Where the structures of a run come from, and the task that each dataset trains."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Protocol

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import size_tables

_AT_ONCE = 64  # Structures that are read together.


class Source(Protocol):
  """The structures of one split, wherever they are kept; any can be read by itself.

  Sources are pickled: other processes read from them as well.
  """

  @property
  def num_structures(self) -> int:
    """Number of structures of the split."""
    ...

  @property
  def identity(self) -> Any:
    """A JSON value that changes when indices come to mean other structures."""
    ...

  def fetch(self, indices: Sequence[int]) -> list[structure_lib.Structure]:
    """Reads some structures, and no others.

    Args:
      indices: numbers of the structures in the split, in any order.

    Returns:
      The structures in the same order.

    Raises:
      IndexError: there is no structure of a number.
    """
    ...

  def measured(
    self, builder: builder_lib.GraphBuilder, graph: graph_config.GraphConfig
  ) -> size_tables.SizesTable | None:
    """What the graphs of all structures need, or None if nobody measured it.

    Args:
      builder: the backbone's builder of graphs; its edge dropout does not count.
      graph: graph settings of the dataset.
    """
    ...

  def remember(
    self,
    builder: builder_lib.GraphBuilder,
    graph: graph_config.GraphConfig,
    table: size_tables.SizesTable,
  ) -> None:
    """Keeps what `measured` gives from now on, also for later runs where it can."""
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


def spread_over(count: int, limit: int) -> list[int]:
  """Up to `limit` indices over all of `count` items, the last one included."""
  return np.unique(np.linspace(0, count - 1, min(limit, count)).astype(int)).tolist()


def evenly(
  source: Source, count: int, limit: int = 0
) -> Iterator[structure_lib.Structure]:
  """The structures of a source, which has `count`, at `evenly_spaced` indices."""
  return fetch_all(source, evenly_spaced(count, limit))


def fetch_all(
  source: Source, indices: Sequence[int]
) -> Iterator[structure_lib.Structure]:
  """Reads many structures one after another, a few at a time."""
  for first in range(0, len(indices), _AT_ONCE):
    yield from source.fetch(indices[first : first + _AT_ONCE])


class MemorySource:
  """Structures in a list."""

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
    self._tables: dict[str, size_tables.SizesTable] = {}

  @property
  def num_structures(self) -> int:
    """See `Source`."""
    return len(self._structures)

  @property
  def identity(self) -> str:
    """See `Source`."""
    return f"{len(self._structures)} structures in memory"

  def fetch(self, indices: Sequence[int]) -> list[structure_lib.Structure]:
    """See `Source`."""
    for index in indices:
      if not 0 <= index < len(self._structures):
        raise IndexError(
          f"There are the structures 0 to {len(self._structures) - 1}; wanted was "
          f"{index}."
        )
    return [self._structures[int(index)] for index in indices]

  def measured(
    self, builder: builder_lib.GraphBuilder, graph: graph_config.GraphConfig
  ) -> size_tables.SizesTable | None:
    """See `Source`."""
    return self._tables.get(size_tables.key(builder, graph))

  def remember(
    self,
    builder: builder_lib.GraphBuilder,
    graph: graph_config.GraphConfig,
    table: size_tables.SizesTable,
  ) -> None:
    """See `Source`; forgotten with this object."""
    self._tables[size_tables.key(builder, graph)] = table
