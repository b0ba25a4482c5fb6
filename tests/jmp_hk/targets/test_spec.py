"""What every kind of target keeps: inverses, shapes, units; and the registry."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import chex
import hypothesis
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np

from jmp_hk.targets import arithmetic
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import scalar
from jmp_hk.targets import spec as spec_lib
from tests.jmp_hk.models.gemnet_oc import small_model
from tests.jmp_hk.targets import examples

_BUILT_IN = [spec.kind for spec in tasks_lib.BUILT_IN]
_QUANTITIES = [spec.kind for spec in tasks_lib.BUILT_IN if not spec.is_class]
_CLASSES = [spec.kind for spec in tasks_lib.BUILT_IN if spec.is_class]


def _constants(kind: str, **changes) -> spec_lib.TaskConstants:
  """Constants of a task with a target of this kind."""
  task = tasks_lib.TaskConfig("mine", (examples.TARGETS[kind],))
  return task.constants(examples.info(**changes))


def _rows(spec, batch, seed=0):
  """Random predictions and labels for a batch."""
  rng = np.random.default_rng(seed)
  rows = len(batch.atom_mask if spec.per_atom else batch.graph_mask)
  prediction = rng.normal(size=(rows, *spec.prediction_shape)).astype(np.float32)
  if spec.is_class:
    label = rng.integers(0, spec.num_classes or 2, rows).astype(np.int32)
  else:
    label = rng.normal(size=(rows, *spec.shape)).astype(np.float32)
  return jnp.asarray(prediction), jnp.asarray(label)


class EveryKindTest(parameterized.TestCase):
  def test_the_examples_have_every_built_in_kind(self):
    self.assertCountEqual(examples.TARGETS, _BUILT_IN)

  @parameterized.parameters(_QUANTITIES)
  @hypothesis.given(
    seed=st.integers(0, 2**31),
    scale=st.floats(1e-3, 1e3),
    reference=st.floats(-1e5, 1e5),
  )
  @hypothesis.settings(max_examples=30, deadline=None)
  def test_denormalise_inverts_normalise(self, kind, seed, scale, reference):
    spec = examples.TARGETS[kind].spec
    changes = {
      "energy_scale": scale,
      "force_scale": 2 * scale,
      "energy_references": {1: reference, 8: -reference},
      "targets": {
        name: dataclasses.replace(
          statistics, std=scale, mean=statistics.mean and reference
        )
        for name, statistics in examples.info().targets.items()
      },
    }
    constants = _constants(kind, **changes)
    structure = examples.structure(seed)
    label = spec.label(structure)
    normalised = spec.normalise(label, constants, structure)
    self.assertEqual(np.asarray(normalised).dtype, np.float64)
    chex.assert_shape(
      normalised, (structure.num_atoms, *spec.shape) if spec.per_atom else spec.shape
    )
    found = spec.denormalise(normalised, constants, structure)
    # What is lost is rounding, in units of the largest number that occurs.
    chex.assert_trees_all_close(
      np.asarray(found), np.asarray(label), rtol=1e-12, atol=1e-14 * abs(reference)
    )

  @parameterized.product(kind=_CLASSES, seed=(0, 1, 2, 3))
  def test_classes_stay_and_sure_predictions_give_them_back(self, kind, seed):
    spec = examples.TARGETS[kind].spec
    structure, constants = examples.structure(seed), _constants(kind)
    label = spec.normalise(spec.label(structure), constants, structure)
    self.assertEqual(label.dtype, np.int64)
    self.assertEqual(label, structure.targets[spec.name])
    logits = 30.0 * (np.arange(spec.num_classes or 2) == label)
    value = logits if spec.prediction_shape else logits[1] - logits[0]
    found = spec.stack_predictions([spec.denormalise(value, constants, structure)])
    chex.assert_shape(found, (1, spec.num_classes or 2))
    self.assertEqual(found.argmax(axis=1), spec.stack_labels([label]))
    np.testing.assert_allclose(found.sum(axis=1), 1)

  @parameterized.parameters(_BUILT_IN)
  def test_losses_and_metrics_have_a_number_per_row(self, kind):
    spec = examples.TARGETS[kind].spec
    structures = [small_model.molecule(), small_model.crystal()]
    batch = small_model.make_batch(structures, dtype=np.float32)
    prediction, label = _rows(spec, batch)
    losses = spec.loss(prediction, label)
    chex.assert_shape(losses, label.shape[:1])
    chex.assert_tree_all_finite(losses)
    self.assertGreater(losses.min(), 0)
    constants = _constants(kind)
    rows = spec.counted(batch, jnp.asarray(batch.graph_mask), constants)
    self.assertEqual(rows.sum(), 12 if spec.per_atom else 2)
    sums = spec.metrics(prediction, label, rows, batch, constants)
    chex.assert_tree_all_finite(sums)
    self.assertIn(spec.primary_metric, sums)
    for total, count in sums.values():
      chex.assert_shape((total, count), ())
      self.assertGreater(count, 0)

  @parameterized.parameters(_BUILT_IN)
  def test_errors_of_exact_predictions_vanish(self, kind):
    spec = examples.TARGETS[kind].spec
    batch = small_model.make_batch([small_model.molecule()], dtype=np.float32)
    _, label = _rows(spec, batch)
    exact = label
    if spec.is_class:
      exact = 100.0 * (label[:, None] == jnp.arange(spec.num_classes or 2))
      exact = exact if spec.prediction_shape else exact[:, 1] - exact[:, 0]
    rows = spec.counted(batch, jnp.asarray(batch.graph_mask), _constants(kind))
    sums = spec.metrics(exact, label, rows, batch, _constants(kind))
    self.assertEqual(sums[spec.primary_metric][0], 0)
    self.assertAlmostEqual(float(spec.loss(exact, label).max()), 0, delta=2e-6)

  @parameterized.parameters(_BUILT_IN)
  def test_a_structure_without_the_label(self, kind):
    spec = examples.TARGETS[kind].spec
    self.assertIsNotNone(spec.label(examples.structure()))
    bare = examples.structure(energy=None, forces=None, stress=None, targets={})
    self.assertIsNone(spec.label(bare))

  @parameterized.parameters(
    ("energy", "mae_per_atom", "meV/atom", 1000.0),
    ("direct_forces", "mae", "meV/Å", 1000.0),
    ("conservative_forces", "mae", "meV/Å", 1000.0),
    ("conservative_stress", "mae", "meV/Å³", 1000.0),
    ("scalar", "mae", "eV", 1.0),
    ("vector", "mae", "", 1.0),
    ("binary", "cross_entropy", "nat", 1.0),
    ("multiclass", "cross_entropy", "nat", 1.0),
  )
  def test_how_errors_are_shown(self, kind, score, unit, factor):
    spec = examples.TARGETS[kind].spec
    shown = spec.shown_metrics(spec.unit(examples.info().units))[0]
    self.assertEqual((shown.score, shown.unit, shown.factor), (score, unit, factor))

  @parameterized.parameters(*examples.TARGETS)
  def test_shown_metrics_are_those_that_validation_computes(self, kind):
    spec = examples.TARGETS[kind].spec
    batch = small_model.make_batch([small_model.molecule()], dtype=np.float32)
    prediction, label = _rows(spec, batch)
    rows = jnp.ones(len(label), bool)
    found = spec.metrics(prediction, label, rows, batch, _constants(kind))
    names = [shown.name for shown in spec.shown_metrics("eV") if shown.name]
    self.assertContainsSubset(names, found)
    # The first is told while the model trains.
    self.assertTrue(spec.shown_metrics("eV")[0].name)

  def test_fixed_atoms_are_left_out_of_forces_alone(self):
    batch = small_model.make_batch([small_model.molecule()], dtype=np.float32)
    batch = dataclasses.replace(batch, fixed=batch.atom_mask & (np.arange(26) < 4))
    graphs = jnp.asarray(batch.graph_mask)
    for kind, free_only, count in (
      ("direct_forces", True, 5),
      ("direct_forces", False, 9),
      ("vector", True, 9),
    ):
      spec = examples.TARGETS[kind].spec
      constants = _constants(kind, evaluate_free_atoms_only=free_only)
      self.assertEqual(spec.counted(batch, graphs, constants).sum(), count)


class RegistryTest(absltest.TestCase):
  def test_kinds_have_the_names_that_stored_configs_use(self):
    stored = (
      "energy direct_forces conservative_forces conservative_stress scalar "
      "spatial_extent vector binary multiclass"
    )
    self.assertLessEqual(set(stored.split()), set(spec_lib.kinds()))

  def test_an_unknown_kind_is_an_error_that_names_the_known_ones(self):
    with self.assertRaisesRegex(ValueError, "'dipole'; known are .*energy.*scalar"):
      spec_lib.find("dipole")

  def test_a_name_is_registered_once(self):
    spec_lib.register("scalar")(scalar.Scalar)  # The same class, as a reload does.
    with self.assertRaisesRegex(ValueError, "already a kind 'scalar': Scalar"):
      spec_lib.register("scalar")(scalar.SpatialExtent)
    self.assertIs(spec_lib.find("scalar"), scalar.Scalar)


class MaskedSumTest(parameterized.TestCase):
  @parameterized.parameters(((4,),), ((4, 3),))
  def test_counts_values_of_the_rows_in_the_mask(self, shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    rows = np.array([True, False, True, False])
    total, count = arithmetic.masked_sum(jnp.asarray(values), jnp.asarray(rows))
    self.assertEqual(total, values[rows].sum())
    self.assertEqual(count, values[rows].size)

  def test_what_is_masked_may_be_anything(self):
    values = jnp.array([1.0, np.nan])
    total, _ = arithmetic.masked_sum(values, jnp.array([True, False]))
    self.assertEqual(total, 1)


if __name__ == "__main__":
  absltest.main()
