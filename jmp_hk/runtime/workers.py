"""Pools of processes that end with the process that started them."""

from collections.abc import Iterator
import concurrent.futures
import contextlib
import multiprocessing
import os
import threading
import time

_POLL_SECONDS = 0.5


@contextlib.contextmanager
def pool(num_workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
  """A pool of fresh processes; leaving the block cancels what has not started.

  Args:
    num_workers: number of processes.
  """
  executor = concurrent.futures.ProcessPoolExecutor(
    num_workers,
    mp_context=multiprocessing.get_context("spawn"),
    initializer=_follow_parent,
    initargs=(os.getpid(),),
  )
  try:
    yield executor
  finally:
    executor.shutdown(wait=True, cancel_futures=True)


def _follow_parent(parent: int) -> None:
  """Ends this process soon after its parent has died (kill -9 included)."""

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(_POLL_SECONDS)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
