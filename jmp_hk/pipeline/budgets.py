"""Chooses the budget of a microbatch from the datasets of a mixture."""

from collections.abc import Sequence
import dataclasses
import logging
import math

import numpy as np

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import budget_search
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import size_tables
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import sizes as sizes_lib

logger = logging.getLogger(__name__)

_TYPICAL = 1024  # Rows of a table of sizes that are tried out in batches.


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How much of each dataset is looked at.

  Attributes:
    look_at: structures whose size is read.
    build: how many of those get their graphs built: evenly chosen ones, and as many
      again as `largest`.
    largest: how many of the largest are built too.
    measure_below: datasets of up to so many structures, whose sizes nobody has
      measured, are measured as a whole; of larger ones a sample is taken.
  """

  look_at: int = 4096
  build: int = 96
  largest: int = 8
  measure_below: int = 300_000


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

  The sizes of all structures decide where they were measured, and so no structure
  exceeds the budget. Of large datasets that were not, a sample decides, with headroom.
  Every structure fits without edge dropout too, as in an evaluation. Depends on data
  and arguments alone, so all processes choose the same.

  Args:
    datasets: the mixture.
    chances: [datasets] probability of a draw from each.
    builder: the backbone's builder of graphs.
    config: wanted structures, headroom, and sizes to use as they are.
    sample: how much to look at.
    num_workers: processes that measure what nobody has measured.

  Returns:
    The budget.
  """
  sizes: list[budget_lib.Budget] = []
  weights: list[float] = []
  for dataset, chance in zip(datasets, chances, strict=True):
    typical, largest = _look_at(dataset, sample, builder, config, num_workers)
    sizes += [*typical, largest]
    weights += [*[chance / len(typical)] * len(typical), 0.0]
  limits = builder.width_limits(
    [dataset.info.graph for dataset in datasets],
    max(_most_atoms(dataset) for dataset in datasets),
  )
  # `_look_at` has left the room that is needed.
  exact = dataclasses.replace(config, single_headroom=1.0, width_headroom=1.0)
  return budget_search.search_budget(sizes, exact, weights, limits)


def _look_at(
  dataset: datasets_lib.Dataset,
  sample: SampleConfig,
  builder: builder_lib.GraphBuilder,
  config: budget_lib.BudgetConfig,
  num_workers: int,
) -> tuple[list[budget_lib.Budget], budget_lib.Budget]:
  """Sizes of typical structures, and sizes that none of a dataset exceeds."""
  table = dataset.source.measured(builder, dataset.info.graph)
  if table is None and dataset.num_structures <= sample.measure_below:
    table = sizes_lib.measure(dataset, builder, num_workers)
  if table is not None:
    typical, most = _typical(dataset, table, sample, builder), [table.largest()]
  else:
    typical, most = _sample(dataset, sample, builder)
    logger.warning(
      "The sizes of the graphs of %s (%s structures) were not measured: the budget "
      "follows from a sample of %d, and a structure that exceeds it would end the "
      "run. The same python -m data.convert once more measures all structures for "
      "the default backbone, and jmp_hk.pipeline.sizes.measure for any other.",
      dataset.name,
      f"{dataset.num_structures:,}",
      len(typical) + len(most),
    )
  biggest = max(most, key=lambda entry: entry.num_atoms)
  if _most_atoms(dataset) > biggest.num_atoms:  # In another split, for example.
    most.append(builder.extrapolate(biggest, _most_atoms(dataset), dataset.info.graph))
  largest = budget_lib.largest([*typical, *most])
  if table is None or builder.edge_dropout:
    largest = _with_headroom(largest, config)
  return typical, largest


def _with_headroom(
  sizes: budget_lib.BudgetT, config: budget_lib.BudgetConfig
) -> budget_lib.BudgetT:
  """Largest sizes with room for what was not seen."""
  widths = budget_lib.width_names(type(sizes))
  factors = {
    name: config.width_headroom if name in widths else config.single_headroom
    for name in budget_lib.names(type(sizes))
  }
  return dataclasses.replace(
    sizes,
    **{
      name: math.ceil(getattr(sizes, name) * factor) for name, factor in factors.items()
    },
  )


def _typical(
  dataset: datasets_lib.Dataset,
  table: size_tables.SizesTable,
  config: SampleConfig,
  builder: builder_lib.GraphBuilder,
) -> list[budget_lib.Budget]:
  """Sizes of structures from all over a dataset whose sizes were measured."""
  rows = table.rows(datasets_lib.spread_over(len(table), _TYPICAL))
  if builder.edge_dropout:
    # What edge dropout leaves on average, seen on a few structures.
    some = datasets_lib.spread_over(len(table), config.build)
    structures = dataset.source.fetch(some)
    left = sizes_lib.rows(structures, builder, dataset.info.graph, seed=0)
    full = table.rows(some).sum(axis=0)
    rows = np.rint(rows * (left.sum(axis=0) / np.maximum(full, 1))).astype(np.int64)
  return [table.kind(*entry) for entry in rows.tolist()]


def _sample(
  dataset: datasets_lib.Dataset,
  config: SampleConfig,
  builder: builder_lib.GraphBuilder,
) -> tuple[list[budget_lib.Budget], list[budget_lib.Budget]]:
  """Sizes of typical structures and of the largest ones of a sample."""
  chosen = datasets_lib.spread_over(dataset.num_structures, config.look_at)
  structures = list(datasets_lib.fetch_all(dataset.source, chosen))
  typical = [
    structures[i] for i in datasets_lib.spread_over(len(structures), config.build)
  ]
  by_size = sorted(structures, key=lambda structure: structure.num_atoms)
  graph, kind = dataset.info.graph, builder.budget_type
  rows = (
    sizes_lib.rows(typical, builder, graph, seed=0),
    sizes_lib.rows(by_size[-config.largest :], builder, graph),
  )
  typical, largest = ([kind(*row) for row in table.tolist()] for table in rows)
  return typical, largest


def _most_atoms(dataset: datasets_lib.Dataset) -> int:
  return max(dataset.info.size_histogram, default=1)
