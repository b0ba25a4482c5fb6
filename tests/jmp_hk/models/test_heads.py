"""Heads: reductions, spatial extent, classes, and targets that tasks lack."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import heads
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib
from jmp_hk.targets import vector
from tests.jmp_hk.models.gemnet_oc import small_model

Reduction = tasks_lib.Reduction

_TASKS = (
  tasks_lib.TaskConfig(
    "molecules",
    (
      tasks_lib.TargetConfig("gap", "scalar", reduction=Reduction.MEAN),
      tasks_lib.TargetConfig("extent", "spatial_extent"),
      tasks_lib.TargetConfig("class", "multiclass", num_classes=3),
    ),
  ),
  tasks_lib.TaskConfig(
    "crystals",
    (
      tasks_lib.TargetConfig("gap", "scalar", reduction=Reduction.MEAN),
      tasks_lib.TargetConfig("metal", "binary", reduction=Reduction.MAX),
      tasks_lib.TargetConfig("velocity", "vector"),
    ),
  ),
)


@functools.cache
def _evaluate() -> small_model.Evaluator:
  return small_model.Evaluator(
    model_lib.ModelConfig(backbone=small_model.BACKBONE, tasks=_TASKS)
  )


def _batch(tasks=(0, 1)):
  structures = [small_model.molecule(), small_model.crystal()]
  return small_model.make_batch(structures, tasks=list(tasks))


class ReductionTest(parameterized.TestCase):
  @parameterized.parameters(
    (Reduction.SUM, np.sum), (Reduction.MEAN, np.mean), (Reduction.MAX, np.max)
  )
  def test_reduces_real_atoms_only(self, reduction, function):
    batch = _batch()
    x = np.random.default_rng(0).uniform(-5, -1, (26, 2))  # padding would be the max
    x[12:] = 7
    with jax.enable_x64():
      y = jax.device_get(heads.reduce_atoms(jnp.asarray(x), batch, reduction))
    expected = np.stack([function(x[:9], axis=0), function(x[9:12], axis=0)])
    chex.assert_trees_all_close(y[:2], expected, rtol=1e-12)
    chex.assert_trees_all_equal(y[2:], np.zeros((2, 2)))

  @parameterized.parameters(*Reduction)
  def test_gradients_are_finite_and_zero_for_padding(self, reduction):
    batch = _batch()
    gradient = jax.grad(lambda x: heads.reduce_atoms(x, batch, reduction)[:2].sum())(
      jnp.ones((26, 1))
    )
    chex.assert_tree_all_finite(gradient)
    chex.assert_trees_all_equal(gradient[12:], jnp.zeros((14, 1)))
    chex.assert_trees_all_close(
      gradient.sum(), 12 if reduction is Reduction.SUM else 2, rtol=1e-6
    )


class SpatialExtentTest(parameterized.TestCase):
  def test_does_not_depend_on_the_origin(self):
    molecule = small_model.molecule()
    moved = dataclasses.replace(molecule, positions=molecule.positions + 30.0)
    expected, actual = (_evaluate()([m])["extent"] for m in (molecule, moved))
    chex.assert_trees_all_close(actual, expected, rtol=1e-9)
    self.assertNotEqual(expected[0], 0)


@spec_lib.register("test_dipole")
@dataclasses.dataclass(frozen=True)
class _Dipole(vector.Vector):
  """A vector of a whole structure."""

  per_atom = False


class PredictTest(parameterized.TestCase):
  """Heads on embeddings that no backbone computed."""

  def _head(self, target, batch, *, edges=True, num_edges=40):
    """The head of a target as pure functions."""
    rng = np.random.default_rng(0)
    num_atoms = len(batch.atom_mask)
    vectors = rng.standard_normal((num_edges, 3))
    embeddings = backbone_lib.Embeddings(
      nodes=jnp.asarray(rng.standard_normal((num_atoms, 6))),
      edges=jnp.asarray(rng.standard_normal((num_edges, 6))) if edges else None,
      vectors=jnp.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)),
      receivers=jnp.asarray(np.sort(rng.integers(0, 12, num_edges))),
    )
    (plan,) = heads.plan_heads([tasks_lib.TaskConfig("only", (target,))])
    return hk.transform(lambda: heads.predict(plan, embeddings, batch))

  def test_vectors_of_structures_are_reduced_like_numbers(self):
    batch = _batch(tasks=(0, 0))
    head = self._head(tasks_lib.TargetConfig("x", "vector"), batch)
    params = head.init(jax.random.PRNGKey(0))
    atoms = head.apply(params, None)
    for reduction, function in ((Reduction.SUM, np.sum), (Reduction.MEAN, np.mean)):
      target = tasks_lib.TargetConfig("x", "test_dipole", reduction=reduction)
      dipoles = self._head(target, batch).apply(params, None)
      expected = np.zeros((4, 3), np.float32)
      expected[0], expected[1] = function(atoms[:9], 0), function(atoms[9:12], 0)
      chex.assert_trees_all_close(np.asarray(dipoles), expected, rtol=1e-5, atol=1e-6)

  def test_a_backbone_without_edges_is_refused(self):
    with self.assertRaisesRegex(ValueError, "'x' of kind 'vector'.*no embeddings of"):
      target = tasks_lib.TargetConfig("x", "vector")
      self._head(target, _batch(), edges=False).init(jax.random.PRNGKey(0))


class TargetsTest(parameterized.TestCase):
  def test_shapes_and_zeros_where_a_task_lacks_a_target(self):
    predictions = _evaluate().apply(_batch())
    self.assertEqual(
      {name: value.shape for name, value in predictions.items()},
      {
        "gap": (4,),
        "extent": (4,),
        "class": (4, 3),
        "metal": (4,),
        "velocity": (26, 3),
      },
    )
    nonzero = {
      name: (np.abs(value.reshape(len(value), -1)).max(1) > 0).nonzero()[0].tolist()
      for name, value in predictions.items()
    }
    self.assertEqual(
      nonzero,
      {
        "gap": [0, 1],
        "extent": [0],
        "class": [0],
        "metal": [1],
        "velocity": [9, 10, 11],
      },
    )

  def test_a_shared_target_has_weights_for_each_task(self):
    # The same structure gets another value from another task's head.
    structure = small_model.crystal()
    first, second = (_evaluate()([structure], tasks=[t])["gap"][0] for t in (0, 1))
    self.assertNotEqual(first, second)
    params = _evaluate().variables.params
    self.assertEqual(params["out_gap/linear_0"]["w"].shape[0], 2)
    self.assertEqual(params["out_class/linear_0"]["w"].shape[0], 1)
    self.assertEqual(params["out_class/linear_4"]["w"].shape[-1], 3)

  def test_predictions_do_not_depend_on_other_tasks_weights(self):
    evaluate, batch = _evaluate(), _batch()
    expected = evaluate.apply(batch)
    params = {
      module: {
        name: np.stack([x[0], x[1] + 1]) if module.startswith("out_gap") else x
        for name, x in leaves.items()
      }
      for module, leaves in evaluate.variables.params.items()
    }
    actual = evaluate.apply(batch, evaluate.variables._replace(params=params))
    self.assertEqual(actual["gap"][0], expected["gap"][0])
    self.assertNotEqual(actual["gap"][1], expected["gap"][1])
    for predictions in (actual, expected):
      del predictions["gap"]
    chex.assert_trees_all_equal(actual, expected)

  def test_plan_of_heads(self):
    plans = {p.target.name: p for p in heads.plan_heads(_TASKS)}
    self.assertEqual(list(plans), ["gap", "extent", "class", "metal", "velocity"])
    self.assertEqual(plans["gap"].task_head, (0, 1))
    self.assertEqual(plans["gap"].num_heads, 2)
    self.assertEqual(plans["metal"].task_head, (-1, 0))
    self.assertEqual(plans["metal"].num_heads, 1)


if __name__ == "__main__":
  absltest.main()
