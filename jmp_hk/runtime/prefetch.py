"""Runs an iterator in a thread, some items ahead."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import queue
import threading
from typing import Any
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1  # Between looks at whether to stop.


def _unchanged(item: Any) -> Any:
  return item


class Prefetcher(Iterator[T]):
  """Iterates over what a source yields; a thread keeps some items ready.

  Errors of the source come out of `next` at the place where they happened. Use it as a
  context manager, or close it, so that the thread ends and the source is closed.
  """

  def __init__(
    self,
    source: Iterable[Any],
    size: int,
    apply: Callable[[Any], T] = _unchanged,
  ):
    """Starts the thread.

    Args:
      source: yields the items; used by the thread alone from now on.
      size: number of items to keep ready.
      apply: called on each item in the thread; its results are what is iterated over.
    """
    self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(size)
    self._stop = threading.Event()
    self._finished = False
    self._thread = threading.Thread(
      target=self._run, args=(iter(source), apply), name="prefetch", daemon=True
    )
    self._thread.start()

  def __enter__(self) -> "Prefetcher[T]":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def __next__(self) -> T:
    if self._finished:
      raise StopIteration
    item, error = self._queue.get()
    if error is None:
      return item
    self._finished = True
    raise error

  def close(self) -> None:
    """Stops the thread and waits for it; items that are ready are dropped."""
    self._finished = True
    self._stop.set()
    self._thread.join()

  def _run(self, source: Iterator[Any], apply: Callable[[Any], T]) -> None:
    try:
      while self._put((apply(next(source)), None)):
        pass  # Holds no item, which may be memory that the source wants back.
    except BaseException as error:  # Also the end, and KeyboardInterrupt.
      self._put((None, error))
    finally:
      close = getattr(source, "close", None)
      if close is not None:
        close()

  def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
    """Waits for room in the queue; False where the reader has gone."""
    while not self._stop.is_set():
      try:
        self._queue.put(entry, timeout=_POLL_SECONDS)
        return True
      except queue.Full:
        continue
    return False
