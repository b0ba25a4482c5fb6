"""Measures structures and packs batches of them: here, or in worker processes."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import buckets
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.runtime import workers

_KEPT_BYTES = 1 << 29  # Graphs are built a second time rather than kept beyond this.
_FEW = 1024  # Structures for which starting processes would take longer than it saves.
_CHUNK = 32  # Structures that a worker measures at once.
_AHEAD = 2  # Batches that each worker packs before they are needed.
_DEATH_MESSAGE = (
  "A process that builds graphs died, perhaps for lack of memory; use fewer workers "
  "(num_workers)."
)

# Sizes of a structure's graphs, or why there are none.
Sizes = budget_lib.Budget | structure_lib.InvalidStructureError


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A structure with its sizes, and its graphs where they are kept."""

  structure: structure_lib.Structure
  sizes: budget_lib.Budget
  graphs: builder_lib.StructureGraphs | None = None


class Preparer:
  """Builds graphs once to learn their sizes, and packs batches.

  In this process graphs are kept while memory allows. Workers build them a second time
  for the batch, which costs this process nothing.

  Attributes:
    num_ahead: how many batches are worth ordering before they are needed; zero without
      workers.
  """

  def __init__(
    self,
    builder: builder_lib.GraphBuilder,
    config: graph_config.GraphConfig,
    pool: workers.WorkerPool | None = None,
    num_workers: int = 0,
  ) -> None:
    """Starts with nothing kept; `open_preparer` starts workers where they pay.

    Args:
      builder: the backbone's builder of graphs.
      config: graph settings of the structures' dataset.
      pool: processes that build graphs; None builds them in this one.
      num_workers: how many processes there are.
    """
    self._builder = builder
    self._config = config
    self._pool = pool
    self._left = _KEPT_BYTES
    self.num_ahead = _AHEAD * num_workers

  def prepare(
    self, structures: Sequence[structure_lib.Structure]
  ) -> list[Prepared | structure_lib.InvalidStructureError]:
    """Structures with their sizes, or why no graphs can be built.

    Those of an earlier call are not to be used any more, as their graphs may be kept.
    """
    if self._pool is None:
      self._left = _KEPT_BYTES
      return [self._prepare(structure) for structure in structures]
    chunks = [structures[i : i + _CHUNK] for i in range(0, len(structures), _CHUNK)]
    measure_chunk = functools.partial(
      measure, builder=self._builder, config=self._config
    )
    sizes = [
      entry for chunk in self._pool.map(measure_chunk, chunks) for entry in chunk
    ]
    return [
      entry if isinstance(entry, Exception) else Prepared(structure, entry)
      for structure, entry in zip(structures, sizes, strict=True)
    ]

  def make_buckets(
    self,
    items: Sequence[Prepared],
    batch_edges: int,
    known: Sequence[budget_lib.Budget],
  ) -> list[buckets.Bucket]:
    """Budgets for structures, see `buckets.make_buckets`."""
    sizes = [item.sizes for item in items]
    return buckets.make_buckets(sizes, self._builder, self._config, batch_edges, known)

  def pack(
    self, items: Sequence[Prepared], budget: budget_lib.Budget, dtype: npt.DTypeLike
  ) -> Callable[[], batch_lib.Batch]:
    """Orders a batch of structures; the function that is returned waits for it."""
    builder, config = self._builder, self._config
    if self._pool is not None:
      structures = [item.structure for item in items]
      return self._pool.submit(
        build_and_pack, structures, builder, config, budget, dtype
      )
    return lambda: _pack(
      [item.graphs or builder.build(item.structure, config) for item in items],
      builder,
      budget,
      dtype,
    )

  def _prepare(
    self, structure: structure_lib.Structure
  ) -> Prepared | structure_lib.InvalidStructureError:
    try:
      graphs = self._builder.build(structure, self._config)
    except structure_lib.InvalidStructureError as error:
      return error
    self._left -= _num_bytes(graphs)
    sizes = self._builder.sizes(graphs)
    return Prepared(structure, sizes, graphs if self._left > 0 else None)


@contextlib.contextmanager
def open_preparer(
  builder: builder_lib.GraphBuilder,
  config: graph_config.GraphConfig,
  num_structures: int,
  num_workers: int,
) -> Iterator[Preparer]:
  """Gives a preparer, whose worker processes live as long as the block.

  Args:
    builder: the backbone's builder of graphs.
    config: graph settings of the structures' dataset.
    num_structures: how many structures there are; few of them need no workers.
    num_workers: processes that build graphs; 0 builds them in this one.
  """
  if not num_workers or num_structures < _FEW:
    yield Preparer(builder, config)
    return
  with workers.WorkerPool(num_workers, _DEATH_MESSAGE) as pool:
    yield Preparer(builder, config, pool, num_workers)


def measure(
  structures: Sequence[structure_lib.Structure],
  builder: builder_lib.GraphBuilder,
  config: graph_config.GraphConfig,
) -> list[Sizes]:
  """Sizes of the graphs of some structures."""
  found: list[Sizes] = []
  for structure in structures:
    try:
      found.append(builder.measure(structure, config))
    except structure_lib.InvalidStructureError as error:
      found.append(error)
  return found


def build_and_pack(
  structures: Sequence[structure_lib.Structure],
  builder: builder_lib.GraphBuilder,
  config: graph_config.GraphConfig,
  budget: budget_lib.Budget,
  dtype: npt.DTypeLike,
) -> batch_lib.Batch:
  """A batch of some structures."""
  graphs = [builder.build(structure, config) for structure in structures]
  return _pack(graphs, builder, budget, dtype)


def _pack(
  graphs: Sequence[builder_lib.StructureGraphs],
  builder: builder_lib.GraphBuilder,
  budget: budget_lib.Budget,
  dtype: npt.DTypeLike,
) -> batch_lib.Batch:
  items = [packing.PackItem(entry) for entry in graphs]
  return packing.pack(items, builder, budget, dtype)


def _num_bytes(graphs: builder_lib.StructureGraphs) -> int:
  """Memory that the arrays of a structure's graphs take."""
  total = 0
  waiting: list[object] = [graphs]
  while waiting:
    value = waiting.pop()
    if isinstance(value, np.ndarray):
      total += value.nbytes
    elif dataclasses.is_dataclass(value):
      waiting += [getattr(value, field.name) for field in dataclasses.fields(value)]
  return total
