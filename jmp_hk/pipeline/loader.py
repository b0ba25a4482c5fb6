"""Runs lanes, here or in worker processes, and gives the batch of every step.

Workers do everything up to packed arrays, which they write into shared memory. This
process gets a small message for each microbatch; it does nothing for single structures.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import itertools

import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import lane_workers
from jmp_hk.pipeline import lanes as lanes_lib
from jmp_hk.pipeline import microbatches
from jmp_hk.pipeline import slots as slots_lib
from jmp_hk.runtime import prefetch
from jmp_hk.runtime import shared_memory
from jmp_hk.runtime import workers

_DEATH_MESSAGE = (
  "A process that makes batches died, perhaps for lack of memory; use fewer workers "
  "(num_workers)."
)
_LENT = 3  # Slots that are lent at a time; what is held longer is copied.


@dataclasses.dataclass(frozen=True)
class Step:
  """The microbatches of one step that this process serves.

  Attributes:
    batch: their arrays, [local microbatches, …].
    microbatches: facts about each; where its lane has ended, about padding.
  """

  batch: batch_lib.Batch
  microbatches: tuple[microbatches.Facts, ...]


class Loader(Iterator[Step]):
  """Iterates over steps, until all lanes have ended; close it.

  Raises what the lanes raise, at their step, and `WorkerError` where a worker died.
  """

  def close(self) -> None:
    """Ends workers and threads."""

  @property
  def worker_seconds(self) -> float:
    """Processor time that workers have used, as far as it is known."""
    return 0.0

  @property
  def worker_ids(self) -> list[int]:
    """Numbers of the worker processes."""
    return []


def open_lanes(
  lanes: lanes_lib.Lanes,
  spec: microbatches.BatchSpec,
  config: config_lib.PipelineConfig,
  *,
  states: lane_workers.States | None = None,
  first_step: int = 0,
) -> Loader:
  """Starts to run lanes.

  Args:
    lanes: [local microbatches][streams per microbatch] lanes.
    spec: what batches look like.
    config: workers and prefetching.
    states: states to go on from, likewise; None begins.
    first_step: number of the first step that is wanted.
  """
  if states is None:
    states = [[None] * len(streams) for streams in lanes]
  if config.num_workers:
    return _WorkerLoader(lanes, spec, config, states, first_step)
  return _LocalLoader(lanes, spec, config, states, first_step)


class _LocalLoader(Loader):
  """Runs lanes in this process, in a thread where batches are made ahead."""

  def __init__(
    self,
    lanes: lanes_lib.Lanes,
    spec: microbatches.BatchSpec,
    config: config_lib.PipelineConfig,
    states: lane_workers.States,
    first_step: int,
  ):
    self._steps = _run(lanes, spec, states, first_step)
    self._prefetcher = None
    if config.prefetch_batches:
      self._prefetcher = prefetch.Prefetcher(self._steps, config.prefetch_batches)

  def __next__(self) -> Step:
    return next(self._prefetcher or self._steps)

  def close(self) -> None:
    """See `Loader`."""
    if self._prefetcher is not None:
      self._prefetcher.close()


def _run(
  lanes: lanes_lib.Lanes,
  spec: microbatches.BatchSpec,
  states: lane_workers.States,
  first_step: int,
) -> Iterator[Step]:
  """Makes the microbatches of a step one after another."""
  opened = [
    [lane.open(state) for lane, state in zip(*row, strict=True)]
    for row in zip(lanes, states, strict=True)
  ]
  for step in itertools.count(first_step):
    found = [next(streams[step % len(streams)], None) for streams in opened]
    present = [microbatch.facts for microbatch in found if microbatch is not None]
    if not present:
      return
    bucket = _bucket(present)
    made = [
      spec.pack([], bucket) if microbatch is None else microbatch
      for microbatch in found
    ]
    facts = tuple(microbatch.facts for microbatch in made)
    stacked = jax.tree.map(
      lambda *leaves: np.stack(leaves), *(microbatch.batch for microbatch in made)
    )
    yield Step(stacked, facts)


class _WorkerLoader(Loader):
  """Lets workers run lanes."""

  def __init__(
    self,
    lanes: lanes_lib.Lanes,
    spec: microbatches.BatchSpec,
    config: config_lib.PipelineConfig,
    states: lane_workers.States,
    first_step: int,
  ):
    self._rows = len(lanes)
    num_lanes = self._rows * len(lanes[0])
    num_workers = min(config.num_workers, num_lanes)
    templates = [spec.pack([], bucket).batch for bucket in range(len(spec.budgets))]
    self._treedef = jax.tree.structure(templates[0])
    # Workers that run at a time need room for so many steps.
    in_work = -(-num_workers // self._rows)
    slots = slots_lib.Slots(
      templates, self._rows, max(1, config.prefetch_batches) + in_work + _LENT
    )
    self._lender = slots_lib.Lender(slots, _LENT)
    self._job = lane_workers.Job(
      lanes, states, spec, first_step, num_workers, _kinds(spec)
    )
    self._step = self._next_slot = first_step
    self._slots: dict[int, int] = {}
    self._made: dict[int, dict[int, lane_workers.Made]] = {}
    self._seconds = [0.0] * num_workers
    self._crew = workers.Crew(
      num_workers,
      _DEATH_MESSAGE,
      lane_workers.work,
      shared_memory.SharedValue(self._job),
      slots,
    )

  def __next__(self) -> Step:
    self._assign_slots()
    while len(self._made.get(self._step, {})) < self._rows:
      for number, message in self._crew.receive():
        if isinstance(message, Exception):
          raise message
        self._made.setdefault(message.step, {})[message.row] = message
        self._seconds[number] = message.seconds
    made = self._made.pop(self._step)
    found = [made[row] for row in range(self._rows)]
    for message in found:
      if message.error is not None:
        self._made[self._step] = made  # It comes again if anybody asks again.
        raise message.error
    if all(message.has_ended for message in found):
      self._made[self._step] = made
      raise StopIteration
    facts = tuple(message.facts for message in found if message.facts is not None)
    bucket = _bucket(facts)
    arrays = self._lender.lend(self._slots.pop(self._step), bucket)
    self._step += 1
    return Step(jax.tree.unflatten(self._treedef, arrays), facts)

  def close(self) -> None:
    """See `Loader`."""
    self._crew.close()

  @property
  def worker_seconds(self) -> float:
    """See `Loader`."""
    return sum(self._seconds)

  @property
  def worker_ids(self) -> list[int]:
    """See `Loader`."""
    return self._crew.process_ids

  def _assign_slots(self) -> None:
    """Tells workers where the arrays of the next steps belong, while there is room."""
    while (slot := self._lender.take()) is not None:
      step, self._next_slot = self._next_slot, self._next_slot + 1
      self._slots[step] = slot
      for number in {self._job.worker(step, row) for row in range(self._rows)}:
        self._crew.send(number, lane_workers.Slot(step, slot))


def _kinds(spec: microbatches.BatchSpec) -> tuple[type, ...]:
  """Classes of all targets."""
  return tuple({type(target.spec) for task in spec.tasks for target in task.targets})


def _bucket(facts: Sequence[microbatches.Facts]) -> int:
  """The budget that all microbatches of a step are packed to."""
  buckets = {entry.bucket for entry in facts}
  if len(buckets) > 1:
    raise ValueError(f"The microbatches of a step have several buckets: {buckets}.")
  return buckets.pop()
