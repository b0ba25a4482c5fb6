"""Lanes: sequential makers of microbatches, which processes share out among them.

Microbatch number i of the steps s, s + S, s + 2 S, … comes from lane (i, s), where
S = `PipelineConfig.streams_per_microbatch`. A lane knows nothing of the others, so the
batches are the same whatever processes and workers run the lanes.
"""

import abc
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools

from jmp_hk.graphs import pool as pool_lib
from jmp_hk.pipeline import microbatches
from jmp_hk.pipeline import mixture as mixture_lib

_READ_AT_ONCE = 8  # Structures.

Items = Iterator[microbatches.Item]


class Lane(abc.ABC):
  """Makes every S-th microbatch of one place in a step; a small picklable value."""

  @abc.abstractmethod
  def open(
    self, state: microbatches.State | None = None
  ) -> Iterator[microbatches.Microbatch]:
    """Yields its microbatches; may end.

    Args:
      state: the `Facts.state` after which to go on; None begins.
    """

  def epoch(self, state: microbatches.State | None = None) -> float:
    """How many epochs of the data lie before what the lane gives after a state."""
    del state
    return 0.0


Lanes = Sequence[Sequence[Lane]]  # [local microbatches][streams per microbatch].


@dataclasses.dataclass(frozen=True)
class PackedLane(Lane):
  """Fills the budget with draws of a mixture, endlessly.

  Its state holds the first draw that has not been put into the pool ("next"), those
  that wait in it ("pool", oldest first), and how often each dataset was drawn before
  them ("position", see `mixture.Walk`).

  Attributes:
    preparation: reads and builds structures.
    mixture: says what the draws are.
    first: its first draw.
    stride: distance between its draws.
    pool_size: structures that wait at most for a batch that they fit into.
    epoch_length: draws in an epoch.
  """

  preparation: microbatches.Preparation
  mixture: mixture_lib.Mixture
  first: int
  stride: int
  pool_size: int
  epoch_length: int

  def open(
    self, state: microbatches.State | None = None
  ) -> Iterator[microbatches.Microbatch]:
    """See `Lane`.

    Raises:
      BudgetError: a structure does not fit into an empty batch.
      InvalidStructureError: graphs of a structure cannot be built.
    """
    state = state or {}
    spec = self.preparation.spec
    walk = mixture_lib.Walk(self.mixture, state.get("position"))
    next_draw = state.get("next", self.first)
    numbers = itertools.chain(
      state.get("pool", ()), itertools.count(next_draw, self.stride)
    )
    items = _read(self.preparation, map(walk.find, _chunks(numbers)))
    pool: pool_lib.Pool[microbatches.Item] = pool_lib.Pool(spec.budget, self.pool_size)
    while True:
      while not pool.is_full:
        item = next(items)
        pool.add(item.draw, item, item.sizes, item.record_id)
        # What is put back from an old pool lies before `next_draw`.
        next_draw = max(next_draw, item.draw + self.stride)
      _, chosen = pool.take()
      position = walk.position(min([next_draw, *pool.draws]))
      yield spec.pack(
        chosen, state={"next": next_draw, "pool": pool.draws, "position": position}
      )

  def epoch(self, state: microbatches.State | None = None) -> float:
    """See `Lane`."""
    return (state["next"] if state else self.first) / self.epoch_length


@dataclasses.dataclass(frozen=True)
class EvaluationLane(Lane):
  """Packs some structures of one dataset, a little out of order, and ends.

  Attributes:
    preparation: reads and builds structures.
    indices: places of the evaluated structures in the source, of all lanes.
    first: the first of these that this lane packs.
    stride: distance between those that it packs.
    pool_size: structures that wait at most for a batch that they fit into.
  """

  preparation: microbatches.Preparation
  indices: range
  first: int
  stride: int
  pool_size: int

  def open(
    self, state: microbatches.State | None = None
  ) -> Iterator[microbatches.Microbatch]:
    """See `Lane`; begins anew whatever the state, and raises as `PackedLane` does."""
    del state
    spec = self.preparation.spec
    draws = (
      microbatches.Draw(number, 0, self.indices[number])
      for number in range(self.first, len(self.indices), self.stride)
    )
    items = _read(self.preparation, _chunks(draws))
    pool: pool_lib.Pool[microbatches.Item] = pool_lib.Pool(spec.budget, self.pool_size)
    while True:
      while not pool.is_full and (item := next(items, None)) is not None:
        pool.add(item.draw, item, item.sizes, item.record_id)
      if not len(pool):
        return
      yield spec.pack(pool.take()[1])


def _chunks(values: Iterable) -> Iterator[list]:
  values = iter(values)
  while chunk := list(itertools.islice(values, _READ_AT_ONCE)):
    yield chunk


def _read(
  preparation: microbatches.Preparation,
  chunks: Iterable[Sequence[microbatches.Draw]],
) -> Items:
  return itertools.chain.from_iterable(map(preparation.items, chunks))
