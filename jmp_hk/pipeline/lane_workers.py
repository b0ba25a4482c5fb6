"""What a worker process does: it runs lanes and writes microbatches into slots.

A worker makes the next microbatch of its lanes in the order of their steps. When it
has been told the slot of the step, it writes the arrays there and sends a message.
"""

import collections
from collections.abc import Sequence
import dataclasses
from multiprocessing import connection
import pickle
import time
import traceback
from typing import NamedTuple

from jmp_hk.pipeline import lanes as lanes_lib
from jmp_hk.pipeline import microbatches
from jmp_hk.pipeline import slots as slots_lib
from jmp_hk.runtime import allocator
from jmp_hk.runtime import shared_memory

# [local microbatches][streams per microbatch] states of lanes.
States = Sequence[Sequence[microbatches.State | None]]


class Slot(NamedTuple):
  """A message to a worker: where the arrays of a step belong.

  Attributes:
    step: number of the step; a worker is told of all steps that it works for, in order.
    slot: number of the slot.
  """

  step: int
  slot: int


class Made(NamedTuple):
  """A message from a worker: a microbatch is in its slot, or it never will be.

  Attributes:
    step: number of the step.
    row: which of the local microbatches it is.
    facts: facts about it.
    has_ended: whether it is padding because the lane has ended.
    seconds: processor time that the worker has used since it began.
    error: what the lane raised instead.
  """

  step: int
  row: int
  facts: microbatches.Facts | None
  has_ended: bool
  seconds: float
  error: Exception | None = None


@dataclasses.dataclass(frozen=True)
class Job:
  """What all workers of a loader are told; they share its memory.

  Attributes:
    lanes: all lanes.
    states: where each of them begins.
    spec: what batches look like.
    first_step: number of the first step.
    num_workers: number of workers; lane after lane, they take turns.
    kinds: classes of the tasks' targets, so that their modules are imported, which
      registers them.
  """

  lanes: lanes_lib.Lanes
  states: States
  spec: microbatches.BatchSpec
  first_step: int
  num_workers: int
  kinds: tuple[type, ...]

  def worker(self, step: int, row: int) -> int:
    """Number of the worker that makes a microbatch."""
    streams = len(self.lanes[0])
    return (step % streams * len(self.lanes) + row) % self.num_workers


def work(
  number: int,
  pipe: connection.Connection,
  shared_job: shared_memory.SharedValue,
  slots: slots_lib.Slots,
) -> None:
  """Makes microbatches until the pipe is closed.

  Args:
    number: number of this worker.
    pipe: gives `Slot`s; takes `Made`s, and an error where work cannot go on.
    shared_job: a `Job`.
    slots: where the arrays go.
  """
  allocator.keep_freed_memory()
  try:
    job = _load(shared_job)
    _Worker(pipe, job, slots).run(number)
  except (EOFError, BrokenPipeError, ConnectionResetError):
    pass  # The loader was closed, or its process has ended.
  except Exception as error:
    pipe.send(_sendable(error))


def _load(shared_job: shared_memory.SharedValue) -> Job:
  try:
    return shared_job.load()
  except (AttributeError, ImportError) as error:
    raise RuntimeError(
      f"A worker process cannot load what it needs ({error}). Define sources, kinds of "
      "targets and the like in a module that can be imported, not in the main program "
      "or a notebook, or use no workers (num_workers=0)."
    ) from error


class _Worker:
  """The state of a worker."""

  def __init__(
    self, pipe: connection.Connection, job: Job, slots: slots_lib.Slots
  ) -> None:
    self._pipe, self._job, self._slots = pipe, job, slots
    self._known: collections.deque[Slot] = collections.deque()
    self._padding = job.spec.pack([])

  def run(self, number: int) -> None:
    """Makes the microbatches of this worker's lanes, step by step, without end."""
    job = self._job
    streams = len(job.lanes[0])
    opened = {}
    step = job.first_step
    while True:
      for row, lanes in enumerate(job.lanes):
        if job.worker(step, row) != number:
          continue
        stream = step % streams
        if (row, stream) not in opened:
          opened[row, stream] = lanes[stream].open(job.states[row][stream])
        try:
          made = next(opened[row, stream], None)
        except Exception as error:
          self._pipe.send(
            Made(step, row, None, False, time.process_time(), _sendable(error))
          )
          opened[row, stream] = iter(())
          continue
        self._give(step, row, made)
      step += 1

  def _give(self, step: int, row: int, made: microbatches.Microbatch | None) -> None:
    """Writes a microbatch as soon as there is room, and tells so."""
    batch, facts = self._padding if made is None else made
    slot = self._slot_of(step)
    self._slots.write(slot, facts.bucket, row, batch)
    self._pipe.send(Made(step, row, facts, made is None, time.process_time()))

  def _slot_of(self, step: int) -> int:
    """Waits for the slot of a step."""
    while self._known and self._known[0].step < step:
      self._known.popleft()
    while not self._known:
      slot: Slot = self._pipe.recv()
      if slot.step >= step:
        self._known.append(slot)
    return self._known[0].slot


def _sendable(error: Exception) -> Exception:
  """The error with a note of where it happened, such that it can be pickled."""
  error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    notes = error.__notes__
    error = RuntimeError(f"{type(error).__name__}: {error}")
    for note in notes:
      error.add_note(note)
  return error
