"""Memory that this process shares with its workers, and that nothing can leave behind.

It has no name: only processes that were handed it can find it, and the system frees it
when the last of them has ended, in whatever way.
"""

from collections.abc import Sequence
import math
import mmap
from multiprocessing import reduction
import os
import pathlib
import pickle
import tempfile
from typing import Any
import weakref

_ALIGNMENT = 64


class SharedMemoryError(MemoryError):
  """The system gives no shared memory of the wanted size."""


class SharedMemory:
  """Bytes that are shared with processes started with it among their arguments.

  Attributes:
    size: number of bytes.
    map: the bytes.
  """

  def __init__(self, size: int, what: str = "") -> None:
    """Takes memory, which is zero.

    Args:
      size: number of bytes.
      what: what it is for and how to do with less, for the error message.

    Raises:
      SharedMemoryError: there is not enough.
    """
    self.size = max(size, 1)
    available = _available()
    if self.size > available:
      # The system would say so only by ending a process when the memory is used.
      raise SharedMemoryError(
        f"{self.size / 2**20:.0f} MiB of shared memory are wanted, but only "
        f"{available / 2**20:.0f} MiB of memory are free. {what}"
      )
    try:
      self._descriptor = _anonymous_file(self.size)
      self.map = mmap.mmap(self._descriptor, self.size)
    except (OSError, OverflowError) as error:
      raise SharedMemoryError(
        f"{self.size / 2**20:.0f} MiB of shared memory cannot be had ({error}). {what}"
      ) from error
    weakref.finalize(self, os.close, self._descriptor)  # The map stays with its arrays.

  def __getstate__(self) -> tuple[int, Any]:
    """Hands the file to a process that is being started; nothing else can have it."""
    return self.size, reduction.DupFd(self._descriptor)

  def __setstate__(self, state: tuple[int, Any]) -> None:
    self.size, descriptor = state
    self._descriptor = descriptor.detach()
    self.map = mmap.mmap(self._descriptor, self.size)
    weakref.finalize(self, os.close, self._descriptor)


def _available() -> float:
  """Bytes of memory that are free, where the system says it (Linux)."""
  try:
    lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
  except OSError:
    return math.inf
  found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
  return 1024 * float(next(found, math.inf))


def _anonymous_file(size: int) -> int:
  """Descriptor of a file without a name; in memory where the system can do that."""
  if hasattr(os, "memfd_create"):
    descriptor = os.memfd_create("jmp_hk")
  else:  # macOS
    with tempfile.TemporaryFile() as file:
      descriptor = os.dup(file.fileno())
  try:
    os.ftruncate(descriptor, size)
  except OSError:
    os.close(descriptor)
    raise
  return descriptor


class SharedValue:
  """A pickled value that many processes read; its arrays are in memory once."""

  def __init__(self, value: Any) -> None:
    """Pickles a value.

    Args:
      value: may hold large arrays.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts: Sequence[Any] = [data, *(buffer.raw() for buffer in buffers)]
    self._places = []
    position = 0
    for part in parts:
      self._places.append((position, len(part)))
      position += -(-len(part) // _ALIGNMENT) * _ALIGNMENT
    self._memory = SharedMemory(position)
    for part, (start, length) in zip(parts, self._places, strict=True):
      self._memory.map[start : start + length] = part

  def load(self) -> Any:
    """The value; its arrays are read-only views of the shared memory."""
    view = memoryview(self._memory.map).toreadonly()
    data, *buffers = (view[start : start + length] for start, length in self._places)
    return pickle.loads(data, buffers=buffers)
