"""Runs an iterator in a thread, some items ahead."""

from collections.abc import Iterator
import queue
import threading
from typing import Generic
from typing import TypeVar

T = TypeVar("T")

_POLL = 0.2  # Seconds between looks at whether to stop.


class Prefetcher(Generic[T]):
  """Iterator over what another one yields, made ahead in a thread.

  Exceptions come out of `next` at the place where they happened.
  """

  def __init__(self, source: Iterator[T], size: int):
    """Starts the thread.

    Args:
      source: used by the thread alone from now on.
      size: items to keep ready.
    """
    self._queue: queue.Queue = queue.Queue(size)
    self._stop = threading.Event()
    self._done = False
    self._thread = threading.Thread(
      target=self._run, args=(source,), name="batch-prefetch", daemon=True
    )
    self._thread.start()

  def __iter__(self) -> Iterator[T]:
    return self

  def __next__(self) -> T:
    if self._done:
      raise StopIteration
    item, error = self._queue.get()
    if error is None:
      return item
    self._done = True
    raise error

  def close(self) -> None:
    """Stops the thread and waits for it."""
    self._done = True
    self._stop.set()
    self._thread.join()

  def _run(self, source: Iterator[T]) -> None:
    try:
      for item in source:
        if not self._put((item, None)):
          return
      self._put((None, StopIteration()))
    except BaseException as error:  # Also KeyboardInterrupt: the reader decides.
      self._put((None, error))

  def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
    while not self._stop.is_set():
      try:
        self._queue.put(entry, timeout=_POLL)
        return True
      except queue.Full:
        continue
    return False
