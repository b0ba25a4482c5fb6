"""Builds graphs in worker processes, or here."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import concurrent.futures
import contextlib
import multiprocessing
import os
import sys
import threading
import types

from jmp_hk.graphs import build
from jmp_hk.pipeline import graph_jobs

_Result = Callable[[], list[build.StructureGraphs]]
_main_lock = threading.Lock()


class WorkerError(RuntimeError):
  """A worker process died."""


class Builder:
  """Builds the graphs of chunks of structures; results do not depend on workers."""

  def __init__(self, num_workers: int):
    """Starts the workers.

    Args:
      num_workers: processes; 0 builds in this process, when results are asked for.
    """
    self.num_workers = num_workers
    self._executor = None
    if num_workers:
      self._executor = concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn")
      )
      with _hidden_main(), _single_thread():
        # Every task starts one process as long as none is idle.
        for _ in range(num_workers):
          self._executor.submit(graph_jobs.ready)

  def submit(self, jobs: Sequence[graph_jobs.GraphJob]) -> _Result:
    """Orders the graphs of some structures.

    Args:
      jobs: the structures.

    Returns:
      A function that waits for the graphs and returns them; it raises what building
      raised.
    """
    if self._executor is None:
      return lambda: graph_jobs.build_all(jobs)
    future = self._executor.submit(graph_jobs.build_all, jobs)

    def wait() -> list[build.StructureGraphs]:
      try:
        return future.result()
      except concurrent.futures.process.BrokenProcessPool as error:
        raise WorkerError(
          "A process that builds graphs died, perhaps for lack of memory; "
          "try fewer --num_workers."
        ) from error

    return wait

  def close(self) -> None:
    """Stops the workers."""
    if self._executor is not None:
      self._executor.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
  """Keeps new processes from importing this program's main module.

  They need NumPy alone; the main module would import JAX and TensorFlow, seconds and
  hundreds of megabytes for each.
  """
  with _main_lock:
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
      yield
    finally:
      sys.modules["__main__"] = main


@contextlib.contextmanager
def _single_thread() -> Iterator[None]:
  """New processes start with one thread each in linear algebra."""
  names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
  before = {name: os.environ.get(name) for name in names}
  os.environ.update({name: "1" for name in names})
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value
