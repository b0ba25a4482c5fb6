"""What worker processes run; imports NumPy and the neighbor search only."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import build
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import random_streams


@dataclasses.dataclass(frozen=True)
class GraphJob:
  """One structure whose graphs are wanted.

  Attributes:
    structure: the structure.
    config: graph settings of its dataset.
    edge_dropout: probability of leaving out an edge.
    seed: of the run.
    draw: number of the structure in the stream; together with the seed it decides
      which edges are left out, whoever builds the graphs and however they are padded.
  """

  structure: structure_lib.Structure
  config: graph_config.GraphConfig
  edge_dropout: float = 0.0
  seed: int = 0
  draw: int = 0


def build_all(jobs: Sequence[GraphJob]) -> list[build.StructureGraphs]:
  """Builds the graphs of several structures."""
  return [_build(job) for job in jobs]


def _build(job: GraphJob) -> build.StructureGraphs:
  rng: np.random.Generator | None = None
  if job.edge_dropout:
    rng = random_streams.generator(job.seed, random_streams.DROPOUT, job.draw)
  return build.build_graphs(
    job.structure, job.config, edge_dropout=job.edge_dropout, rng=rng
  )


def ready() -> bool:
  """A first task, which starts a worker process."""
  return True
