"""Chooses which structures of a stream are packed together.

Structures wait in a small pool. Every batch takes the oldest of the pool, so that none
waits for ever, and then those others that fill the budget best. The choice depends on
the sizes in the pool alone, so the same stream gives the same batches, and a stream is
resumed by putting back what was in the pool.
"""

from collections.abc import Sequence
from typing import Generic
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from jmp_hk.graphs import budget as budget_lib

Item = TypeVar("Item")

_FULL_ENOUGH = 0.985  # Part of the main field at which the search stops.


def least_size(structures: float, wanted: int = 24) -> int:
  """Size of a pool for batches of this many structures: at least twice as many.

  A smaller one could not fill batches.
  """
  return max(wanted, round(2 * structures))


class Pool(Generic[Item]):
  """Structures that wait for being packed, oldest first."""

  def __init__(self, budget: budget_lib.Budget, size: int = 24):
    """Starts empty.

    Args:
      budget: static sizes of a batch.
      size: how many structures wait at most; more fill batches better.

    Raises:
      ValueError: the size is not positive.
    """
    if size < 1:
      raise ValueError(f"The pool must hold at least one structure, got {size}.")
    self._budget = budget
    fields = budget_lib.names(type(budget))
    counted = budget_lib.count_names(type(budget))
    self._columns = [fields.index(name) for name in counted]
    self._main = counted.index(budget.main_field)
    self._capacity = budget_lib.capacity(budget).as_array()[self._columns]
    self._size = size
    self._draws: list[int] = []
    self._items: list[Item] = []
    self._counts: list[np.ndarray] = []

  @property
  def is_full(self) -> bool:
    """Whether as many structures wait as may."""
    return len(self._items) >= self._size

  @property
  def draws(self) -> list[int]:
    """Numbers of the waiting structures in the stream, oldest first."""
    return list(self._draws)

  def __len__(self) -> int:
    return len(self._items)

  def add(
    self, draw: int, item: Item, sizes: budget_lib.Budget, record_id: str = ""
  ) -> None:
    """Adds the next structure of the stream.

    Args:
      draw: its number in the stream.
      item: what `take` gives back.
      sizes: what it needs.
      record_id: names it in errors.

    Raises:
      BudgetError: it does not fit into an empty batch.
    """
    budget_lib.check_fits(sizes, self._budget, record_id)
    self._draws.append(draw)
    self._items.append(item)
    self._counts.append(sizes.as_array()[self._columns])

  def take(self) -> tuple[list[int], list[Item]]:
    """Removes the structures of the next batch.

    Returns:
      Their numbers in the stream, ascending, and the structures; empty lists if the
      pool is empty.
    """
    if not self._items:
      return [], []
    chosen = sorted(choose(np.stack(self._counts), self._capacity, self._main))
    draws = [self._draws[i] for i in chosen]
    items = [self._items[i] for i in chosen]
    for index in reversed(chosen):
      del self._draws[index], self._items[index], self._counts[index]
    return draws, items


def choose(counts: np.ndarray, capacity: np.ndarray, main: int) -> list[int]:
  """Chooses structures that together fill a batch, the oldest always among them.

  Oldest first gives one choice. Any beginning of it, continued by the largest
  structures that still fit, gives another; the one that uses most of the main field
  wins, the one that keeps more of the oldest among equals.

  Args:
    counts: [p, f] what each structure needs, oldest first; each fits alone.
    capacity: [f] what a batch offers.
    main: column of the field that costs most.

  Returns:
    Indices of the chosen structures.
  """
  by_age = _fill(counts, capacity, [0], range(1, len(counts)))
  by_size = np.argsort(-counts[:, main], kind="stable")
  best, most = by_age, counts[by_age, main].sum()
  for length in range(len(by_age) - 1, 0, -1):
    if most >= _FULL_ENOUGH * capacity[main]:
      break
    other = _fill(counts, capacity, by_age[:length], by_size)
    used = counts[other, main].sum()
    if used > most:
      best, most = other, used
  return best


def _fill(
  counts: np.ndarray,
  capacity: np.ndarray,
  start: Sequence[int],
  order: npt.ArrayLike,
) -> list[int]:
  """Adds in the given order every structure that still fits."""
  chosen = list(start)
  left = capacity - counts[chosen].sum(axis=0)
  rest = np.asarray(order, np.int64)
  free = np.ones(len(counts), bool)
  free[chosen] = False
  rest = rest[free[rest]]
  while True:
    rest = rest[(counts[rest] <= left).all(axis=1)]
    if not len(rest):
      return chosen
    # As many at once as fit together; the next one is left out, or they are all.
    used = counts[rest].cumsum(axis=0)
    fits = (used <= left).all(axis=1)
    number = len(rest) if fits[-1] else int(fits.argmin())
    chosen.extend(rest[:number].tolist())
    left = left - used[number - 1]
    rest = rest[number:]
