"""Training on exact batches: their sizes, their compilations, and their gradients."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest
import chex
import jax
import numpy as np

from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.training import losses
from jmp_hk.training import objective as objective_lib
from jmp_hk.training import sharding
from jmp_hk.training import step as step_lib
from jmp_hk.training import trainer as trainer_lib
from tests import gemnet_graphs
from tests.jmp_hk.training import small
from tests.jmp_hk.training import toy_run


def _dataset(split: str, sizes) -> datasets_lib.Dataset:
  """Molecules of given numbers of atoms."""
  found = [
    toy_run.structure(i, f"{split}:{i}", num_atoms) for i, num_atoms in enumerate(sizes)
  ]
  info = dataclasses.replace(
    toy_run.INFO,
    energy_references={1: 0.0, 6: 0.0},
    size_histogram=dict.fromkeys(sizes, 1),
  )
  return datasets_lib.Dataset(
    "toy", split, len(found), info, 0, datasets_lib.MemorySource(found)
  )


class ExactRunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def _trainer(self, num_steps: int) -> trainer_lib.Trainer:
    sizes = np.random.default_rng(0).integers(2, 40, 10).tolist()
    return trainer_lib.Trainer(
      toy_run.make_config(num_steps, batch_size=4, evaluate_every=0),
      [_dataset("train", sizes)],
      [_dataset("val", [70, 2, 5])],  # One is larger than all that are trained on.
      self.directory,
    )

  def _lines(self) -> list[dict]:
    lines = (self.directory / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == "train"]

  def test_steps_hold_what_was_asked_for_and_few_programs_are_compiled(self):
    self._trainer(10_000)  # Chooses the budgets of a long run, which stay.
    trainer = self._trainer(60)
    budgets = trainer._batches.budgets
    self.assertBetween(len(budgets), 2, 4)
    with self.assertLogs("jmp_hk", "INFO") as logs:
      trainer.run()
    lines = self._lines()
    self.assertEqual([line["structures"] for line in lines], [4, 4, 2] * 20)
    self.assertEqual([line["epoch"] for line in lines[2::3]], list(range(1, 21)))
    step = trainer._program.train_step
    self.assertBetween(step.num_compilations, 2, len(budgets))
    told = [line for line in logs.output if "Compiling the training step" in line]
    self.assertLen(told, step.num_compilations)
    self.assertRegex(told[1], rf"\(2 of at most {len(budgets)} sizes\)")
    structures = lines[-1]["structures_per_second"] / lines[-1]["steps_per_second"]
    self.assertBetween(structures, 3, 3.7)

  def test_a_run_that_is_continued_has_the_same_batches(self):
    self._trainer(5).run()
    self._trainer(9).run()
    self.assertEqual([line["structures"] for line in self._lines()], [4, 4, 2] * 3)
    losses_of = lambda: [line["loss"] for line in self._lines()]
    found = losses_of()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self._trainer(9).run()
    # The schedule of the rate does not depend on the number of steps here.
    np.testing.assert_allclose(found, losses_of(), rtol=1e-4)


class EmptyMicrobatchTest(absltest.TestCase):
  def test_microbatches_without_structures_change_neither_loss_nor_gradients(self):
    tasks = (
      tasks_lib.TaskConfig(
        "slabs",
        declare.declare({"energy": "energy", "forces": "conservative_forces"}),
      ),
    )
    backbone = dataclasses.replace(small.BACKBONE, direct_vectors=False)
    config = model_lib.ModelConfig(backbone=backbone, tasks=tasks)
    objective = objective_lib.make_objective(
      model_lib.build_model(config), losses.LossConfig(), {"slabs": small.info("slabs")}
    )
    items = [dataclasses.replace(item, task=0) for item in small.items(0)]
    budget = small.budget()
    pack = lambda found: packing.pack(found, gemnet_graphs.BUILDER, budget)
    targets = packing._infer_targets(items)
    empty = packing.pack([], gemnet_graphs.BUILDER, budget, targets=targets)
    # As many microbatches, so that both are the same program.
    parts = {
      "full": [pack(items[:2]), pack(items[2:4]), pack(items[4:])],
      "empty": [pack(items[:2]), pack(items[2:]), empty],
    }
    variables = model_lib.build_model(config).init(
      jax.random.PRNGKey(0), parts["full"][0]
    )
    mesh = sharding.make_mesh(jax.devices()[:1])
    evaluate = jax.jit(
      lambda *args: step_lib.microbatch_gradients(objective, mesh, *args)
    )
    results = {}
    for name, microbatches in parts.items():
      batch = jax.tree.map(lambda *leaves: np.stack(leaves), *microbatches)
      gradients, terms, errors = evaluate(
        variables.params, variables.scales, jax.random.PRNGKey(1), batch
      )
      results[name] = jax.device_get((gradients, terms, errors))
    chex.assert_trees_all_close(results["empty"], results["full"], rtol=2e-4, atol=2e-5)
    chex.assert_tree_all_finite(results["empty"])
    self.assertGreater(float(results["empty"][1]["forces"]), 0)


if __name__ == "__main__":
  absltest.main()
