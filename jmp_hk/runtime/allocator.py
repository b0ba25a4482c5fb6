"""Settings of the C library's memory allocator for programs that run on the CPU.

XLA's CPU runtime allocates its temporary memory and packed copies of matrices anew in
every step. With glibc's defaults each of these allocations costs page faults. With a
heap that is never returned to the system it costs searching instead, because the
compiler leaves about a hundred thousand free chunks in the heap. `keep_freed_memory`
avoids the first cost and `close_gaps` the second.

The functions of this module have no effect where the C library is not glibc, or where
the user has replaced the allocator (LD_PRELOAD) or set its options (GLIBC_TUNABLES,
MALLOC_…).
"""

from collections.abc import Mapping
import ctypes
import os
import sys

# Options of glibc's mallopt, by number: one heap for all threads, no allocation outside
# it, which is never shrunk and grows in large pieces.
_KEEPING = {
  "ARENA_MAX": (-8, 1),
  "MMAP_MAX": (-4, 0),
  "TRIM": (-1, -1),
  "TOP_PAD": (-2, 256 << 20),
}
# Arrays of more than 1 MiB lie outside the heaps, of which there are at most two.
_RETURNING = {"MMAP_THRESHOLD": (-3, 1 << 20), "ARENA_MAX": (-8, 2)}

_LARGEST_GAP = 256 << 20
# glibc keeps smaller chunks by exact size and finds them without a search.
_SMALLEST_GAP = 1100
_HEADER = 64
_RESERVE = 256 << 20

_state = {"keeping": False}


class _MallocInfo(ctypes.Structure):
  """glibc's struct mallinfo2."""

  _fields_ = [
    (name, ctypes.c_size_t)
    for name in (
      "arena",
      "ordblks",
      "smblks",
      "hblks",
      "hblkhd",
      "usmblks",
      "fsmblks",
      "uordblks",
      "fordblks",
      "keepcost",
    )
  ]


def keep_freed_memory() -> None:
  """Stops the C library from returning freed memory to the system.

  Memory that comes from the system costs a page fault for every 4 kB. A step of 12
  residual layers of width 512 on 4 470 rows then has 165 000 page faults; with this
  setting it has 1 000 and takes a fifth of the time.
  """
  _state["keeping"] = _set_options(_KEEPING)


def return_freed_memory() -> None:
  """Makes the C library return freed arrays to the system at once.

  This is the opposite of `keep_freed_memory`, for programs that move weights without
  computing.
  """
  _state["keeping"] = False
  _set_options(_RETURNING)


def close_gaps() -> int:
  """Takes the heap's gaps out of use, in programs that keep freed memory.

  Compilation leaves about 100 000 free chunks of all sizes, and every later request
  searches them, which takes 40 % of the time of a small model's step. This function
  first returns their pages to the system and then allocates them for good without
  touching them, so that they cost addresses but no memory. Later requests are served
  from one gap that is kept for small ones, and from the end of the heap.

  It takes about 0.2 s and should be called after each compilation.

  Returns:
    The number of gaps that were closed; 0 where `keep_freed_memory` has no effect.
  """
  library = _library() if _state["keeping"] else None
  if library is None:
    return 0
  try:
    library.mallinfo2.restype = _MallocInfo
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.sbrk.argtypes = [ctypes.c_ssize_t]
    library.malloc_trim(0)
    end = library.sbrk(0) - library.mallinfo2().keepcost
  except AttributeError:  # A glibc before 2.33 has no mallinfo2.
    return 0
  closed, size = 0, _LARGEST_GAP
  while size >= _SMALLEST_GAP:
    address = library.malloc(size)
    if address is None or address + size >= end - _HEADER:  # No gap as large as this.
      library.free(address)
      size = size * 4 // 5
    else:
      closed += 1
  _reserve_a_gap(library)
  return closed


def _reserve_a_gap(library: ctypes.CDLL) -> None:
  """Makes one gap again, for small requests.

  glibc takes the smallest gap that is large enough. Without this one it would serve
  small requests from a step's temporary memory while that is free; the next step would
  find the rest too small and take as much again from the end of the heap.
  """
  gap = library.malloc(_RESERVE)
  library.malloc(2 * _SMALLEST_GAP)  # For good, so that the gap does not join the end.
  library.free(gap)


def _set_options(options: Mapping[str, tuple[int, int]]) -> bool:
  """Sets options of glibc's allocator; returns whether that is the one in use."""
  library = _library()
  if library is None:
    return False
  for option, value in options.values():
    library.mallopt(option, value)
  return True


def _library() -> ctypes.CDLL | None:
  """The C library if it is a glibc whose allocator the user has left as it is."""
  if not sys.platform.startswith("linux"):
    return None
  if any(name in os.environ for name in ("LD_PRELOAD", "GLIBC_TUNABLES")):
    return None
  if any(name.startswith("MALLOC_") for name in os.environ):
    return None
  try:
    library = ctypes.CDLL(None)
  except OSError:
    return None
  return library if hasattr(library, "gnu_get_libc_version") else None
