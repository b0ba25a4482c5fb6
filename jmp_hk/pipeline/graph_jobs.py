"""What worker processes run; imports NumPy and the neighbor search only."""

from collections.abc import Sequence
import dataclasses

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import random_streams


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
  return [_build(job) for job in jobs]


def _build(job: GraphJob) -> builder_lib.StructureGraphs:
  if job.seed is None or not job.builder.edge_dropout:
    return job.builder.build(job.structure, job.config)
  rng = random_streams.generator(job.seed, random_streams.DROPOUT, job.draw)
  return job.builder.build(job.structure, job.config, rng)
