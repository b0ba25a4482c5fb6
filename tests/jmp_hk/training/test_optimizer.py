"""The optimiser does what the published recipe says."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmp_hk import ranges
from jmp_hk.models import parameters
from jmp_hk.runtime import compilation
from jmp_hk.training import config as config_lib
from jmp_hk.training import optimizer as optimizer_lib

_PARAMS = {
  "net/block_0/dense": {"w": jnp.full((2, 2), 0.5), "b": jnp.ones(2)},
  "net/head": {"w": jnp.full((2,), -1.0)},
}
_CONSTANT = config_lib.ScheduleConfig(
  learning_rate=0.1, warmup_steps=0, decay_steps=10, final_factor=1.0
)


def _gradients(step: int) -> dict:
  rng = np.random.default_rng(step)
  return jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=p.shape) * 3, p.dtype), _PARAMS
  )


def _run(config: config_lib.OptimizerConfig, steps: int = 4, **extra) -> dict:
  optimizer = optimizer_lib.make_optimizer(config, _PARAMS)
  params, state = _PARAMS, optimizer.init(_PARAMS)
  for step in range(steps):
    updates, state = optimizer.update(_gradients(step), state, params, **extra)
    params = optax.apply_updates(params, updates)
  return params


def test_schedule_shape():
  schedule = optimizer_lib.make_schedule(
    config_lib.ScheduleConfig(1.0, 10, 0.2, 110, 0.1)
  )
  # Warm-up starts at a fifth of the peak and is linear.
  chex.assert_trees_all_close([schedule(0), schedule(5)], [0.2, 0.6], rtol=1e-6)
  # The peak is at its end, half-way down the cosine is the mean, then the floor.
  chex.assert_trees_all_close(
    [schedule(10), schedule(60), schedule(110), schedule(500)],
    [1.0, 0.55, 0.1, 0.1],
    rtol=1e-6,
  )


def test_schedule_of_a_group_ends_at_the_same_absolute_rate():
  config = config_lib.ScheduleConfig(1.0, 10, 0.2, 110, 0.1)
  for factor, end in [(0.3, 0.1), (0.625, 0.1), (0.05, 0.05 * 0.99)]:
    schedule = optimizer_lib.make_schedule(config, factor)
    chex.assert_trees_all_close(schedule(10), factor, rtol=1e-6)
    chex.assert_trees_all_close(schedule(110), end, rtol=1e-6)


def test_schedule_refuses_a_warmup_longer_than_the_run():
  with pytest.raises(ValueError, match="shorten the warm-up"):
    config_lib.ScheduleConfig(warmup_steps=100, decay_steps=100)


def test_equals_textbook_adamw_with_global_norm_clip():
  config = config_lib.OptimizerConfig(schedule=_CONSTANT)
  got = _run(config)
  # The same, written out in float64.
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), _PARAMS)
  m = jax.tree.map(np.zeros_like, params)
  v = jax.tree.map(np.zeros_like, params)
  for step in range(4):
    grads = jax.tree.map(lambda g: np.asarray(g, np.float64), _gradients(step))
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * min(1.0, 1.0 / norm), grads)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g**2, v, grads)
    c1, c2 = 1 - 0.9 ** (step + 1), 1 - 0.95 ** (step + 1)
    params = jax.tree.map(
      lambda p, m, v: p * (1 - 0.1 * 0.1) - 0.1 * (m / c1) / (np.sqrt(v / c2) + 1e-8),
      params,
      m,
      v,
    )
  jax.tree.map(lambda a, b: chex.assert_trees_all_close(a, b, rtol=2e-5), got, params)


def test_norm_of_many_arrays_joined_for_a_gpu():
  shapes = [(3, 4)] * 70 + [(2, 4), (4,), (), (2, 3, 4)]
  keys = jax.random.split(jax.random.PRNGKey(0), len(shapes))
  tree = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
  with compilation.trace_for("gpu"):
    norm = optimizer_lib.global_norm(tree)
  chex.assert_trees_all_close(norm, optax.global_norm(tree), rtol=1e-6)


def test_layerwise_rates_scale_the_whole_update():
  # With Adam the size of the first step is the rate, decay included.
  plain = _run(config_lib.OptimizerConfig(schedule=_CONSTANT), steps=1)
  factors = ((r"block_0/.*/b$", 0.5), (r"block_0", 0.25))
  scaled = _run(
    config_lib.OptimizerConfig(schedule=_CONSTANT, learning_rate_factors=factors),
    steps=1,
  )
  for module, name, factor in [
    ("net/block_0/dense", "w", 0.25),
    ("net/block_0/dense", "b", 0.5),  # The first pattern wins.
    ("net/head", "w", 1.0),
  ]:
    chex.assert_trees_all_close(
      scaled[module][name] - _PARAMS[module][name],
      factor * (plain[module][name] - _PARAMS[module][name]),
      rtol=1e-4,
    )


def test_multiplier_scales_every_rate():
  config = config_lib.OptimizerConfig(schedule=_CONSTANT)
  plain, half = _run(config, steps=1), _run(config, steps=1, lr_multiplier=0.5)
  jax.tree.map(
    lambda a, b, p: chex.assert_trees_all_close(b - p, 0.5 * (a - p), rtol=1e-4),
    plain,
    half,
    _PARAMS,
  )


def test_frozen_parameters_stay_and_do_not_count_in_the_norm():
  frozen = _run(config_lib.OptimizerConfig(schedule=_CONSTANT, frozen=("block_0",)))
  # Not even weight decay touches them.
  chex.assert_trees_all_equal(frozen["net/block_0/dense"], _PARAMS["net/block_0/dense"])
  # The rest moves as if they did not exist.
  alone = optimizer_lib.make_optimizer(
    config_lib.OptimizerConfig(schedule=_CONSTANT), _PARAMS
  )
  head = {"net/head": _PARAMS["net/head"]}
  state = alone.init(head)
  for step in range(4):
    grads = {"net/head": _gradients(step)["net/head"]}
    updates, state = alone.update(grads, state, head)
    head = optax.apply_updates(head, updates)
  chex.assert_trees_all_close(frozen["net/head"]["w"], head["net/head"]["w"], rtol=1e-6)


def test_patterns_that_freeze_everything_or_cannot_be_read_are_refused():
  for frozen, message in (((".",), "nothing to train"), (("(",), "no regular expr")):
    config = config_lib.OptimizerConfig(schedule=_CONSTANT, frozen=frozen)
    with pytest.raises(parameters.PatternError, match=message):
      optimizer_lib.make_optimizer(config, _PARAMS)


def test_settings_out_of_range_are_refused():
  for change in (
    {"b1": 1.0},
    {"b2": 2},
    {"eps": 0.0},
    {"clip_threshold": 0},
    {"weight_decay": math.nan},
    {"weight_decay": math.inf},
    {"b1": "0.9"},
    {"learning_rate_factors": (("head", 0.0),)},
  ):
    with pytest.raises(ranges.RangeError, match="must be a number"):
      config_lib.OptimizerConfig(**change)


def test_clip_by_value():
  config = config_lib.OptimizerConfig(
    schedule=_CONSTANT, clip=config_lib.Clip.VALUE, clip_threshold=0.5
  )
  optimizer = optimizer_lib.make_optimizer(config, _PARAMS)
  _, state = optimizer.update(_gradients(0), optimizer.init(_PARAMS), _PARAMS)
  # The first moment after one step is a tenth of the clipped gradient.
  jax.tree.map(
    lambda m, g: chex.assert_trees_all_close(m, 0.1 * np.clip(g, -0.5, 0.5), rtol=1e-5),
    state[1].mu,
    _gradients(0),
  )


def test_patterns_without_a_match_are_errors():
  for kwargs in ({"frozen": ("blok",)}, {"learning_rate_factors": (("blok", 0.5),)}):
    with pytest.raises(ValueError, match="'blok' matches no parameter; .*block_0"):
      optimizer_lib.make_optimizer(config_lib.OptimizerConfig(**kwargs), _PARAMS)
