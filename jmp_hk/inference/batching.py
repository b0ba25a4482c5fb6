"""Runs a compiled function over structures of any sizes, in few static shapes."""

import collections
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import buckets
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.inference import preparer as preparer_lib

_POOL = 64  # Structures that a batch is chosen from.

Outputs = Mapping[str, Any]
# Batches of one budget → outputs of each by name.
Apply = Callable[[Sequence[batch_lib.Batch]], Sequence[Outputs]]
OnProgress = Callable[[int, int], None]  # Structures done, of how many.


def run(
  items: Sequence[preparer_lib.Prepared],
  apply: Apply,
  per_atom: Collection[str],
  size_buckets: Sequence[buckets.Bucket],
  preparer: preparer_lib.Preparer,
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
    for together, packed in _packed(
      items, batches, count, preparer, bucket.budget, dtype
    ):
      outputs = apply(packed + packed[-1:] * (count - len(packed)))
      if waiting is not None:
        finish(*waiting)
      waiting = together, outputs[: len(together)]
  if waiting is not None:
    finish(*waiting)
  return results


def _choose_batches(
  items: Sequence[preparer_lib.Prepared], bucket: buckets.Bucket
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


def _packed(
  items: Sequence[preparer_lib.Prepared],
  batches: Sequence[list[int]],
  count: int,
  preparer: preparer_lib.Preparer,
  budget: budget_lib.Budget,
  dtype: npt.DTypeLike,
) -> Iterator[tuple[list[list[int]], list[batch_lib.Batch]]]:
  """Yields batches, `count` of them at a time; some are ordered before."""
  ahead = math.ceil(preparer.num_ahead / count)
  ordered: collections.deque[
    tuple[list[list[int]], list[Callable[[], batch_lib.Batch]]]
  ] = collections.deque()
  for start in range(0, len(batches), count):
    together = list(batches[start : start + count])
    orders = [
      preparer.pack([items[index] for index in chosen], budget, dtype)
      for chosen in together
    ]
    ordered.append((together, orders))
    if len(ordered) > ahead:
      together, orders = ordered.popleft()
      yield together, [wait() for wait in orders]
  for together, orders in ordered:
    yield together, [wait() for wait in orders]
