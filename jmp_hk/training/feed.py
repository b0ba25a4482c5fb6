"""Moves batches from the data pipeline to the devices ahead of their use."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import queue
import threading
from typing import Any
from typing import NamedTuple

import jax

from jmp_hk.training import sharding

_END = object()


class HostBatch(NamedTuple):
  """What the data pipeline yields for one step.

  Attributes:
    batch: this process's microbatches, a pytree of NumPy arrays [local microbatches, ...].
    record_ids: of the structures in it, for messages.
    resume: JSON values that make the pipeline go on after this batch.
    utilisation: used part of each field of the budget, by name.
  """

  batch: Any
  record_ids: Sequence[str]
  resume: Mapping[str, Any]
  utilisation: Mapping[str, float]


class Prefetcher(Iterator[HostBatch]):
  """Iterates over batches on the devices; a thread keeps some of them ready.

  Errors of the pipeline are raised where the batch would have come. Use it as a
  context manager, so that the thread ends with the loop.
  """

  def __init__(
    self, source: Iterable[HostBatch], mesh: jax.sharding.Mesh, depth: int = 2
  ) -> None:
    """Starts the thread.

    Args:
      source: batches on the host.
      mesh: where they go.
      depth: how many wait on the devices at most.
    """
    self._source = source
    self._mesh = mesh
    self._queue: queue.Queue[Any] = queue.Queue(maxsize=depth)
    self._stopped = threading.Event()
    self._finished = False
    self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
    self._thread.start()

  def __enter__(self) -> "Prefetcher":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def __next__(self) -> HostBatch:
    if self._finished:
      raise StopIteration
    item = self._queue.get()
    if item is _END:
      self._finished = True
      raise StopIteration
    if isinstance(item, BaseException):
      self._finished = True
      raise item
    return item

  def close(self) -> None:
    """Stops the thread; batches that wait are dropped."""
    self._stopped.set()
    while self._thread.is_alive():
      try:
        self._queue.get(timeout=0.05)
      except queue.Empty:
        pass
    self._finished = True

  def _work(self) -> None:
    iterator = iter(self._source)
    try:
      for item in iterator:
        self._put(item._replace(batch=sharding.put_batch(item.batch, self._mesh)))
        if self._stopped.is_set():
          break
      self._put(_END)
    except BaseException as error:  # Raised again by the consumer.
      self._put(error)
    finally:
      if hasattr(iterator, "close"):
        iterator.close()

  def _put(self, item: Any) -> None:
    while not self._stopped.is_set():
      try:
        return self._queue.put(item, timeout=0.1)
      except queue.Full:
        continue
