"""Padding never leaks: not into outputs, nor into any gradient."""

import dataclasses
import functools
from typing import NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import packing
from jmp_hk.models import model as model_lib
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.models.gemnet_oc import small_model


class Results(NamedTuple):
  """Predictions, and gradients of a loss of all of them, padding included."""

  predictions: model_lib.Predictions
  params: dict
  positions: jax.Array
  cell: jax.Array


@functools.cache
def _gradients(kind: str, precision: str):
  """A jitted function of a batch, and the type of its positions."""
  make = {
    "direct": small_model.direct_config,
    "conservative": small_model.conservative_config,
  }[kind]
  dtype = np.float64 if precision == "float64" else np.float32
  precision = "bfloat16" if precision == "bfloat16" else "float32"
  model = model_lib.build_model(make(precision=precision))
  variables = small_model.variables(
    model, small_model.make_batch([small_model.molecule()], dtype=dtype), dtype=dtype
  )

  def loss(params, positions, cell, scales, batch):
    batch = batch.replace(positions=positions, cell=cell)
    predictions = model.apply(model_lib.Variables(params, scales), None, batch)
    # No masks: padding must not contribute by itself.
    total = sum((1e-3 * value**2).sum() for value in predictions.values())
    return total, predictions

  @jax.jit
  def run(variables, batch):
    gradients, predictions = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(
      variables.params, batch.positions, batch.cell, variables.scales, batch
    )
    return Results(predictions, *gradients)

  def call(batch):
    with jax.enable_x64(dtype == np.float64):
      return jax.device_get(run(variables, batch))

  return call, dtype


def _tight_budget(structures) -> gemnet_graphs.Budget:
  """Nothing spare but the one structure and atom that must be padding."""
  sizes = [
    gemnet_graphs.BUILDER.sizes(small_model.UNCAPPED.build(s)) for s in structures
  ]
  needs = dataclasses.asdict(budget_lib.total(sizes, gemnet_graphs.Budget))
  needs["num_graphs"] += 1
  needs["num_atoms"] += 1
  return gemnet_graphs.Budget(**needs)


def _difficult_structures():
  """An ideal crystal and a linear molecule: collinear atoms, ties, an isolated atom."""
  cell = 2.6 * (np.ones((3, 3)) - np.eye(3))
  crystal = helpers.make_structure(
    [[0, 0, 0], [2.6, 0, 0]], np.array([11, 17], np.int32), cell=cell, pbc=True
  )
  linear = helpers.make_structure(
    [[0, 0, 0], [0, 0, 1.1], [0, 0, 2.3]], np.array([1, 6, 7], np.int32)
  )
  atom = helpers.make_structure([[1.0, 2.0, 3.0]], np.array([2], np.int32))
  return [crystal, linear, atom]


def _assert_padding_is_zero(results: Results, batch: batch_lib.Batch):
  atoms, graphs = ~batch.atom_mask, ~batch.graph_mask
  chex.assert_trees_all_equal(results.positions[atoms], 0)
  chex.assert_trees_all_equal(results.cell[graphs], 0)
  for name, value in results.predictions.items():
    padding = atoms if name == "forces" else graphs
    np.testing.assert_array_equal(value[padding], 0, err_msg=name)


class PaddingTest(parameterized.TestCase):
  @parameterized.parameters("direct", "conservative")
  def test_any_amount_gives_the_same_outputs_and_gradients(self, kind):
    # The conservative model's loss holds forces, so this is a second derivative.
    gradients, dtype = _gradients(kind, "float64")
    structures = [small_model.molecule(), small_model.crystal()]
    tight, loose = _tight_budget(structures), small_model.BUDGET
    for name in budget_lib.padded_names(gemnet_graphs.Budget):
      self.assertLess(getattr(tight, name), getattr(loose, name), name)
    results = []
    for budget in (tight, loose):
      batch = small_model.make_batch(structures, budget=budget, dtype=dtype)
      results.append(gradients(batch))
      _assert_padding_is_zero(results[-1], batch)
    expected, actual = results
    for name, value in expected.predictions.items():
      length = 12 if name == "forces" else 2
      _assert_close(actual.predictions[name][:length], value[:length], name)
    _assert_close(actual.positions[:12], expected.positions[:12], "positions")
    _assert_close(actual.cell[:2], expected.cell[:2], "cell")
    self.assertGreater(np.abs(expected.cell[1]).max(), 0)
    for module, leaves in expected.params.items():
      for name, value in leaves.items():
        _assert_close(actual.params[module][name], value, f"{module}/{name}")

  @parameterized.product(
    kind=("direct", "conservative"), precision=("float64", "float32", "bfloat16")
  )
  def test_gradients_are_finite_and_zero_for_padding(self, kind, precision):
    if kind == "conservative" and precision == "bfloat16":
      self.skipTest("the direct model covers bfloat16")
    gradients, dtype = _gradients(kind, precision)
    easy = [small_model.molecule(), small_model.crystal()]
    for structures in (easy, _difficult_structures()):
      batch = small_model.make_batch(structures, dtype=dtype)
      results = gradients(batch)
      chex.assert_tree_all_finite(results)
      _assert_padding_is_zero(results, batch)

  @parameterized.product(
    kind=("direct", "conservative"), precision=("float64", "float32")
  )
  def test_a_batch_of_padding_alone_is_zero_throughout(self, kind, precision):
    gradients, dtype = _gradients(kind, precision)
    results = gradients(
      packing.pack([], gemnet_graphs.BUILDER, small_model.BUDGET, dtype)
    )
    for leaf in jax.tree.leaves(results):
      chex.assert_trees_all_equal(leaf, 0)

  def test_every_parameter_of_a_used_head_and_of_the_backbone_has_a_gradient(self):
    # What is zero by mistake would pass every comparison above.
    gradients, dtype = _gradients("direct", "float64")
    structures = [small_model.molecule(), small_model.crystal()]
    results = gradients(small_model.make_batch(structures, tasks=[0, 1], dtype=dtype))
    for module, leaves in results.params.items():
      for name, value in leaves.items():
        self.assertGreater(np.abs(value).max(), 0, f"{module}/{name}")


def _assert_close(actual, expected, name, tolerance=1e-12):
  scale = max(np.abs(expected).max(), 1e-300)
  np.testing.assert_allclose(
    actual, expected, rtol=0, atol=tolerance * scale, err_msg=name
  )


if __name__ == "__main__":
  absltest.main()
