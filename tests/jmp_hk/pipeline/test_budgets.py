import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import size_tables
from jmp_hk.pipeline import budgets
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import microbatches
from jmp_hk.pipeline import training_stream
from tests import gemnet_graphs
from tests.jmp_hk.pipeline import corpus

CHANCES = np.array([0.4, 0.6])


def test_chosen_budget_holds_about_as_many_structures_as_wanted(datasets):
  config = budget_lib.BudgetConfig(structures=8)
  budget = budgets.choose(datasets, CHANCES, gemnet_graphs.BUILDER, config)
  assert budget == budgets.choose(
    datasets, CHANCES, gemnet_graphs.BUILDER, config, num_workers=1
  )
  pipeline = config_lib.PipelineConfig(
    prefetch_batches=0, pool_size=32, streams_per_microbatch=1
  )
  weighted = [dataclasses.replace(d, weight=w) for d, w in zip(datasets, CHANCES)]
  spec = microbatches.BatchSpec(corpus.TASKS, gemnet_graphs.BUILDER, budget)
  with training_stream.TrainingStream(weighted, spec, pipeline) as stream:
    infos = [next(stream).info for _ in range(20)]
  assert 6.5 < np.mean([info.num_structures for info in infos]) < 9.5
  assert np.mean([info.utilisation["num_main"] for info in infos]) > 0.92


def test_largest_structure_of_the_histogram_fits(datasets):
  info = dataclasses.replace(datasets[0].info, size_histogram={6: 19, 60: 1})
  known = dataclasses.replace(datasets[0], info=info)
  config = budget_lib.BudgetConfig(structures=1)
  budget = budgets.choose([known], np.array([1.0]), gemnet_graphs.BUILDER, config)
  assert budget.num_atoms > 60 and budget.num_main >= 60 * 12
  assert budget.qint_width == 3 and budget.a2ee2a_width == 8  # caps of 12 neighbors


def test_fields_can_be_set_by_hand(datasets):
  config = budget_lib.BudgetConfig(structures=4, overrides={"num_a2a": 9999})
  sample = budgets.SampleConfig(look_at=20, build=5, largest=2)
  budget = budgets.choose(
    datasets, CHANCES, gemnet_graphs.BUILDER, config, sample=sample
  )
  assert budget.num_a2a == 9999
  assert isinstance(budget.num_main, int)


def test_edge_dropout_makes_batches_but_no_structure_smaller(datasets):
  config = budget_lib.BudgetConfig(structures=8)
  budget = budgets.choose(datasets, CHANCES, gemnet_graphs.BUILDER, config)
  dropping = dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=0.5)
  dropped = budgets.choose(datasets, CHANCES, dropping, config)
  assert dropped.num_main < 0.9 * budget.num_main
  assert dropped.num_a2a < 0.9 * budget.num_a2a
  # Widths may even grow: where near edges are dropped, far ones are chosen instead,
  # and each brings its reverse along.
  for name in budget_lib.width_names(gemnet_graphs.Budget):
    assert getattr(dropped, name) >= getattr(budget, name)


def _in_memory(dataset):
  structures = dataset.source.fetch(range(dataset.num_structures))
  return dataclasses.replace(dataset, source=datasets_lib.MemorySource(structures))


def test_every_structure_decides_where_all_were_measured(datasets):
  known = _in_memory(datasets[1])
  config = budget_lib.BudgetConfig(structures=1)
  budget = budgets.choose([known], np.ones(1), gemnet_graphs.BUILDER, config)
  table = known.source.measured(gemnet_graphs.BUILDER, known.info.graph)
  assert table is not None
  for sizes in table.budgets(range(45)):
    budget_lib.check_fits(sizes, budget, "")
  # A single structure far larger than what a sample would show.
  rows = table.values.copy()
  edges = ("num_main", "num_a2a", "num_a2ee2a")
  names = budget_lib.names(gemnet_graphs.Budget)
  rows[17, [names.index(name) for name in edges]] *= 7
  known.source.remember(
    gemnet_graphs.BUILDER,
    known.info.graph,
    size_tables.ArraySizes(gemnet_graphs.Budget, rows),
  )
  larger = budgets.choose([known], np.ones(1), gemnet_graphs.BUILDER, config)
  for name in edges:
    assert getattr(larger, name) >= 7 * getattr(table.budgets([17])[0], name)
  # Nothing is left for structures that were not seen: there are none.
  most = int(rows[:, names.index("num_main")].max())
  assert most <= larger.num_main < most + 16


def test_large_datasets_without_sizes_are_sampled_and_said(datasets, caplog):
  known = _in_memory(datasets[1])
  config = budget_lib.BudgetConfig(structures=1)
  sample = budgets.SampleConfig(look_at=20, build=5, largest=2, measure_below=44)
  with caplog.at_level("WARNING"):
    sampled = budgets.choose(
      [known], np.ones(1), gemnet_graphs.BUILDER, config, sample=sample
    )
  assert "molecules (45 structures) were not measured" in caplog.text
  assert known.source.measured(gemnet_graphs.BUILDER, known.info.graph) is None
  measured = budgets.choose([known], np.ones(1), gemnet_graphs.BUILDER, config)
  assert sampled.num_atoms >= measured.num_atoms  # With headroom.


def test_draws_fit_into_a_budget_without_room_for_edge_dropout():
  # In a cluster of many atoms the far neighbors that take the place of near ones
  # make some atoms wider.
  rng = np.random.default_rng(0)
  structure = structure_lib.molecule(
    rng.uniform(0, 8.0, (60, 3)), rng.choice([1, 6], 60), "cluster"
  )
  graph = graph_config.GraphConfig(cutoff=6.0, max_neighbors=8)
  builder = dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=0.3)
  full = builder.sizes(builder.build(structure, graph))
  # What a batch of this structure and a padding one offers.
  budget = dataclasses.replace(
    full, num_graphs=full.num_graphs + 1, num_atoms=full.num_atoms + 1
  )
  wider = 0
  for seed in range(20):
    free = builder.sizes(builder.build(structure, graph, np.random.default_rng(seed)))
    fitting = builder.sizes(
      builder.build_fitting(structure, graph, np.random.default_rng(seed), budget)
    )
    assert budget_lib.fits(fitting, budget)
    wider += not budget_lib.fits(free, budget)
    assert fitting == (free if budget_lib.fits(free, budget) else full)
  assert 0 < wider < 20
