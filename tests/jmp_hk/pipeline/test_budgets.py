import dataclasses

import numpy as np

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import budgets
from jmp_hk.pipeline import config as config_lib
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
