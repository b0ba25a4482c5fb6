"""Exact batches: the structures of every optimiser step, and the budget they need.

Sizes of all structures are known before the run starts, so that everything here is
arithmetic on a table: no structure is read and no graph is built.
"""

from collections.abc import Sequence
import dataclasses
import functools
import zlib

import numpy as np

from jmp_hk.graphs import bucket_search
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import order as order_lib

# So many of the first steps are looked at, with so many structures together.
_MOST_STEPS, _MOST_STRUCTURES = 4096, 2**18


class Draws:
  """Which structure every draw is, found at once wherever it lies in the stream.

  Of one dataset an epoch is a pass over its structures. Of several, it has the
  share of each that its probability gives it, in random order, and each goes through
  its structures by itself.

  Attributes:
    epoch_length: draws in an epoch.
  """

  def __init__(
    self,
    seed: int,
    orders: Sequence[order_lib.Order],
    lengths: Sequence[int],
    chances: Sequence[float],
  ) -> None:
    """Fixes the stream.

    Args:
      seed: seed of the order in which datasets are drawn.
      orders: order of each dataset's structures.
      lengths: number of structures of each.
      chances: probability of a draw from each.
    """
    least = max(length / p for length, p in zip(lengths, chances, strict=True))
    self._shares = np.array([max(1, round(least * chance)) for chance in chances])
    self.epoch_length = int(self._shares.sum())
    self._first_places = np.cumsum(self._shares) - self._shares
    self._first_rows = np.cumsum(lengths) - lengths
    self._places = order_lib.Order(seed, self.epoch_length)
    self._orders = tuple(orders)

  def rows(self, draws: np.ndarray) -> np.ndarray:
    """The structures of [n] draws, [n] int64; those of all datasets are numbered on."""
    places = self._places.indices(draws)
    datasets = np.searchsorted(self._first_places, places, side="right") - 1
    before = draws // self.epoch_length * self._shares[datasets]
    positions = places - self._first_places[datasets] + before
    result = np.empty(len(draws), np.int64)
    for index in np.unique(datasets):
      here = datasets == index
      result[here] = self._orders[index].indices(positions[here])
    return result + self._first_rows[datasets]

  def find(self, row: int) -> tuple[int, int]:
    """Dataset of a structure, and its place there."""
    dataset = int(np.searchsorted(self._first_rows, row, side="right")) - 1
    return dataset, row - int(self._first_rows[dataset])


@dataclasses.dataclass(frozen=True)
class StepPlan:
  """What one optimiser step trains on.

  Attributes:
    draws: for each microbatch the numbers of its structures in the stream, ascending.
    rows: likewise, which structure each one is, see `Draws.rows`.
    bucket: index of the budget that all its microbatches are packed to.
  """

  draws: tuple[tuple[int, ...], ...]
  rows: tuple[tuple[int, ...], ...]
  bucket: int

  @property
  def num_structures(self) -> int:
    """Structures of the step over all microbatches."""
    return sum(map(len, self.draws))


class ExactPlan:
  """The structures of every step, a function of its number alone.

  Each step of an epoch has `batch_size` structures, and
  the last one has what is left. They are dealt to the microbatches so that their
  numbers differ by at most one, and that edges (the field that costs most) are shared
  out evenly. All microbatches of a step are packed to the smallest bucket
  that has room for each. Nothing depends on devices or processes.
  """

  def __init__(
    self,
    sizes: np.ndarray,
    draws: Draws,
    batch_size: int,
    num_microbatches: int,
    buckets: Sequence[budget_lib.Budget],
  ) -> None:
    """Computes nothing yet.

    Args:
      sizes: [rows, fields] what each structure needs, by `budget.names`.
      draws: which structure every draw is.
      batch_size: structures of a step.
      num_microbatches: microbatches of a step.
      buckets: budgets of a microbatch, the cheapest first.

    Raises:
      ValueError: there is no structure, no bucket, or a number is not positive.
    """
    if not len(sizes) or not buckets or batch_size < 1 or num_microbatches < 1:
      raise ValueError(
        f"Exact batches need structures ({len(sizes)}), budgets ({len(buckets)}), a "
        f"positive batch size ({batch_size}) and microbatches ({num_microbatches})."
      )
    self._sizes, self._draws = sizes, draws
    self._batch_size, self._num_microbatches = batch_size, num_microbatches
    self.buckets = tuple(buckets)
    self._kind = type(buckets[0])
    self._step = functools.lru_cache(maxsize=64)(self._make_step)

  def __getstate__(self) -> dict[str, object]:
    return {k: v for k, v in self.__dict__.items() if k != "_step"}

  def __setstate__(self, state: dict[str, object]) -> None:
    self.__dict__.update(state)
    self._step = functools.lru_cache(maxsize=64)(self._make_step)

  @property
  def steps_per_epoch(self) -> int:
    """Number of steps of an epoch."""
    return steps_per_epoch(self._draws.epoch_length, self._batch_size)

  def find(self, row: int) -> tuple[int, int]:
    """See `Draws`."""
    return self._draws.find(row)

  @property
  def most_needed(self) -> budget_lib.Budget:
    """What no microbatch exceeds, without padding."""
    batch = min(self._batch_size, self._draws.epoch_length)
    each = -(-batch // self._num_microbatches)
    return self._kind(*most_needed(self._sizes, each, self._kind).tolist())

  @property
  def identity(self) -> list[int]:
    """JSON values that change where steps get other structures."""
    return [self._batch_size, self._num_microbatches, zlib.crc32(self._sizes.tobytes())]

  def step(self, number: int) -> StepPlan:
    """The structures of a step.

    Args:
      number: of the step, from 0 on.

    Raises:
      BudgetError: they fit into no bucket.
    """
    return self._step(number)

  def epoch_before(self, number: int) -> float:
    """How many epochs lie before a step."""
    return self._first_draw(number) / self._draws.epoch_length

  def _first_draw(self, number: int) -> int:
    epoch, step = divmod(number, self.steps_per_epoch)
    return epoch * self._draws.epoch_length + step * self._batch_size

  def _make_step(self, number: int) -> StepPlan:
    draws = np.arange(self._first_draw(number), self._first_draw(number + 1))
    rows = self._draws.rows(draws)
    sizes = self._sizes[rows]
    work = sizes[None, :, budget_lib.main_column(self._kind)]
    parts = deal(work, self._num_microbatches)[0]
    needs = microbatch_needs(
      sizes[None], parts[None], self._num_microbatches, self._kind
    )
    bucket = find_bucket(needs[0], self.buckets)
    if bucket is None:
      worst = self._kind(*map(int, needs[0]))
      budget_lib.check_fits(worst, self.buckets[-1], f"Step {number + 1}")
    pick = lambda values: tuple(
      tuple(values[parts == i].tolist()) for i in range(self._num_microbatches)
    )
    return StepPlan(pick(draws), pick(rows), bucket or 0)


def steps_per_epoch(num_structures: int, batch_size: int) -> int:
  """Number of steps of a pass over structures, of which the last may have fewer."""
  return -(-num_structures // batch_size)


def deal(work: np.ndarray, num_microbatches: int) -> np.ndarray:
  """Deals the structures of batches to microbatches, evenly by number and by work.

  Structures are dealt in rounds, the largest first. In each round every microbatch gets
  one, the larger ones those that hold less so far.

  Args:
    work: [batches, n] what each structure costs.
    num_microbatches: m, number of microbatches of a batch.

  Returns:
    [batches, n] number of the microbatch of each structure.
  """
  by_work = np.argsort(-work.astype(np.int64), axis=1, kind="stable")
  load = np.zeros((len(work), num_microbatches), np.int64)
  result = np.zeros(work.shape, np.int64)
  batches = np.arange(len(work))[:, None]
  for first in range(0, work.shape[1], num_microbatches):
    chosen = by_work[:, first : first + num_microbatches]
    lightest = np.argsort(load, axis=1, kind="stable")[:, : chosen.shape[1]]
    result[batches, chosen] = lightest
    load[batches, lightest] += work[batches, chosen]
  return result


def microbatch_needs(
  sizes: np.ndarray,
  parts: np.ndarray,
  num_microbatches: int,
  kind: type[budget_lib.Budget],
) -> np.ndarray:
  """What a budget must offer so that each microbatch of a batch fits.

  Args:
    sizes: [batches, n, fields] what each structure needs.
    parts: [batches, n] microbatch of each structure, from `deal`.
    num_microbatches: m.
    kind: type of the budget.

  Returns:
    [batches, fields] int64, field by field the most that a microbatch needs.
  """
  needs = np.zeros((len(sizes), sizes.shape[2]), np.int64)
  for column, name in enumerate(budget_lib.names(kind)):
    values = sizes[:, :, column].astype(np.int64)
    if name in budget_lib.width_names(kind):
      needs[:, column] = values.max(axis=1)
      continue
    for part in range(num_microbatches):
      total = np.where(parts == part, values, 0).sum(axis=1)
      needs[:, column] = np.maximum(needs[:, column], total)
  return needs


def find_bucket(needs: np.ndarray, buckets: Sequence[budget_lib.Budget]) -> int | None:
  """Index of the first budget with room for [fields] needs, or None."""
  for index, budget in enumerate(buckets):
    if np.all(needs <= budget_lib.capacity(budget).as_array()):
      return index
  return None


def choose_buckets(
  sizes: np.ndarray,
  draws: Draws,
  batch_size: int,
  num_microbatches: int,
  kind: type[budget_lib.BudgetT],
  num_steps: int,
) -> tuple[budget_lib.BudgetT, ...]:
  """Chooses the few budgets that the steps of a run are packed to.

  Args:
    sizes: [rows, fields] what each structure needs, by `budget.names`.
    draws: which structure every draw is.
    batch_size: structures of a step.
    num_microbatches: microbatches of a step.
    kind: type of the budget.
    num_steps: steps of the run. The first of them are looked at, and a compilation has
      to pay for itself.

  Returns:
    At most four budgets, the cheapest first. The last one is always enough.
  """
  length = draws.epoch_length
  batch_size = min(batch_size, length)
  count = min(_MOST_STEPS, _MOST_STRUCTURES // batch_size, num_steps)
  steps = np.arange(max(1, count))
  # Full batches alone: what is left at the end of an epoch needs less.
  epochs, steps = np.divmod(steps, length // batch_size)
  numbers = (epochs * length + steps * batch_size)[:, None] + np.arange(batch_size)
  found = sizes[draws.rows(numbers.ravel())].reshape(*numbers.shape, -1)
  work = found[:, :, budget_lib.main_column(kind)]
  parts = deal(work, num_microbatches)
  needs = microbatch_needs(found, parts, num_microbatches, kind)
  most = most_needed(sizes, -(-batch_size // num_microbatches), kind)
  return bucket_search.search(needs, most, kind, num_steps)


def most_needed(
  sizes: np.ndarray, count: int, kind: type[budget_lib.Budget]
) -> np.ndarray:
  """[fields] the most that `count` of the structures can need together."""
  largest = np.sort(sizes, axis=0)[-count:].astype(np.int64)
  widths = [name in budget_lib.width_names(kind) for name in budget_lib.names(kind)]
  return np.where(widths, largest[-1], largest.sum(axis=0))
