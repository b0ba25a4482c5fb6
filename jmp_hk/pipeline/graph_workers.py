"""Builds graphs in worker processes, or in this one.

Workers import this module and what it needs: NumPy and the neighbor search, neither jax
nor TensorFlow.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import random_streams
from jmp_hk.runtime import workers

_DEATH_MESSAGE = (
  "A process that builds graphs died, perhaps for lack of memory; use fewer workers "
  "(num_workers)."
)

# Waits for the graphs of a chunk; raises what building raised.
Result = Callable[[], list[builder_lib.StructureGraphs]]


@dataclasses.dataclass(frozen=True)
class GraphJob:
  """One structure whose graphs are wanted.

  Attributes:
    structure: the structure.
    config: graph settings of its dataset.
    builder: the backbone's builder.
    seed: seed of the run's edge dropout; None leaves all edges in.
    draw: number of the structure in the stream; together with the seed it decides
      which edges are left out, whoever builds the graphs and however they are padded.
  """

  structure: structure_lib.Structure
  config: graph_config.GraphConfig
  builder: builder_lib.GraphBuilder
  seed: int | None = None
  draw: int = 0


def build_all(jobs: Sequence[GraphJob]) -> list[builder_lib.StructureGraphs]:
  """Builds the graphs of several structures."""
  return [
    build(job.structure, job.config, job.builder, job.seed, job.draw) for job in jobs
  ]


def build(
  structure: structure_lib.Structure,
  config: graph_config.GraphConfig,
  builder: builder_lib.GraphBuilder,
  seed: int | None,
  draw: int,
  budget: budget_lib.Budget | None = None,
) -> builder_lib.StructureGraphs:
  """Builds the graphs of one structure.

  Args:
    structure: see `GraphJob`, as for the others.
    config: see there.
    builder: see there.
    seed: see there.
    draw: see there.
    budget: static sizes of a batch that edge dropout must not exceed, see
      `GraphBuilder.build_fitting`; None sets no limit.
  """
  if seed is None or not builder.edge_dropout:
    return builder.build(structure, config)
  rng = random_streams.generator(seed, random_streams.DROPOUT, draw)
  if budget is None:
    return builder.build(structure, config, rng)
  return builder.build_fitting(structure, config, rng, budget)


class GraphWorkers:
  """Builds the graphs of chunks of structures; results do not depend on workers."""

  def __init__(self, num_workers: int):
    """Starts the workers.

    Args:
      num_workers: processes; 0 builds in this process, when results are asked for.
    """
    self._pool: workers.WorkerPool | None = None
    if num_workers:
      self._pool = workers.WorkerPool(num_workers, _DEATH_MESSAGE)

  def submit(self, jobs: Sequence[GraphJob]) -> Result:
    """Orders the graphs of some structures.

    Args:
      jobs: the structures.

    Returns:
      A function that waits for the graphs and returns them; it raises what building
      raised.
    """
    if self._pool is None:
      return lambda: build_all(jobs)
    return self._pool.submit(build_all, jobs)

  def close(self) -> None:
    """Stops the workers."""
    if self._pool is not None:
      self._pool.close()
