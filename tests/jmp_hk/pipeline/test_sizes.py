"""Sizes of graphs are measured once, by any number of processes, and kept."""

import dataclasses
import subprocess
import sys
import textwrap

import chex
import numpy as np
import pytest

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import size_tables
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import sizes
from tests import gemnet_graphs
from tests.jmp_hk.pipeline import corpus


@pytest.fixture
def molecules(datasets):
  structures = datasets[1].source.fetch(range(datasets[1].num_structures))
  return dataclasses.replace(datasets[1], source=datasets_lib.MemorySource(structures))


def test_every_structure_is_measured_as_it_is_packed(molecules):
  graph, builder = molecules.info.graph, gemnet_graphs.BUILDER
  table = sizes.measure(molecules, dataclasses.replace(builder, edge_dropout=0.5))
  assert len(table) == 45 and table.values.dtype == np.int32
  for i, structure in enumerate(molecules.source.fetch(range(45))):
    assert table.budgets([i]) == [builder.sizes(builder.build(structure, graph))]
  assert table.largest().num_atoms == 8
  assert table.column("num_graphs").tolist() == [1] * 45


def test_workers_measure_the_same(molecules, datasets):
  alone = sizes.measure(molecules, gemnet_graphs.BUILDER)
  other = dataclasses.replace(
    datasets[1], source=datasets_lib.MemorySource(molecules.source.fetch(range(45)))
  )
  shared = sizes.measure(other, gemnet_graphs.BUILDER, num_workers=2)
  chex.assert_trees_all_equal(alone.values, shared.values)


def test_what_was_measured_is_kept(molecules, tmp_path):
  first = sizes.measure(molecules, gemnet_graphs.BUILDER)
  assert sizes.measure(molecules, gemnet_graphs.BUILDER) is first
  (converted,) = corpus.make(tmp_path, molecules=45)[1:]
  assert converted.source.measured(gemnet_graphs.BUILDER, converted.info.graph) is None
  sizes.measure(converted, gemnet_graphs.BUILDER)
  again = corpus.open_all(tmp_path)[1]
  stored = again.source.measured(gemnet_graphs.BUILDER, again.info.graph)
  assert stored is not None
  # The shards have their structures in another order than they were made in.
  assert sorted(map(tuple, stored.values)) == sorted(map(tuple, first.values))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_structure_without_graphs_is_named(molecules, num_workers):
  bad = dataclasses.replace(
    corpus.slab(0, 0), cell=np.zeros((3, 3)), record_id="mine:7"
  )
  source = datasets_lib.MemorySource([corpus.molecule(0, 0), bad])
  with pytest.raises(ValueError, match="mine:7"):
    sizes.measure(
      dataclasses.replace(molecules, source=source), gemnet_graphs.BUILDER, num_workers
    )


def test_edge_dropout_is_that_of_the_first_draws(molecules):
  graph, structures = molecules.info.graph, molecules.source.fetch(range(9))
  dropping = dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=0.3)
  full = sizes.rows(structures, dropping, graph)
  chex.assert_trees_all_equal(
    full, sizes.rows(structures, gemnet_graphs.BUILDER, graph)
  )
  dropped = sizes.rows(structures, dropping, graph, seed=5)
  chex.assert_trees_all_equal(dropped, sizes.rows(structures, dropping, graph, seed=5))
  edges = budget_lib.names(dropping.budget_type).index("num_a2a")
  assert 0.5 < dropped[:, edges].sum() / full[:, edges].sum() < 0.9
  # Not which structure it is decides, but which draw.
  same = sizes.rows([structures[0]] * 2, dropping, graph, seed=5)
  assert (same[0] == dropped[0]).all() and (same[1] != same[0]).any()


def test_workers_that_measure_import_neither_jax_nor_tensorflow():
  # Nor the main module, which has no guard here and would recurse.
  code = textwrap.dedent("""
      from jmp_hk.graphs import config
      from jmp_hk.pipeline import sizes
      from jmp_hk.runtime import workers
      from tests import gemnet_graphs
      from tests.jmp_hk.pipeline import probe
      pool = workers.WorkerPool(1, "")
      arguments = [], gemnet_graphs.BUILDER, config.GraphConfig()
      print(len(pool.submit(sizes.rows, *arguments)()), pool.submit(probe.loaded)())
      pool.close()
  """)
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == "0 []"


def test_the_key_says_what_decides_sizes(molecules):
  graph, builder = molecules.info.graph, gemnet_graphs.BUILDER
  key = size_tables.key(builder, graph)
  assert '"cutoff": 8.0' in key and "GemNetOCGraphBuilder" in key
  dropping = dataclasses.replace(builder, edge_dropout=0.3)
  assert size_tables.key(dropping, graph) == key
  others = (
    size_tables.key(gemnet_graphs.UNION, graph),
    size_tables.key(builder, dataclasses.replace(graph, max_neighbors=5)),
  )
  assert len({key, *others}) == 3
