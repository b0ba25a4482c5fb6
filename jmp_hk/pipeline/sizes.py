"""Measures what the graphs of every structure of a dataset need."""

from collections.abc import Sequence
import contextlib
import logging

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import size_tables
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import random_streams
from jmp_hk.runtime import console
from jmp_hk.runtime import workers as workers_lib

logger = logging.getLogger(__name__)

SizesTable = size_tables.SizesTable
_CHUNK = 32  # Structures that a worker gets at once.
_CHUNKS_AHEAD = 4  # Of each worker.
_DEATH_MESSAGE = (
  "A process that measures graphs died, perhaps for lack of memory; use fewer workers "
  "(num_workers)."
)


def measure(
  dataset: datasets_lib.Dataset,
  builder: builder_lib.GraphBuilder,
  num_workers: int = 0,
) -> size_tables.SizesTable:
  """What the graphs of all structures need, measured once where nobody did.

  What was measured is kept: beside the shards of a converted dataset where its folder
  can be written, else as long as its source lives.

  Args:
    dataset: the split.
    builder: the backbone's builder of graphs; its edge dropout does not count.
    num_workers: processes that measure; 0 measures in this process.

  Returns:
    The table.

  Raises:
    ValueError: the graphs of a structure cannot be built; names the structure.
  """
  source, graph = dataset.source, dataset.info.graph
  table = source.measured(builder, graph)
  if table is not None:
    return table
  logger.info(
    "The graphs of %s (%s, %s structures) are measured once.",
    dataset.name,
    dataset.split,
    f"{source.num_structures:,}",
  )
  rows = _measure(source, range(source.num_structures), builder, graph, num_workers)
  table = size_tables.ArraySizes(builder.budget_type, rows)
  source.remember(builder, graph, table)
  return table


def rows(
  structures: Sequence[structure_lib.Structure],
  builder: builder_lib.GraphBuilder,
  graph: graph_config.GraphConfig,
  seed: int | None = None,
) -> np.ndarray:
  """What the graphs of some structures need, [k, fields] int32.

  Args:
    structures: the structures.
    builder: the backbone's builder of graphs.
    graph: graph settings of the dataset.
    seed: seed of the edge dropout of the builder, as if they were the first draws of a
      run; None leaves all edges in.
  """
  found = []
  for draw, structure in enumerate(structures):
    if seed is None or not builder.edge_dropout:
      found.append(size_tables.row(structure, builder, graph))
      continue
    rng = random_streams.edge_dropout(seed, draw)
    found.append(builder.sizes(builder.build(structure, graph, rng)).as_array())
  return np.array(found, np.int32).reshape(
    -1, len(budget_lib.names(builder.budget_type))
  )


def _measure(
  source: datasets_lib.Source,
  indices: Sequence[int],
  builder: builder_lib.GraphBuilder,
  graph: graph_config.GraphConfig,
  num_workers: int,
) -> np.ndarray:
  """Rows of some structures; the processes are kept busy and no more is read ahead."""
  chunks = [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
  num_workers = min(num_workers, len(chunks)) if len(chunks) > 1 else 0
  ahead = max(1, num_workers * _CHUNKS_AHEAD)
  found, waiting = [], []
  with contextlib.ExitStack() as stack:
    pool = None
    if num_workers:
      pool = workers_lib.WorkerPool(num_workers, _DEATH_MESSAGE)
      stack.enter_context(pool)
    update = stack.enter_context(console.progress("structure", "Sizes of graphs"))
    done = 0
    for chunk in [*chunks, *[None] * ahead]:
      if chunk is not None:
        arguments = source.fetch(chunk), builder, graph
        waiting.append(
          pool.submit(rows, *arguments) if pool else lambda a=arguments: rows(*a)
        )
      if waiting and (chunk is None or len(waiting) == ahead):
        found.append(waiting.pop(0)())
        done += len(found[-1])
        update(done, len(indices))
  fields = len(budget_lib.names(builder.budget_type))
  return np.concatenate(found) if found else np.zeros((0, fields), np.int32)
