"""Runs a compiled function over structures of any sizes, in few static shapes."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import buckets
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import build
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.graphs import pool as pool_lib

_KEPT_BYTES = 1 << 29  # Graphs are built a second time rather than kept beyond this.
_POOL = 64  # Structures that a batch is chosen from.

Outputs = Mapping[str, Any]
OnProgress = Callable[[int, int], None]  # Structures done, of how many.


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A structure with its sizes, and its graphs unless they took too much memory."""

  structure: structure_lib.Structure
  sizes: budget_lib.Sizes
  graphs: build.StructureGraphs | None


class Preparer:
  """Builds graphs once to learn their sizes, and keeps them while memory allows."""

  def __init__(self, config: graph_config.GraphConfig) -> None:
    self._config = config
    self._left = _KEPT_BYTES

  def __call__(self, structure: structure_lib.Structure) -> Prepared:
    """Raises `InvalidStructureError` where no graphs can be built."""
    graphs = build.build_graphs(structure, self._config)
    self._left -= _num_bytes(graphs)
    sizes = budget_lib.sizes_of(graphs)
    return Prepared(structure, sizes, graphs if self._left > 0 else None)


def run(
  items: Sequence[Prepared],
  apply: Callable[[batch_lib.Batch], Outputs],
  per_atom: Collection[str],
  classes: Sequence[buckets.SizeClass],
  config: graph_config.GraphConfig,
  dtype: np.dtype,
  on_progress: OnProgress | None = None,
) -> list[dict[str, np.ndarray]]:
  """Applies a function to every structure.

  The next batch is built while the device works on the one before.

  Args:
    items: the structures.
    apply: batch → outputs by name, with a leading axis of structures or atoms.
    per_atom: names of the outputs with one row per atom.
    classes: budgets, and which structures are packed to them.
    config: graph settings.
    dtype: of the batches.
    on_progress: called after each batch.

  Returns:
    Per structure its part of every output: a value, or rows of its atoms.
  """
  results: list[dict[str, np.ndarray]] = [{} for _ in items]
  waiting: tuple[list[int], Outputs] | None = None
  done = 0

  def finish(chosen: list[int], outputs: Outputs) -> None:
    nonlocal done
    arrays = jax.device_get(outputs)
    first = 0
    for graph, index in enumerate(chosen):
      atoms = slice(first, first + items[index].sizes.num_atoms)
      first = atoms.stop
      results[index] = {
        name: value[atoms if name in per_atom else graph].copy()
        for name, value in arrays.items()
      }
    done += len(chosen)
    if on_progress is not None:
      on_progress(done, len(items))

  for chosen, batch in _batches(items, classes, config, dtype):
    outputs = apply(batch)
    if waiting is not None:
      finish(*waiting)
    waiting = chosen, outputs
  if waiting is not None:
    finish(*waiting)
  return results


def _batches(
  items: Sequence[Prepared],
  classes: Sequence[buckets.SizeClass],
  config: graph_config.GraphConfig,
  dtype: np.dtype,
) -> Iterator[tuple[list[int], batch_lib.Batch]]:
  """Indices of the structures of each batch in packing order, and the batch."""

  def pack(pool: pool_lib.Pool[int], budget: batch_lib.Budget):
    _, chosen = pool.take()
    packed = [packing.PackItem(_graphs(items[index], config)) for index in chosen]
    return chosen, packing.pack(packed, budget, dtype)

  for size_class in classes:
    pool: pool_lib.Pool[int] = pool_lib.Pool(size_class.budget, _POOL)
    for index in size_class.members:
      item = items[index]
      pool.add(index, index, item.sizes, item.structure.record_id)
      if pool.is_full:
        yield pack(pool, size_class.budget)
    while len(pool):
      yield pack(pool, size_class.budget)


def _graphs(item: Prepared, config: graph_config.GraphConfig) -> build.StructureGraphs:
  return item.graphs or build.build_graphs(item.structure, config)


def _num_bytes(graphs: build.StructureGraphs) -> int:
  arrays = [
    graphs.reverse_edge,
    graphs.a2a_pairs,
    graphs.a2a_slot,
    graphs.quad_exclusion,
  ]
  for edges in (graphs.main, graphs.a2a, graphs.a2ee2a, graphs.qint):
    arrays += [edges.senders, edges.receivers, edges.offsets]
  return sum(array.nbytes for array in arrays)
