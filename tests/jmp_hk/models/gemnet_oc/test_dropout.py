"""Dropout and dropped edges: padding-independent draws, training alone."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import layers as base_layers
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import layers
from tests.jmp_hk.models.gemnet_oc import small_model

_EDGE_DROPOUT = 0.2
_SMALLER = dataclasses.replace(
  small_model.BUDGET,
  num_graphs=3,
  num_atoms=15,
  num_main=129,
  num_a2a=150,
  num_a2ee2a=140,
  num_qint=131,
  main_width=11,
  a2a_width=10,
  a2ee2a_width=12,
  qint_width=13,
)


def _model(**changes) -> model_lib.Model:
  backbone = dataclasses.replace(small_model.BACKBONE, **changes)
  return model_lib.build_model(small_model.direct_config(backbone=backbone))


def _structures():
  return [small_model.molecule(), small_model.crystal()]


@functools.cache
def _training_apply(dropout: float, edge_dropout: float):
  model = _model(dropout=dropout, edge_dropout=edge_dropout)

  @jax.jit
  def run(variables, key, batch):
    return model.apply(variables, key, batch, is_training=True)

  def call(seed, batch, variables=None):
    with jax.enable_x64():
      variables = small_model.direct().variables if variables is None else variables
      return jax.device_get(run(variables, jax.random.PRNGKey(seed), batch))

  return call


class DropoutTest(parameterized.TestCase):
  def test_draws_of_a_row_do_not_depend_on_the_rows_behind_it(self):
    @functools.partial(jax.jit, static_argnums=0)
    def draw(rows):
      layer = hk.transform(
        lambda x: layers.Dense(5, activation=True, dropout=0.5, name="d")(x)
      )
      x = jnp.ones((rows, 4))
      return layer.apply({"d": {"w": jnp.ones((4, 5))}}, jax.random.PRNGKey(3), x)

    short, long = draw(17), draw(400)
    chex.assert_trees_all_equal(long[:17], short)
    kept = np.asarray(long) > 0
    chex.assert_trees_all_close(kept.mean(), 0.5, atol=0.05, rtol=1e-7)
    chex.assert_trees_all_close(long[kept], 2 * base_layers.scaled_silu(4.0), rtol=1e-6)

  def test_draws_of_a_model_do_not_depend_on_padding(self):
    run = _training_apply(0.3, _EDGE_DROPOUT)
    results = [
      run(0, small_model.make_batch(_structures(), budget=budget))
      for budget in (_SMALLER, small_model.BUDGET)
    ]
    for name, length in (("energy", 2), ("forces", 12)):
      expected, actual = (result[name][:length] for result in results)
      chex.assert_trees_all_close(
        actual, expected, atol=1e-11 * np.abs(expected).max(), rtol=1e-7
      )
      chex.assert_trees_all_equal(results[1][name][length:], 0)

  def test_draws_follow_the_key(self):
    run = _training_apply(0.3, _EDGE_DROPOUT)
    batch = small_model.make_batch(_structures())
    first, again, other = (run(seed, batch)["energy"] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    self.assertTrue((first[:2] != other[:2]).all())

  def test_evaluation_is_that_of_a_model_without_dropout(self):
    # The very same computation, and no random key is asked for.
    batch = small_model.make_batch(_structures(), dtype=np.float32)
    variables = jax.tree.map(np.float32, small_model.direct().variables)

    def trace(model):
      run = lambda variables, batch: model.apply(variables, None, batch)
      return str(jax.make_jaxpr(run)(variables, batch))

    plain = trace(_model())
    self.assertEqual(trace(_model(edge_dropout=_EDGE_DROPOUT)), plain)
    self.assertEqual(trace(_model(dropout=0.3)), plain)

  def test_dropped_edges_are_made_up_for_in_the_sums_of_output_blocks_alone(self):
    # Dividing those sums by 1 - p is the same as dividing their scale factors.
    evaluate = small_model.direct()
    batch = small_model.make_batch(_structures())
    scales = {
      module: {
        name: value / (1 - _EDGE_DROPOUT) if _is_output_sum(module) else value
        for name, value in leaves.items()
      }
      for module, leaves in evaluate.variables.scales.items()
    }
    self.assertLen([module for module in scales if _is_output_sum(module)], 2)
    expected = evaluate.apply(batch, evaluate.variables._replace(scales=scales))
    actual = _training_apply(0.0, _EDGE_DROPOUT)(0, batch)
    plain = evaluate.apply(batch)
    for name, value in expected.items():
      chex.assert_trees_all_close(
        actual[name], value, atol=1e-11 * np.abs(value).max(), rtol=1e-7
      )
    self.assertTrue((actual["energy"][:2] != plain["energy"][:2]).all())
    chex.assert_trees_all_close(
      actual["forces"],
      plain["forces"],
      atol=1e-11 * np.abs(plain["forces"]).max(),
      rtol=1e-7,
    )


def _is_output_sum(module: str) -> bool:
  return "out_blocks" in module and module.endswith("scale_sum")


if __name__ == "__main__":
  absltest.main()
