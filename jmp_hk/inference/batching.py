"""Runs a compiled function over structures of any sizes, in few static shapes."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import buckets
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.graphs import pool as pool_lib

_KEPT_BYTES = 1 << 29  # Graphs are built a second time rather than kept beyond this.
_POOL = 64  # Structures that a batch is chosen from.

Outputs = Mapping[str, Any]
# Batches of one budget → outputs of each by name.
Apply = Callable[[Sequence[batch_lib.Batch]], Sequence[Outputs]]
OnProgress = Callable[[int, int], None]  # Structures done, of how many.


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A structure with its sizes, and its graphs unless they took too much memory."""

  structure: structure_lib.Structure
  sizes: budget_lib.Budget
  graphs: builder_lib.StructureGraphs | None


class Preparer:
  """Builds graphs once to learn their sizes, and keeps them while memory allows."""

  def __init__(
    self, builder: builder_lib.GraphBuilder, config: graph_config.GraphConfig
  ) -> None:
    """Starts with nothing kept.

    Args:
      builder: the backbone's builder of graphs.
      config: graph settings of the structures' dataset.
    """
    self._builder = builder
    self._config = config
    self._left = _KEPT_BYTES

  def __call__(self, structure: structure_lib.Structure) -> Prepared:
    """Raises `InvalidStructureError` where no graphs can be built."""
    graphs = self._builder.build(structure, self._config)
    self._left -= _num_bytes(graphs)
    sizes = self._builder.sizes(graphs)
    return Prepared(structure, sizes, graphs if self._left > 0 else None)

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
  ) -> batch_lib.Batch:
    """Packs structures; builds graphs again that were not kept."""
    graphs = [
      item.graphs or self._builder.build(item.structure, self._config) for item in items
    ]
    packed = [packing.PackItem(entry) for entry in graphs]
    return packing.pack(packed, self._builder, budget, dtype)


def run(
  items: Sequence[Prepared],
  apply: Apply,
  per_atom: Collection[str],
  size_buckets: Sequence[buckets.Bucket],
  preparer: Preparer,
  dtype: npt.DTypeLike,
  on_progress: OnProgress | None = None,
  count_together: Callable[[int, budget_lib.Budget], int] = lambda *_: 1,
) -> list[dict[str, np.ndarray]]:
  """Applies a function to every structure.

  The next batches are built while the devices work on those before.

  Args:
    items: the structures.
    apply: batches → outputs of each by name, whose rows are structures or atoms.
    per_atom: names of the outputs with one row per atom.
    size_buckets: budgets, and which structures are packed to them.
    preparer: what the structures were prepared with.
    dtype: data type of positions and cells.
    on_progress: called after each call.
    count_together: number of batches and their budget → how many each call gets; where
      too few are left, the last one is repeated.

  Returns:
    Per structure its part of every output: a value, or rows of its atoms.
  """
  results: list[dict[str, np.ndarray]] = [{} for _ in items]
  waiting: tuple[list[list[int]], Sequence[Outputs]] | None = None
  done = 0

  def finish(together: list[list[int]], outputs: Sequence[Outputs]) -> None:
    nonlocal done
    for chosen, arrays in zip(together, jax.device_get(outputs), strict=True):
      atoms = 0
      for graph, index in enumerate(chosen):
        rows = slice(atoms, atoms := atoms + items[index].sizes.num_atoms)
        results[index] = {
          name: value[rows if name in per_atom else graph].copy()
          for name, value in arrays.items()
        }
      done += len(chosen)
    if on_progress is not None:
      on_progress(done, len(items))

  for bucket in size_buckets:
    batches = _choose_batches(items, bucket)
    count = count_together(len(batches), bucket.budget)
    for start in range(0, len(batches), count):
      together = batches[start : start + count]
      packed = [
        preparer.pack([items[index] for index in chosen], bucket.budget, dtype)
        for chosen in together
      ]
      outputs = apply(packed + [packed[-1]] * (count - len(packed)))
      if waiting is not None:
        finish(*waiting)
      waiting = together, outputs[: len(together)]
  if waiting is not None:
    finish(*waiting)
  return results


def _choose_batches(
  items: Sequence[Prepared], bucket: buckets.Bucket
) -> list[list[int]]:
  """Indices of the structures of each batch of a bucket, in packing order."""
  batches = []
  pool: pool_lib.Pool[int] = pool_lib.Pool(bucket.budget, _POOL)
  for index in bucket.members:
    item = items[index]
    pool.add(index, index, item.sizes, item.structure.record_id)
    if pool.is_full:
      batches.append(pool.take()[1])
  while len(pool):
    batches.append(pool.take()[1])
  return batches


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
