"""Room in shared memory for the batches of several steps.

A slot holds the arrays of one step, [local microbatches, …]. Workers fill its rows;
then it is lent to whoever uses the batch, and is free again when nobody holds its
arrays any more.
"""

import collections
from collections.abc import Sequence
import dataclasses
import math
import weakref

import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.runtime import shared_memory

_ALIGNMENT = 64  # What XLA wants of arrays that it uses in place on a CPU.
_PAGE = 4096


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where one array of a batch lies in a slot."""

  offset: int
  shape: tuple[int, ...]
  dtype: np.dtype


class Slots:
  """Slots in shared memory; processes that are started with it share them."""

  def __init__(self, templates: Sequence[batch_lib.Batch], rows: int, count: int):
    """Takes the memory; none of it is used before batches are written.

    Args:
      templates: a microbatch of every budget.
      rows: local microbatches.
      count: number of slots.

    Raises:
      SharedMemoryError: there is not enough memory.
    """
    self._places: list[list[_Place]] = []
    size = 0
    for template in templates:
      places, offset = [], 0
      for leaf in jax.tree.leaves(template):
        shape = (rows, *leaf.shape)
        places.append(_Place(offset, shape, leaf.dtype))
        offset += -(-leaf.dtype.itemsize * math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
      self._places.append(places)
      size = max(size, offset)
    self._slot_size = -(-size // _PAGE) * _PAGE
    self.count = count
    self._memory = shared_memory.SharedMemory(
      self._slot_size * count,
      f"It is for {count} batches of {self._slot_size / 2**20:.0f} MiB that are made "
      "ahead: use a smaller prefetch_batches, fewer workers (--num_workers) or smaller "
      "microbatches.",
    )

  def arrays(self, slot: int, bucket: int) -> list[np.ndarray]:
    """The arrays of a slot for batches of one budget; all are views of one array."""
    whole = np.frombuffer(
      self._memory.map, np.uint8, self._slot_size, slot * self._slot_size
    )
    return [
      np.ndarray(place.shape, place.dtype, whole, place.offset)
      for place in self._places[bucket]
    ]

  def write(self, slot: int, bucket: int, row: int, batch: batch_lib.Batch) -> None:
    """Writes a microbatch into a row of a slot."""
    arrays = self.arrays(slot, bucket)
    for array, leaf in zip(arrays, jax.tree.leaves(batch), strict=True):
      array[row] = leaf


class Lender:
  """Knows which slots are free, and lends those that are full.

  Arrays that were lent are not written to before nobody holds them. Where too many are
  held, they are copied instead, so that there are always slots to go on with.
  """

  def __init__(self, slots: Slots, most: int):
    """All slots are free.

    Args:
      slots: the slots.
      most: how many may be lent at a time.
    """
    self._slots = slots
    self._most = most
    self._free = list(range(slots.count))[::-1]
    self._lent: set[int] = set()
    # Appended to by whichever thread drops the last array of a slot.
    self._returned: collections.deque[int] = collections.deque()

  def take(self) -> int | None:
    """A free slot to be filled, or None."""
    self._collect()
    return self._free.pop() if self._free else None

  def lend(self, slot: int, bucket: int) -> list[np.ndarray]:
    """The arrays of a slot that is full."""
    self._collect()
    arrays = self._slots.arrays(slot, bucket)
    if len(self._lent) >= self._most:
      arrays = [array.copy() for array in arrays]
      self._free.append(slot)
      return arrays
    self._lent.add(slot)
    weakref.finalize(arrays[0].base, self._returned.append, slot).atexit = False
    return arrays

  def _collect(self) -> None:
    while self._returned:
      slot = self._returned.popleft()
      self._lent.remove(slot)
      self._free.append(slot)
