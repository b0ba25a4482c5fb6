"""Rematerialisation changes memory, not numbers."""

import dataclasses

import jax
import numpy as np
import pytest

from jmp_hk.models import model as model_lib
from tests.jmp_hk.models.gemnet_oc import small_model


def _with_remat(
  config: model_lib.ModelConfig, dropout: float = 0.2
) -> model_lib.ModelConfig:
  backbone = dataclasses.replace(config.backbone, remat=True, dropout=dropout)
  return dataclasses.replace(config, backbone=backbone)


def _without(config: model_lib.ModelConfig) -> model_lib.ModelConfig:
  backbone = dataclasses.replace(config.backbone, remat=False)
  return dataclasses.replace(config, backbone=backbone)


def _inputs(config: model_lib.ModelConfig):
  """A batch of two structures, and variables."""
  batch = small_model.make_batch([small_model.molecule(), small_model.crystal()])
  with jax.enable_x64(True):
    return batch, small_model.variables(model_lib.build_model(config), batch)


def _gradient(config, scales):
  model = model_lib.build_model(config)

  def loss(params, batch):
    predictions = model.apply(
      model_lib.Variables(params, scales),
      jax.random.PRNGKey(1),
      batch,
      is_training=True,
    )
    return sum((values**2).sum() for values in predictions.values())

  return jax.grad(loss)


# Dropout's random numbers more than double what is compiled of second derivatives.
@pytest.mark.parametrize(
  ("make_config", "dropout"),
  [(small_model.direct_config, 0.2), (small_model.conservative_config, 0.0)],
)
def test_gradients_are_equal(make_config, dropout):
  config = _with_remat(make_config(), dropout)
  batch, variables = _inputs(config)
  with jax.enable_x64(True):
    gradients = [
      jax.jit(_gradient(c, variables.scales))(variables.params, batch)
      for c in (config, _without(config))
    ]
  # Dropout draws the same numbers; the rest differs by rounding alone.
  one, other = gradients
  limits = jax.tree.map(lambda g: 1e-9 * np.abs(g).max() + 1e-8 * np.abs(g), other)
  within = jax.tree.map(lambda a, b, c: np.all(np.abs(a - b) <= c), one, other, limits)
  assert all(jax.tree.leaves(within))


def test_blocks_are_computed_again():
  config = _with_remat(small_model.direct_config())
  batch, variables = _inputs(config)
  with jax.enable_x64(True):
    flops = [
      jax.jit(_gradient(c, variables.scales))
      .lower(variables.params, batch)
      .cost_analysis()["flops"]
      for c in (config, _without(config))
    ]
  assert flops[0] > 1.15 * flops[1]


def test_scale_factors_are_fitted_all_the_same():
  config = _with_remat(small_model.direct_config())
  structures = [small_model.molecule(), small_model.crystal()]
  batch = small_model.make_batch(structures, dtype=np.float32)
  model = model_lib.build_model(config)
  variables = model.init(jax.random.PRNGKey(0), batch)
  fitted = model.fit_state(variables, [batch]).scales
  assert all(float(x) > 0 for x in jax.tree.leaves(fitted))
