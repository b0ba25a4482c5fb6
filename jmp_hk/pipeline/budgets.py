"""Chooses the budget of a microbatch from the datasets of a mixture."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import budget_search
from jmp_hk.graphs import build
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import graph_jobs
from jmp_hk.pipeline import graph_workers

_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How much of each dataset is looked at.

  Attributes:
    look_at: structures whose size is read.
    build: of those, structures whose graphs are built: evenly chosen ones, and as many
      again as `largest`.
    largest: how many of the largest are built too.
  """

  look_at: int = 4096
  build: int = 96
  largest: int = 8


def choose(
  datasets: Sequence[datasets_lib.Dataset],
  chances: np.ndarray,
  config: budget_lib.BudgetConfig,
  sample: SampleConfig = SampleConfig(),
  num_workers: int = 0,
  edge_dropout: float = 0.0,
) -> batch_lib.Budget:
  """Chooses a budget for microbatches with a wanted mean number of structures.

  Graphs of a sample of each dataset are built. The largest structure that the
  dataset's size histogram knows is extrapolated from the largest of the sample.
  Depends on data and arguments alone, so all processes choose the same.

  Args:
    datasets: of the mixture.
    chances: [datasets] their probabilities.
    config: wanted structures, headroom, and sizes to use as they are.
    sample: how much to look at.
    num_workers: processes that build graphs.
    edge_dropout: of the training; molecules have fewer edges with it. Every structure
      fits without it too, as in an evaluation.

  Returns:
    The budget.
  """
  builder = graph_workers.Builder(num_workers)
  sizes, weights = [], []
  try:
    for dataset, chance in zip(datasets, chances):
      typical, largest = _sample(dataset, sample, builder, edge_dropout)
      sizes += typical + largest
      weights += [chance / len(typical)] * len(typical) + [0.0] * len(largest)
  finally:
    builder.close()
  limits = budget_lib.width_limits(
    [dataset.info.graph for dataset in datasets],
    max(_most_atoms(dataset) for dataset in datasets),
  )
  return budget_search.choose_tuned_budget(sizes, config, weights, limits)


def _sample(
  dataset: datasets_lib.Dataset,
  config: SampleConfig,
  builder: graph_workers.Builder,
  edge_dropout: float,
) -> tuple[list[budget_lib.Sizes], list[budget_lib.Sizes]]:
  """Sizes of typical structures and of the largest ones of a dataset."""
  structures = list(dataset.source.spread(config.look_at))
  stride = max(1, len(structures) // config.build)
  typical = structures[::stride][: config.build]
  by_size = sorted(structures, key=lambda structure: structure.num_atoms)
  largest = by_size[-config.largest :]
  graph = dataset.info.graph
  typical_sizes = _build(typical, graph, builder, edge_dropout)
  largest_sizes = _build(largest, graph, builder, 0.0)
  most = _most_atoms(dataset)
  biggest = max(largest_sizes, key=lambda entry: entry.num_atoms)
  if most > biggest.num_atoms:
    largest_sizes.append(_extrapolate(biggest, most, graph))
  return typical_sizes, largest_sizes


def _build(
  structures: Sequence[structure_lib.Structure],
  config: graph_config.GraphConfig,
  builder: graph_workers.Builder,
  edge_dropout: float,
) -> list[budget_lib.Sizes]:
  jobs = [
    graph_jobs.GraphJob(structure, config, edge_dropout, draw=draw)
    for draw, structure in enumerate(structures)
  ]
  results = [builder.submit(jobs[i : i + _CHUNK]) for i in range(0, len(jobs), _CHUNK)]
  return [budget_lib.sizes_of(graphs) for result in results for graphs in result()]


def _extrapolate(
  known: budget_lib.Sizes, num_atoms: int, config: graph_config.GraphConfig
) -> budget_lib.Sizes:
  """Sizes of a larger structure: edges grow with the square up to the caps."""
  growth = num_atoms / known.num_atoms
  caps = build.neighbor_limits(config, num_atoms)

  def edges(count: int, cap: int) -> int:
    return int(min(count * growth**2, max(cap * num_atoms, count * growth)))

  return dataclasses.replace(
    known,
    num_atoms=num_atoms,
    num_main=edges(known.num_main, caps.main),
    num_a2a=edges(known.num_a2a, caps.a2a),
    num_a2ee2a=edges(known.num_a2ee2a, caps.a2ee2a),
    num_qint=edges(known.num_qint, caps.qint),
    main_width=int(max(known.main_width, min(known.main_width * growth, caps.main))),
    a2a_width=int(min(known.a2a_width * growth, num_atoms)),
    a2ee2a_width=min(num_atoms * caps.a2ee2a, caps.a2ee2a),
    qint_width=caps.qint,
  )


def _most_atoms(dataset: datasets_lib.Dataset) -> int:
  return max(dataset.info.size_histogram, default=1)
