"""Batches of a run: the budget follows its settings, and stays."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest
import chex
import jax

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import config as pipeline_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.training import batch_sources
from jmp_hk.training import config as config_lib
from jmp_hk.training import sharding
from tests.jmp_hk.training import toy_run

NUM_STRUCTURES = 42


def _open(
  directory: pathlib.Path,
  edge_dropout: float = 0.0,
  batch_size: int = 8,
  packing: pipeline_config.Packing = pipeline_config.Packing.FULL,
  **overrides: int,
) -> batch_sources.DatasetBatches:
  """Batches of molecules in memory."""
  backbone = dataclasses.replace(toy_run.BACKBONE, edge_dropout=edge_dropout)
  config = config_lib.TrainerConfig(
    model=model_lib.ModelConfig(backbone=backbone, tasks=(toy_run.TASK,)),
    train=config_lib.TrainConfig(1, batch_size, num_microbatches=2),
    budget=budget_lib.BudgetConfig(overrides=overrides),
    pipeline=pipeline_config.PipelineConfig(packing=packing),
    validation_limit=3,
  )
  dataset = _dataset()
  mesh = sharding.make_mesh(jax.devices()[:1])
  return batch_sources.open_datasets(config, [dataset], [dataset], directory, mesh)


def _dataset() -> datasets_lib.Dataset:
  found = [toy_run.structure(i, f"toy:{i}") for i in range(NUM_STRUCTURES)]
  info = dataclasses.replace(toy_run.INFO, energy_references={1: 0.0, 6: 0.0})
  return datasets_lib.Dataset(
    "toy", "train", len(found), info, 0, datasets_lib.MemorySource(found)
  )


def _num_edges(batches: batch_sources.DatasetBatches) -> int:
  (budget,) = batches.budgets
  return budget.num_edges


def _edges_of_a_structure(batch) -> float:
  """Mean over the real structures of a batch."""
  return batch.graphs.graph.n_edge[batch.graph_mask].mean()


class BatchSourcesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def test_the_budget_is_chosen_with_the_edge_dropout_of_the_training(self):
    sizes = []
    for rate in (0.0, 0.5):
      batches = _open(self.directory / str(rate), rate)
      sizes.append(_num_edges(batches))
      batch = next(batches.training(None)).batch
      chex.assert_shape(batch.graphs.graph.senders, (2, sizes[-1]))
    self.assertLess(sizes[1], 0.9 * sizes[0])

  def test_a_stored_budget_is_used_again(self):
    chosen = _num_edges(_open(self.directory))
    self.assertEqual(_num_edges(_open(self.directory, batch_size=18)), chosen)
    self.assertGreater(_num_edges(_open(self.directory / "new", batch_size=18)), chosen)

  def test_a_run_goes_on_with_a_raised_budget(self):
    small = _open(self.directory, num_edges=8)
    with self.assertRaisesRegex(budget_lib.BudgetError, "--budget=num_edges="):
      next(small.training(None))
    with self.assertLogs("jmp_hk", "INFO") as logs:
      raised = _open(self.directory, num_edges=64)
    self.assertRegex(logs.output[0], "num_edges: 8 → 64")
    chex.assert_shape(next(raised.training(None)).batch.graphs.graph.senders, (2, 64))
    # It stays, also where the size is not given once more.
    self.assertEqual(_num_edges(_open(self.directory)), 64)

  def test_the_sample_has_all_edges_and_the_validation_its_limit(self):
    batches = _open(self.directory, 0.5)
    first = next(batches.training(None)).batch
    whole = [_edges_of_a_structure(batch) for batch in batches.sample(2)]
    self.assertGreater(sum(whole) / 2, 1.5 * _edges_of_a_structure(first))
    validated = sum(item.info.num_structures for item in batches.validation())
    self.assertEqual(validated, 3)

  def test_exact_batches_have_the_wanted_size_and_a_few_budgets(self):
    exact = pipeline_config.Packing.EXACT
    batches = _open(self.directory, packing=exact)
    stream = batches.training(None)
    steps = [next(stream) for _ in range(12)]
    counts = [int(step.batch.graph_mask.sum()) for step in steps]
    self.assertEqual(counts, [8, 8, 8, 8, 8, 2] * 2)
    self.assertTrue({step.batch.budget for step in steps} <= set(batches.budgets))
    # They are stored, and used again.
    self.assertEqual(_open(self.directory, packing=exact).budgets, batches.budgets)
    self.assertLen({batch.budget for batch in batches.sample(3)}, 1)

  def test_exact_batches_refuse_budgets_that_some_batch_would_exceed(self):
    exact = pipeline_config.Packing.EXACT
    with self.assertRaisesRegex(
      budget_lib.BudgetError, "largest batch of 8 structures.*--budget=num_edges="
    ):
      _open(self.directory, packing=exact, num_edges=64)
    self.assertEmpty(list(self.directory.iterdir()))
    raised = _open(self.directory, packing=exact, num_edges=400)
    self.assertEqual([budget.num_edges for budget in raised.budgets], [400])

  def test_evaluations_have_room_for_every_structure(self):
    batches = _open(self.directory)
    before = batches.padding().batch.budget
    clusters = [toy_run.structure(i, f"large:{i}", num_atoms=60) for i in range(3)]
    dataset = _dataset()
    large = dataclasses.replace(
      dataset,
      num_structures=3,
      source=datasets_lib.MemorySource(clusters),
    )
    found = list(batches.evaluation([large]))
    self.assertEqual(sum(int(item.batch.graph_mask.sum()) for item in found), 3)
    self.assertGreater(found[0].batch.budget.num_atoms, max(60, before.num_atoms))
    self.assertEqual(batches.padding().batch.budget, found[0].batch.budget)
    # Those that fit leave it as it is.
    batches.evaluation([dataset])
    self.assertEqual(batches.padding().batch.budget, found[0].batch.budget)

  def test_ready_batches_name_what_they_cannot_do(self):
    source = toy_run.source()
    padding = source.padding().batch
    self.assertFalse(padding.graph_mask.any() or padding.atom_mask.any())
    self.assertLen(source.sample(3), 3)
    with self.assertRaisesRegex(TypeError, "make the trainer from datasets"):
      source.evaluation([])


if __name__ == "__main__":
  absltest.main()
