"""Losses against slow loops; free atoms, tasks without a target, additivity."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import losses
from tests.jmp_hk.models.gemnet_oc import small_model

Target = tasks_lib.TargetConfig

_TASKS = (
  tasks_lib.pretraining_task("first", 2.0, 10.0),
  tasks_lib.TaskConfig("second", (Target("energy", "energy", loss_coefficient=3.0),)),
  tasks_lib.TaskConfig(
    "third",
    (
      Target("forces", "direct_forces", loss_coefficient=0.5),
      Target("metal", "binary", loss_coefficient=7.0),
      Target("group", "multiclass", num_classes=3),
    ),
  ),
)
_NUM_ATOMS = (9, 3, 3)


def _fixed(structure, fixed):
  return dataclasses.replace(structure, fixed=np.array(fixed))


def _batch(tasks=(0, 1, 2), all_fixed=False):
  """Three structures with random labels; label rows of padding are not zero."""
  structures = [
    _fixed(small_model.molecule(), [True] * 4 + [False] * 5),
    small_model.crystal(),
    _fixed(small_model.crystal(1), [all_fixed, True, all_fixed]),
  ]
  batch = small_model.make_batch(structures, tasks=list(tasks), dtype=np.float32)
  rng = np.random.default_rng(0)
  return batch.replace(
    targets={
      "energy": rng.standard_normal(4, np.float32),
      "forces": rng.standard_normal((26, 3), np.float32),
      "metal": rng.integers(0, 2, 4),
      "group": rng.integers(0, 3, 4),
    }
  )


def _predictions():
  rng = np.random.default_rng(1)
  return {
    "energy": rng.standard_normal(4, np.float32),
    "forces": rng.standard_normal((26, 3), np.float32),
    "metal": rng.standard_normal(4, np.float32),
    "group": rng.standard_normal((4, 3), np.float32),
  }


def _terms(config, batch, predictions=None):
  predictions = _predictions() if predictions is None else predictions
  terms = losses.loss_terms(config, _TASKS, batch, predictions)
  return {name: tuple(map(float, term)) for name, term in terms.items()}


class LossTermsTest(parameterized.TestCase):
  def test_losses_of_structures(self):
    batch, predictions = _batch(), _predictions()
    terms = _terms(losses.LossConfig(), batch)
    error = np.abs(predictions["energy"] - batch.targets["energy"])
    expected = 2.0 * error[0] + 3.0 * error[1]
    chex.assert_trees_all_close(terms["energy"], (expected, 2.0), rtol=1e-5)
    logit, label = predictions["metal"][2], batch.targets["metal"][2]
    chance = 1 / (1 + np.exp(-logit))
    expected = -7.0 * np.log(chance if label else 1 - chance)
    chex.assert_trees_all_close(terms["metal"], (expected, 1.0), rtol=1e-5)
    logits = predictions["group"][2]
    chances = np.exp(logits) / np.exp(logits).sum()
    expected = -np.log(chances[batch.targets["group"][2]])
    chex.assert_trees_all_close(terms["group"], (expected, 1.0), rtol=1e-5)

  @parameterized.product(
    structure_wise=(True, False),
    free_atoms_only=(True, False),
    all_fixed=(True, False),
  )
  def test_losses_of_forces(self, structure_wise, free_atoms_only, all_fixed):
    batch, predictions = _batch(all_fixed=all_fixed), _predictions()
    config = losses.LossConfig(structure_wise, free_atoms_only)
    difference = predictions["forces"] - batch.targets["forces"] + 1e-6
    norms, total, count, first = np.linalg.norm(difference, axis=-1), 0.0, 0, 0
    for structure, coefficient in ((0, 10.0), (1, None), (2, 0.5)):
      rows = np.arange(first, first + _NUM_ATOMS[structure])
      first += _NUM_ATOMS[structure]
      if coefficient is None:  # its task has no forces
        continue
      if free_atoms_only:
        rows = rows[~batch.fixed[rows]]
      if structure_wise and len(rows):
        total += coefficient * norms[rows].mean()
        count += 1
      elif not structure_wise:
        total += coefficient * norms[rows].sum()
        count += len(rows)
    chex.assert_trees_all_close(
      _terms(config, batch)["forces"], (float(total), float(count)), rtol=1e-5
    )

  @parameterized.parameters(True, False)
  def test_gradients_of_fixed_and_padding_atoms_are_zero(self, structure_wise):
    batch = _batch()
    config = losses.LossConfig(structure_wise, free_atoms_only=True)

    def loss(forces):
      predictions = _predictions() | {"forces": forces}
      return losses.mean_loss(losses.loss_terms(config, _TASKS, batch, predictions))

    # Also where a prediction is exact, at which a norm has no derivative.
    forces = _predictions()["forces"]
    forces[5] = batch.targets["forces"][5] - 1e-6
    gradient = np.asarray(jax.grad(loss)(jnp.asarray(forces)))
    chex.assert_tree_all_finite(gradient)
    trained = batch.atom_mask & ~batch.fixed
    trained[9:12] = False  # of the task without forces
    chex.assert_trees_all_equal(gradient[~trained], np.zeros_like(gradient[~trained]))
    trained[5] = False
    self.assertTrue((np.abs(gradient[trained]).max(1) > 0).all())

  def test_predictions_for_padding_do_not_matter(self):
    batch, other = _batch(), _predictions()
    other["energy"][3] = other["metal"][3] = 1e6
    other["group"][3] = other["forces"][15:] = 1e6
    for structure_wise in (True, False):
      config = losses.LossConfig(structure_wise)
      self.assertEqual(_terms(config, batch, other), _terms(config, batch))

  def test_terms_add_up_over_sub_batches(self):
    # Sums and counts of single structures are those of their batch.
    tasks = (0, 1, 2)
    for config in (losses.LossConfig(), losses.LossConfig(False, True)):
      together = _terms(config, _batch(tasks))
      parts = []
      for i in range(3):
        only = np.arange(4) == i
        batch = _batch(tasks)
        batch = batch.replace(
          graph_mask=only, atom_mask=batch.atom_mask & only[batch.node_graph]
        )
        parts.append(_terms(config, batch))
      summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
      chex.assert_trees_all_close(summed, together, rtol=1e-5)

  def test_a_batch_without_a_target_has_no_loss_of_it(self):
    terms = _terms(losses.LossConfig(), _batch(tasks=(1, 1, 1)))
    for name in ("forces", "metal", "group"):
      self.assertEqual(terms[name], (0, 0))
    mean = losses.mean_loss({name: terms[name] for name in ("forces", "metal")})
    self.assertEqual(mean, 0)

  def test_a_target_without_a_loss_is_left_out_and_needs_no_label(self):
    task = tasks_lib.pretraining_task("only", 0.0, 1.0)
    batch = _batch(tasks=(0, 0, 0))
    batch = batch.replace(targets={"forces": batch.targets["forces"]})
    terms = losses.loss_terms(losses.LossConfig(), (task,), batch, _predictions())
    self.assertEqual(list(terms), ["forces"])

  def test_a_missing_label_is_named(self):
    batch = _batch().replace(targets={})
    with self.assertRaisesRegex(KeyError, "energy"):
      losses.loss_terms(losses.LossConfig(), _TASKS, batch, _predictions())


class MissingLabelsTest(parameterized.TestCase):
  """Structures without a label weigh nothing in its loss."""

  _TARGETS = (
    Target("energy", "energy", loss_coefficient=2.0, allow_missing=True),
    Target("forces", "direct_forces", loss_coefficient=3.0, allow_missing=True),
    Target("group", "multiclass", num_classes=3, allow_missing=True),
  )

  def _with_missing(self, batch, graph):
    """The batch with NaN and -1 as the labels of one structure."""
    energy, forces, group = (
      np.array(batch.targets[name]) for name in ("energy", "forces", "group")
    )
    energy[graph], group[graph] = np.nan, -1
    forces[np.asarray(batch.node_graph) == graph] = np.nan
    return batch.replace(targets={"energy": energy, "forces": forces, "group": group})

  @parameterized.product(graph=(0, 1, 2), structure_wise=(True, False))
  def test_the_loss_is_that_of_the_other_structures(self, graph, structure_wise):
    tasks = (tasks_lib.TaskConfig("mine", self._TARGETS),)
    config = losses.LossConfig(structure_wise=structure_wise)
    whole = _batch(tasks=(0, 0, 0))
    batch = self._with_missing(whole, graph)
    predictions = {k: v for k, v in _predictions().items() if k != "metal"}
    others = whole.replace(
      graph_mask=np.array(whole.graph_mask) & (np.arange(4) != graph),
      atom_mask=np.array(whole.atom_mask) & (np.asarray(whole.node_graph) != graph),
    )
    found = losses.loss_terms(config, tasks, batch, predictions)
    expected = losses.loss_terms(config, tasks, others, predictions)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)

  def test_gradients_are_finite_and_zero_for_missing_labels(self):
    tasks = (tasks_lib.TaskConfig("mine", self._TARGETS),)
    batch = self._with_missing(_batch(tasks=(0, 0, 0)), 1)

    def loss(predictions):
      terms = losses.loss_terms(losses.LossConfig(), tasks, batch, predictions)
      return losses.mean_loss(terms)

    predictions = {k: v for k, v in _predictions().items() if k != "metal"}
    gradient = jax.device_get(jax.grad(loss)(predictions))
    chex.assert_tree_all_finite(gradient)
    chex.assert_trees_all_equal(gradient["energy"][1], np.float32(0))
    chex.assert_trees_all_equal(gradient["group"][1], np.zeros(3, np.float32))
    atoms = np.asarray(batch.node_graph) == 1
    self.assertTrue((gradient["forces"][atoms] == 0).all())
    self.assertTrue((gradient["energy"][[0, 2]] != 0).all())

  def test_no_label_at_all_gives_no_loss(self):
    tasks = (tasks_lib.TaskConfig("mine", self._TARGETS[:1]),)
    batch = _batch(tasks=(0, 0, 0))
    batch = batch.replace(targets={"energy": np.full(4, np.nan, np.float32)})
    terms = losses.loss_terms(losses.LossConfig(), tasks, batch, _predictions())
    chex.assert_trees_all_equal(jax.device_get(terms["energy"]), (0.0, 0.0))
    self.assertEqual(float(losses.mean_loss(terms)), 0.0)


if __name__ == "__main__":
  absltest.main()
