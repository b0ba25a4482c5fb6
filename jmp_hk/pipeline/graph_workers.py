"""Builds graphs in worker processes, or here."""

from collections.abc import Callable
from collections.abc import Sequence

from jmp_hk.graphs import builder as builder_lib
from jmp_hk.pipeline import graph_jobs
from jmp_hk.runtime import workers

_DEATH_MESSAGE = (
  "A process that builds graphs died, perhaps for lack of memory; use fewer workers "
  "(num_workers)."
)


class Builder:
  """Builds the graphs of chunks of structures; results do not depend on workers."""

  def __init__(self, num_workers: int):
    """Starts the workers.

    Args:
      num_workers: processes; 0 builds in this process, when results are asked for.
    """
    self.num_workers = num_workers
    self._pool: workers.WorkerPool | None = None
    if num_workers:
      self._pool = workers.WorkerPool(num_workers, _DEATH_MESSAGE)

  def submit(
    self, jobs: Sequence[graph_jobs.GraphJob]
  ) -> Callable[[], list[builder_lib.StructureGraphs]]:
    """Orders the graphs of some structures.

    Args:
      jobs: the structures.

    Returns:
      A function that waits for the graphs and returns them; it raises what building
      raised.
    """
    if self._pool is None:
      return lambda: graph_jobs.build_all(jobs)
    return self._pool.submit(graph_jobs.build_all, jobs)

  def close(self) -> None:
    """Stops the workers."""
    if self._pool is not None:
      self._pool.close()
