"""Chooses the budget of a microbatch from the datasets of a mixture."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import budget_search
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import graph_workers

_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How much of each dataset is looked at.

  Attributes:
    look_at: structures whose size is read.
    build: how many of those get their graphs built: evenly chosen ones, and as many
      again as `largest`.
    largest: how many of the largest are built too.
  """

  look_at: int = 4096
  build: int = 96
  largest: int = 8


def choose(
  datasets: Sequence[datasets_lib.Dataset],
  chances: np.ndarray,
  builder: builder_lib.GraphBuilder,
  config: budget_lib.BudgetConfig,
  *,
  sample: SampleConfig = SampleConfig(),
  num_workers: int = 0,
) -> budget_lib.Budget:
  """Chooses a budget for microbatches with a wanted mean number of structures.

  Graphs of a sample of each dataset are built, with edge dropout as in training. The
  largest structure that the dataset's size histogram knows is extrapolated from the
  largest of the sample; every structure fits without edge dropout too, as in an
  evaluation. Depends on data and arguments alone, so all processes choose the same.

  Args:
    datasets: the mixture.
    chances: [datasets] probability of a draw from each.
    builder: the backbone's builder of graphs.
    config: wanted structures, headroom, and sizes to use as they are.
    sample: how much to look at.
    num_workers: processes that build graphs.

  Returns:
    The budget.
  """
  workers = graph_workers.GraphWorkers(num_workers)
  sizes: list[budget_lib.Budget] = []
  weights: list[float] = []
  try:
    for dataset, chance in zip(datasets, chances, strict=True):
      typical, largest = _sample(dataset, sample, workers, builder)
      sizes += typical + largest
      weights += [chance / len(typical)] * len(typical) + [0.0] * len(largest)
  finally:
    workers.close()
  limits = builder.width_limits(
    [dataset.info.graph for dataset in datasets],
    max(_most_atoms(dataset) for dataset in datasets),
  )
  return budget_search.search_budget(sizes, config, weights, limits)


def _sample(
  dataset: datasets_lib.Dataset,
  config: SampleConfig,
  workers: graph_workers.GraphWorkers,
  builder: builder_lib.GraphBuilder,
) -> tuple[list[budget_lib.Budget], list[budget_lib.Budget]]:
  """Sizes of typical structures and of the largest ones of a dataset."""
  structures = list(dataset.source.spread(config.look_at))
  typical = [
    structures[i] for i in datasets_lib.evenly_spaced(len(structures), config.build)
  ]
  by_size = sorted(structures, key=lambda structure: structure.num_atoms)
  largest = by_size[-config.largest :]
  graph = dataset.info.graph
  typical_sizes = _measure(typical, graph, workers, builder, seed=0)
  largest_sizes = _measure(largest, graph, workers, builder, seed=None)
  most = _most_atoms(dataset)
  biggest = max(largest_sizes, key=lambda entry: entry.num_atoms)
  if most > biggest.num_atoms:
    largest_sizes.append(builder.extrapolate(biggest, most, graph))
  return typical_sizes, largest_sizes


def _measure(
  structures: Sequence[structure_lib.Structure],
  config: graph_config.GraphConfig,
  workers: graph_workers.GraphWorkers,
  builder: builder_lib.GraphBuilder,
  seed: int | None,
) -> list[budget_lib.Budget]:
  """Builds the graphs of structures and returns their sizes."""
  jobs = [
    graph_workers.GraphJob(structure, config, builder, seed, draw)
    for draw, structure in enumerate(structures)
  ]
  results = [workers.submit(jobs[i : i + _CHUNK]) for i in range(0, len(jobs), _CHUNK)]
  return [builder.sizes(graphs) for result in results for graphs in result()]


def _most_atoms(dataset: datasets_lib.Dataset) -> int:
  return max(dataset.info.size_histogram, default=1)
