"""A thread iterates ahead: order, errors, and how it ends."""

import itertools
import threading

import pytest

from jmp_hk.runtime import prefetch


def test_order_is_kept():
  assert list(prefetch.Prefetcher(range(9), 2)) == list(range(9))
  # The end stays the end.
  items = prefetch.Prefetcher([], 2)
  for _ in range(2):
    with pytest.raises(StopIteration):
      next(items)


def test_function_runs_in_the_thread():
  def negative(item: int) -> tuple[int, str]:
    return -item, threading.current_thread().name

  with prefetch.Prefetcher(range(3), 1, negative) as items:
    assert list(items) == [(0, "prefetch"), (-1, "prefetch"), (-2, "prefetch")]


def test_errors_come_in_place():
  def failing():
    yield 1
    raise ValueError("broken record")

  items = prefetch.Prefetcher(failing(), 4)
  assert next(items) == 1
  with pytest.raises(ValueError, match="broken record"):
    next(items)
  with pytest.raises(StopIteration):
    next(items)


def test_leaving_early_ends_the_thread_and_closes_the_source():
  closed = []

  def endless():
    try:
      yield from itertools.count()
    finally:
      closed.append(True)

  before = threading.active_count()
  with prefetch.Prefetcher(endless(), 2) as items:
    assert next(items) == 0
  assert closed and threading.active_count() == before
  with pytest.raises(StopIteration):
    next(items)
