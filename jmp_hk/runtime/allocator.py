"""How the C library's heap is used by programs that run on the CPU.

XLA's CPU runtime asks for its temporary memory and for packed copies of matrices anew
in every step. With glibc's defaults that costs page faults; with one heap that is never
given back, it costs searching, once the compiler has left a hundred thousand gaps in
it. Both are cured here. Everything does nothing without glibc, or where the user tunes
or replaces the allocator.
"""

from collections.abc import Mapping
import ctypes
import os
import sys

# Options of glibc's mallopt: one heap for all threads, nothing mapped apart from it,
# never shrunk, grown in large pieces.
_KEEPING = {
  "ARENA_MAX": (-8, 1),
  "MMAP_MAX": (-4, 0),
  "TRIM": (-1, -1),
  "TOP_PAD": (-2, 256 << 20),
}
# Arrays of more than 1 MiB are mapped apart from the heaps, of which there are few.
_RETURNING = {"MMAP_THRESHOLD": (-3, 1 << 20), "ARENA_MAX": (-8, 2)}

_LARGEST_GAP = 256 << 20
# Smaller chunks are kept by exact size and found without a search.
_SMALLEST_GAP = 1100
_HEADER = 64
_SMALL_CHANGE = 256 << 20

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

  Mapping memory anew costs a page fault for every 4 kB: 165 000 a step for 12 residual
  layers of width 512 on 4 470 rows; 1 000 with this, a fifth of the time.
  """
  _state["keeping"] = _set_options(_KEEPING)


def return_freed_memory() -> None:
  """Makes the C library return freed arrays to the system at once.

  For programs that move weights without computing; the opposite of the above.
  """
  _state["keeping"] = False
  _set_options(_RETURNING)


def close_gaps() -> int:
  """Takes the gaps of the heap out of use, for programs that keep freed memory.

  Compilation leaves about 100 000 free chunks of all sizes, which every later request
  searches: 40 % of the time of a small model's step. Their pages are returned to the
  system first; then they are allocated for good, without being touched, so that they
  cost addresses but no memory. Later requests are served from one gap for small ones
  and from the heap's end. Takes about 0.2 s; call it after each compilation.

  Returns:
    The number of gaps that were closed; 0 where `keep_freed_memory` has no effect.
  """
  if not _state["keeping"]:
    return 0
  library = _library()
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
  _leave_small_change(library)
  return closed


def _leave_small_change(library: ctypes.CDLL) -> None:
  """Makes one gap again, for small requests.

  glibc takes the smallest gap that is large enough. Without this one it would cut small
  requests out of a step's temporary memory while that is free; the next step would find
  the rest too small and take as much again from the heap's end.
  """
  gap = library.malloc(_SMALL_CHANGE)
  library.malloc(2 * _SMALLEST_GAP)  # For good, so that the gap does not join the end.
  library.free(gap)


def _set_options(options: Mapping[str, tuple[int, int]]) -> bool:
  """Calls glibc's mallopt, where that is what allocates; says whether it did."""
  library = _library()
  if library is None:
    return False
  for option, value in options.values():
    library.mallopt(option, value)
  return True


def _library() -> ctypes.CDLL | None:
  """The C library if it is an untuned glibc."""
  if not sys.platform.startswith("linux"):
    return None
  if any(name in os.environ for name in ("LD_PRELOAD", "GLIBC_TUNABLES")):
    return None
  if any(name.startswith("MALLOC_") for name in os.environ):
    return None
  try:
    library = ctypes.CDLL(None)
    library.gnu_get_libc_version  # pylint: disable=pointless-statement
    return library
  except (OSError, AttributeError):
    return None
