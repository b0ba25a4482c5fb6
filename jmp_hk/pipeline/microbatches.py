"""From a stream of structures to packed microbatches."""

import collections
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np
import numpy.typing as npt

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.pipeline import graph_workers
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels

_CHUNK = 8  # Structures that a worker gets at once.

_Item = tuple[int, packing.PackItem, budget_lib.Budget]  # Draw, structure, sizes.


@dataclasses.dataclass(frozen=True)
class Example:
  """One structure of a stream, with everything that packing needs.

  Attributes:
    draw: its number in the stream; it belongs to microbatch draw % num_microbatches.
    structure: the structure.
    task: index of its task among the model's tasks.
    graph: graph settings of its dataset.
    targets: its normalised labels by name.
  """

  draw: int
  structure: structure_lib.Structure
  task: int
  graph: graph_config.GraphConfig
  targets: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MicrobatchState:
  """Where a `MicrobatchStream` stands after a batch.

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
    """Whether a draw has not been packed yet."""
    return draw >= self.next or draw in self.pool


@dataclasses.dataclass(frozen=True)
class Microbatch:
  """Structures that are packed together, one part of a step's batch.

  Attributes:
    batch: the packed structures.
    draws: numbers in the stream of its structures, in the order of the batch.
    record_ids: record ids of its structures, in the same order.
    sizes: what all its structures need together.
  """

  batch: batch_lib.Batch
  draws: tuple[int, ...]
  record_ids: tuple[str, ...]
  sizes: budget_lib.Budget


@dataclasses.dataclass(frozen=True)
class BatchSpec:
  """What every batch of a run looks like, in training and evaluation alike.

  Attributes:
    tasks: tasks of the model, which say what labels a batch has.
    builder: the backbone's builder of graphs.
    budget: static sizes of a microbatch.
    num_microbatches: microbatches of one step, over all devices and processes.
    dtype: data type of positions, cells and labels.
  """

  tasks: tuple[tasks_lib.TaskConfig, ...]
  builder: builder_lib.GraphBuilder
  budget: budget_lib.Budget
  num_microbatches: int = 1
  dtype: npt.DTypeLike = np.float32

  def __post_init__(self) -> None:
    if self.num_microbatches < 1:
      raise ValueError(
        f"num_microbatches must be positive, got {self.num_microbatches}."
      )

  def pack(
    self, items: Sequence[tuple[int, packing.PackItem, budget_lib.Budget]]
  ) -> Microbatch:
    """Packs structures (draw, item, sizes); none gives a microbatch of padding."""
    items = [items[i] for i in packing.task_order([item.task for _, item, _ in items])]
    return Microbatch(
      batch=packing.pack(
        [item for _, item, _ in items],
        self.builder,
        self.budget,
        self.dtype,
        labels.label_shapes(self.tasks),
      ),
      draws=tuple(draw for draw, _, _ in items),
      record_ids=tuple(item.graphs.structure.record_id for _, item, _ in items),
      sizes=budget_lib.total([sizes for _, _, sizes in items], type(self.budget)),
    )


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
      num_microbatches: microbatches of one step over all processes.
      wanted: says whether a draw is still needed.
      local: numbers of the microbatches that are asked for here.
    """
    self._examples = iter(examples)
    self._num_microbatches = num_microbatches
    self._wanted = wanted
    self._queues: dict[int, collections.deque[Example]] = {
      index: collections.deque() for index in local
    }

  def next(self, index: int) -> Example | None:
    """Next structure of microbatch `index`, or None at the end of the stream."""
    queue = self._queues[index]
    while not queue:
      example = next(self._examples, None)
      if example is None:
        return None
      owner = example.draw % self._num_microbatches
      if owner in self._queues and self._wanted(example.draw):
        self._queues[owner].append(example)
    return queue.popleft()


class MicrobatchStream:
  """Microbatch number i of every step: builds graphs ahead of a pool and packs.

  Draw t of the stream belongs to microbatch t % num_microbatches, whatever processes
  and devices serve it.
  """

  def __init__(
    self,
    spec: BatchSpec,
    router: Router,
    workers: graph_workers.GraphWorkers,
    state: MicrobatchState,
    *,
    index: int,
    pool_size: int = 64,
    seed: int | None = None,
  ):
    """Continues from a state.

    Args:
      spec: what a microbatch looks like.
      router: gives structures from `state.first` on.
      workers: build graphs.
      state: where the stream stands.
      index: number of the microbatch in a step.
      pool_size: structures that wait at most for a batch they fit into.
      seed: seed of the edge dropout; None leaves all edges in.
    """
    self._spec = spec
    self._index = index
    self._router = router
    self._workers = workers
    self._seed = seed
    self._next = state.next
    self._pool: pool_lib.Pool[_Item] = pool_lib.Pool(spec.budget, pool_size)
    self._in_flight: collections.deque[tuple[list[Example], graph_workers.Result]] = (
      collections.deque()
    )
    self._built: collections.deque[tuple[Example, builder_lib.StructureGraphs]] = (
      collections.deque()
    )
    self._ended = False

  @property
  def state(self) -> MicrobatchState:
    """Where the stream stands after the microbatches that it has given."""
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
        self._built.extend(zip(examples, result(), strict=True))
      if not self._built:
        break
      self._add(*self._built.popleft())
    self._submit(ahead)
    _, items = self._pool.take()
    return self._spec.pack(items) if items else None

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
          graph_workers.GraphJob(
            example.structure,
            example.graph,
            self._spec.builder,
            self._seed,
            example.draw,
          )
          for example in examples
        ]
        self._in_flight.append((examples, self._workers.submit(jobs)))

  def _add(self, example: Example, graphs: builder_lib.StructureGraphs) -> None:
    item = packing.PackItem(graphs, example.task, example.targets)
    sizes = self._spec.builder.sizes(graphs)
    record_id = example.structure.record_id
    self._pool.add(example.draw, (example.draw, item, sizes), sizes, record_id)
    # What is put back from an old pool lies before `next`.
    self._next = max(self._next, example.draw + self._spec.num_microbatches)
