"""The C library's heap: freed memory is used again, and gaps are closed."""

import subprocess
import sys

import pytest

from jmp_hk.runtime import allocator

glibc_only = pytest.mark.skipif(
  allocator._library() is None, reason="the allocator is not an untuned glibc"
)


def _run(code: str, **environment: str) -> list[int]:
  """Numbers that a fresh process prints."""
  result = subprocess.run(
    [sys.executable, "-c", code],
    text=True,
    check=True,
    capture_output=True,
    env={"PATH": "", "OMP_NUM_THREADS": "1"} | environment,
  )
  return [int(number) for number in result.stdout.split()]


_FAULTS = """
import resource
from jmp_hk.runtime import allocator
if {kept}:
  allocator.keep_freed_memory()
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
  np.ones(10_000_000)
before = faults()
for _ in range(4):
  np.ones(10_000_000)
print(faults() - before)
"""


def test_freed_memory_is_used_again():
  counts = [_run(_FAULTS.format(kept=kept))[0] for kept in (False, True)]
  # 80 MB are 20 000 pages; with transparent huge pages the first count is small too.
  assert counts[1] < 100 or counts[1] <= counts[0]


_GAPS = """
import ctypes
from jmp_hk.runtime import allocator
allocator.{mode}()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
chunks = [library.malloc(2_000 + 16 * i) for i in range(4_000)]
for chunk in chunks[::2]:
  library.free(chunk)
print(allocator.close_gaps())
again = allocator.close_gaps()
after = [library.malloc(3_000 + 16 * i) for i in range(100)]
print(again, sum(address < max(chunks) for address in after))
"""


@glibc_only
def test_gaps_are_closed_once_and_not_used_again():
  closed, again, inside = _run(_GAPS.format(mode="keep_freed_memory"))
  assert closed >= 2_000
  # The interpreter itself leaves a few between the two calls.
  assert again < 100 and inside == 0


_TEMPORARY = """
import ctypes
from jmp_hk.runtime import allocator
allocator.keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
if {closed}:
  allocator.close_gaps()
places = set()
for _ in range(5):
  large = library.malloc(400 << 20)
  places.add(large)
  library.free(large)
  library.malloc(1 << 20)
print(len(places))
"""


@glibc_only
def test_what_is_kept_between_steps_does_not_split_their_temporary_memory():
  assert _run(_TEMPORARY.format(closed=True)) == [1]
  assert _run(_TEMPORARY.format(closed=False)) == [5]


@glibc_only
def test_nothing_is_closed_where_memory_is_returned_or_tuned_by_the_user():
  assert _run(_GAPS.format(mode="return_freed_memory"))[:2] == [0, 0]
  again = _GAPS.format(mode="keep_freed_memory(); allocator.return_freed_memory")
  assert _run(again)[:2] == [0, 0]
  tuned = _run(_GAPS.format(mode="keep_freed_memory"), MALLOC_ARENA_MAX="1")
  assert tuned[:2] == [0, 0]
