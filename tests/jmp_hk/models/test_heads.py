"""Heads: reductions, spatial extent, classes, and targets that tasks lack."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import ase.data
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import heads
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib
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
    np.testing.assert_allclose(y[0], function(x[:9], axis=0), rtol=1e-12)
    np.testing.assert_allclose(y[1], function(x[9:12], axis=0), rtol=1e-12)
    np.testing.assert_array_equal(y[2:], 0)

  @parameterized.parameters(*Reduction)
  def test_gradients_are_finite_and_zero_for_padding(self, reduction):
    batch = _batch()
    gradient = jax.grad(lambda x: heads.reduce_atoms(x, batch, reduction)[:2].sum())(
      jnp.ones((26, 1))
    )
    self.assertTrue(np.isfinite(gradient).all())
    np.testing.assert_array_equal(gradient[12:], 0)
    np.testing.assert_allclose(
      gradient.sum(), 12 if reduction is Reduction.SUM else 2, rtol=1e-6
    )


class SpatialExtentTest(parameterized.TestCase):
  def test_distances_to_the_centre_of_mass(self):
    molecule = small_model.molecule()
    with jax.enable_x64():
      actual = jax.device_get(heads.squared_distance_to_centre_of_mass(_batch()))
    masses = ase.data.atomic_masses[molecule.atomic_numbers]
    centre = np.average(molecule.positions, axis=0, weights=masses)
    expected = ((molecule.positions - centre) ** 2).sum(-1)
    np.testing.assert_allclose(actual[:9], expected, rtol=1e-12)
    np.testing.assert_array_equal(actual[12:], 0)

  def test_does_not_depend_on_the_origin(self):
    molecule = small_model.molecule()
    moved = dataclasses.replace(molecule, positions=molecule.positions + 30.0)
    expected, actual = (_evaluate()([m])["extent"] for m in (molecule, moved))
    np.testing.assert_allclose(actual, expected, rtol=1e-9)
    self.assertNotEqual(expected[0], 0)


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
    for name in ("extent", "class", "metal", "velocity"):
      np.testing.assert_array_equal(actual[name], expected[name])

  def test_plan_of_heads(self):
    plans = {p.target.name: p for p in heads.plan_heads(_TASKS)}
    self.assertEqual(list(plans), ["gap", "extent", "class", "metal", "velocity"])
    self.assertEqual(plans["gap"].task_head, (0, 1))
    self.assertEqual(plans["gap"].num_heads, 2)
    self.assertEqual(plans["metal"].task_head, (-1, 0))
    self.assertEqual(plans["metal"].num_heads, 1)


if __name__ == "__main__":
  absltest.main()
