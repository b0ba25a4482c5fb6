"""From a stream of structures to the microbatches of each microbatch."""

import collections
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import build
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.pipeline import graph_jobs
from jmp_hk.pipeline import graph_workers

_CHUNK = 8  # Structures that a worker gets at once.


@dataclasses.dataclass(frozen=True)
class Example:
  """One structure of a stream, with everything that packing needs.

  Attributes:
    draw: its number in the stream; it belongs to microbatch draw % num_microbatches.
    structure: the structure.
    task: index of its task.
    graph: graph settings of its dataset.
    targets: its normalised labels.
  """

  draw: int
  structure: structure_lib.Structure
  task: int
  graph: graph_config.GraphConfig
  targets: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MicrobatchState:
  """Where a microbatch stands after a batch.

  Attributes:
    next: its first draw that was not put into the pool yet.
    pool: draws that wait in the pool, oldest first.
  """

  next: int
  pool: tuple[int, ...] = ()

  @property
  def first(self) -> int:
    """First draw that is still needed."""
    return min((self.next, *self.pool))

  def needs(self, draw: int) -> bool:
    return draw >= self.next or draw in self.pool


@dataclasses.dataclass(frozen=True)
class Microbatch:
  """What one microbatch contributes to a step.

  Attributes:
    batch: packed structures.
    draws: numbers in the stream of its structures, in the order of the batch.
    record_ids: likewise.
    sizes: of all its structures together.
  """

  batch: batch_lib.Batch
  draws: tuple[int, ...]
  record_ids: tuple[str, ...]
  sizes: budget_lib.Sizes


@dataclasses.dataclass(frozen=True)
class MicrobatchSettings:
  """What all microbatches of a stream share.

  Attributes:
    budget: of a microbatch.
    specs: shapes of the labels.
    dtype: of positions, cells and labels.
    pool_size: structures that wait at most.
    edge_dropout: probability of leaving out an edge.
    seed: of the dropout.
  """

  budget: batch_lib.Budget
  specs: Mapping[str, packing.TargetSpec]
  dtype: np.dtype = np.float32
  pool_size: int = 64
  edge_dropout: float = 0.0
  seed: int = 0


class Router:
  """Hands each microbatch its part of a stream that is read once, in order."""

  def __init__(
    self,
    examples: Iterable[Example],
    num_microbatches: int,
    wanted: Callable[[int], bool],
    local: Collection[int],
  ):
    """Reads nothing yet.

    Args:
      examples: the stream; draws that are not wanted may be missing.
      num_microbatches: microbatches of all processes.
      wanted: whether a draw is still needed.
      local: microbatches that are asked for here.
    """
    self._examples = iter(examples)
    self._num_microbatches = num_microbatches
    self._wanted = wanted
    self._queues = {microbatch: collections.deque() for microbatch in local}

  def next(self, microbatch: int) -> Example | None:
    """Next structure of a microbatch, or None at the end of the stream."""
    queue = self._queues[microbatch]
    while not queue:
      example = next(self._examples, None)
      if example is None:
        return None
      owner = example.draw % self._num_microbatches
      if owner in self._queues and self._wanted(example.draw):
        self._queues[owner].append(example)
    return queue.popleft()


class MicrobatchStream:
  """Builds graphs ahead of a pool and packs what the pool chooses."""

  def __init__(
    self,
    index: int,
    num_microbatches: int,
    router: Router,
    builder: graph_workers.Builder,
    settings: MicrobatchSettings,
    state: MicrobatchState,
  ):
    """Continues from a state.

    Args:
      index: of the microbatch.
      num_microbatches: microbatches of all processes.
      router: gives structures from `state.first` on.
      builder: builds graphs.
      settings: what all microbatches share.
      state: where the microbatch stands.
    """
    self._index = index
    self._stride = num_microbatches
    self._router = router
    self._builder = builder
    self._settings = settings
    self._next = state.next
    self._pool = pool_lib.Pool(settings.budget, settings.pool_size)
    self._in_flight = collections.deque()
    self._built = collections.deque()
    self._ended = False

  @property
  def state(self) -> MicrobatchState:
    return MicrobatchState(self._next, tuple(self._pool.draws))

  def next_batch(self, ahead: int) -> Microbatch | None:
    """Packs the next microbatch, or returns None at the end of the stream.

    Args:
      ahead: chunks of structures to keep in the workers' hands.

    Raises:
      BudgetError: a structure does not fit into an empty batch.
      InvalidStructureError: graphs of a structure cannot be built.
    """
    while not self._pool.is_full:
      self._submit(ahead)
      if not self._built and self._in_flight:
        examples, result = self._in_flight.popleft()
        self._built.extend(zip(examples, result()))
      if not self._built:
        break
      self._add(*self._built.popleft())
    self._submit(ahead)
    _, items = self._pool.take()
    return pack_examples(items, self._settings) if items else None

  def _submit(self, ahead: int) -> None:
    """Hands out chunks until enough are on their way."""
    while not self._ended and len(self._in_flight) < ahead:
      examples = []
      while len(examples) < _CHUNK:
        example = self._router.next(self._index)
        if example is None:
          self._ended = True
          break
        examples.append(example)
      if examples:
        jobs = [
          graph_jobs.GraphJob(
            example.structure,
            example.graph,
            self._settings.edge_dropout,
            self._settings.seed,
            example.draw,
          )
          for example in examples
        ]
        self._in_flight.append((examples, self._builder.submit(jobs)))

  def _add(self, example: Example, graphs: build.StructureGraphs) -> None:
    item = packing.PackItem(graphs, example.task, example.targets)
    sizes = budget_lib.sizes_of(graphs)
    record_id = example.structure.record_id
    self._pool.add(example.draw, (example.draw, item, sizes), sizes, record_id)
    # What is put back from an old pool lies before `next`.
    self._next = max(self._next, example.draw + self._stride)


def pack_examples(
  items: Sequence[tuple[int, packing.PackItem, budget_lib.Sizes]],
  settings: MicrobatchSettings,
) -> Microbatch:
  """Packs structures (draw, item, sizes); none gives a microbatch of padding."""
  items = [items[i] for i in packing.task_order([item.task for _, item, _ in items])]
  return Microbatch(
    batch=packing.pack(
      [item for _, item, _ in items],
      settings.budget,
      settings.dtype,
      settings.specs,
    ),
    draws=tuple(draw for draw, _, _ in items),
    record_ids=tuple(item.graphs.structure.record_id for _, item, _ in items),
    sizes=budget_lib.total([sizes for _, _, sizes in items]),
  )
