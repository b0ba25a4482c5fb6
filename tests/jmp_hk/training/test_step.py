"""One step is one update on the global batch, however it is divided."""

import dataclasses
import json
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmp_hk.runtime import compilation
from jmp_hk.training import config as config_lib
from jmp_hk.training import sharding
from jmp_hk.training import step as step_lib
from tests import compiling
from tests.jmp_hk.training import toy

_LANES = 4


def _reference_loss(params, scales, key, batch):
  """The loss of all microbatches by a plain loop."""
  total, counts = {}, {}
  for i in range(_LANES):
    microbatch = jax.tree.map(lambda x: jnp.asarray(x[i]), batch)
    terms = toy.terms(
      microbatch, toy.predict(params, scales, jax.random.fold_in(key, i), microbatch)
    )
    for name, (value, count) in terms.items():
      total[name] = total.get(name, 0) + value
      counts[name] = counts.get(name, 0) + count
  return sum(total[name] / counts[name] for name in total)


def test_loss_gradient_and_update_equal_a_plain_loop_over_microbatches():
  mesh, optimizer, state, step = toy.setup(_LANES)
  params, scales = jax.tree.map(np.array, (state.params, state.scales))
  batch = toy.batch(1, _LANES)
  key = jax.random.fold_in(jax.random.PRNGKey(7), 0)
  loss, gradient = jax.jit(jax.value_and_grad(_reference_loss))(
    params, scales, key, batch
  )
  updates, _ = optimizer.update(
    gradient, optimizer.init(params), params, lr_multiplier=1.0
  )
  expected = optax.apply_updates(params, updates)
  state, metrics = step(state, sharding.put_batch(batch, mesh))
  chex.assert_trees_all_close(metrics["loss"], loss, rtol=1e-6)
  chex.assert_trees_all_close(
    metrics["gradient_norm"], optax.global_norm(gradient), rtol=1e-5
  )
  chex.assert_trees_all_close(state.params, expected, rtol=1e-5, atol=1e-7)
  # Average of the weights: 0.9 old + 0.1 new; scales are left alone.
  average = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, params, expected)
  chex.assert_trees_all_close(state.ema, average, rtol=1e-5)
  chex.assert_trees_all_equal(state.scales, scales)
  assert int(state.step) == 1


def test_the_average_of_a_short_run_forgets_the_initial_weights():
  mesh, _, state, step = toy.setup(1, ema_warmup=True)
  expected = jax.tree.map(np.array, state.params)
  for n in range(1, 4):
    state, _ = step(state, sharding.put_batch(toy.batch(n, 1), mesh))
    decay = min(0.9, (1 + n) / (10 + n))
    expected = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * np.array(new), expected, state.params
    )
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5)


def test_in_the_long_run_the_warm_up_makes_no_difference():
  config = config_lib.TrainConfig(num_steps=1, batch_size=1, ema_decay=0.99)
  assert float(step_lib.average_rate(jnp.int32(887), config)) > 1 - 0.99
  for step in (890, 100_000):
    rate = step_lib.average_rate(jnp.int32(step), config)
    # To the last bit, so that runs of the published length are what they were.
    assert rate == jnp.float32(1 - 0.99)


_CURVE = """
import json, sys
import jax
from jmp_hk.training import sharding
from tests import compiling
from tests.jmp_hk.training import toy
curves = []
for devices in (1, 2, 4):
  mesh, _, state, step = toy.setup(4, devices)
  losses = []
  for i in range(8):
    state, metrics = step(state, sharding.put_batch(toy.batch(i, 4), mesh))
    jax.block_until_ready(state)
    losses.append([float(metrics[k]) for k in ("loss", "gradient_norm")])
  assert step.num_compilations == 1
  curves.append(losses)
print(json.dumps(curves))
"""


def test_one_two_and_four_devices_give_the_same_curve():
  environment = os.environ | {
    "XLA_FLAGS": compiling.with_flag("--xla_force_host_platform_device_count=4"),
    "JAX_PLATFORMS": "cpu",
  }
  output = subprocess.run(
    [sys.executable, "-c", _CURVE], env=environment, capture_output=True, text=True
  )
  assert output.returncode == 0, output.stderr
  one, two, four = np.array(json.loads(output.stdout.splitlines()[-1]))
  chex.assert_trees_all_close(two, one, rtol=2e-5)
  chex.assert_trees_all_close(four, one, rtol=2e-5)
  # The curve is not trivially constant; dropout differs by microbatch and step.
  assert np.ptp(one[:, 0]) > 0.01


def test_compiles_once_and_refuses_other_shapes():
  mesh, _, state, step = toy.setup(2)
  for i in range(3):
    state, _ = step(state, sharding.put_batch(toy.batch(i, 2), mesh))
  assert step.num_compilations == 1 and step.compile_seconds > 0
  wrong = toy.batch(0, 2)
  wrong["y"] = wrong["y"][:, :-1]
  with pytest.raises(
    compilation.RecompileError, match=r"'y'\] is float32\[2, 5\], it was"
  ):
    step(state, sharding.put_batch(wrong, mesh))


def test_state_is_donated():
  mesh, _, state, step = toy.setup(1)
  new_state, _ = step(state, sharding.put_batch(toy.batch(0, 1), mesh))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new_state))


def test_non_finite_loss_changes_nothing_and_halts():
  mesh, _, state, step = toy.setup(2)
  state, metrics = step(state, sharding.put_batch(toy.batch(0, 2), mesh))
  assert bool(metrics["finite"])
  before = jax.tree.map(np.array, state)
  bad = toy.batch(1, 2)
  bad["x"][1, 0, 0] = np.nan
  state, metrics = step(state, sharding.put_batch(bad, mesh))
  assert not bool(metrics["finite"]) and bool(state.halted)
  # A good batch afterwards is not used either.
  state, metrics = step(state, sharding.put_batch(toy.batch(2, 2), mesh))
  assert bool(metrics["finite"])
  chex.assert_trees_all_equal(dataclasses.replace(state, halted=before.halted), before)


def test_processed_gradients_are_what_is_clipped_and_reported():
  halve = lambda g: jax.tree.map(lambda x: x / 2, g)
  objective = dataclasses.replace(toy.OBJECTIVE, process_gradients=halve)
  norms = []
  for obj in (toy.OBJECTIVE, objective):
    mesh, _, state, step = toy.setup(1, objective=obj)
    _, metrics = step(state, sharding.put_batch(toy.batch(0, 1), mesh))
    norms.append(float(metrics["gradient_norm"]))
  chex.assert_trees_all_close(norms[1], norms[0] / 2, rtol=1e-5)


def test_learning_rate_metric_includes_the_plateau():
  mesh, _, state, step = toy.setup(1)
  plateau = state.plateau._replace(scale=jnp.float32(0.5))
  plateau = sharding.put_replicated(jax.tree.map(np.array, plateau), mesh)
  state = dataclasses.replace(state, plateau=plateau)
  _, metrics = step(state, sharding.put_batch(toy.batch(0, 1), mesh))
  chex.assert_trees_all_close(
    metrics["learning_rate"], jnp.float32(0.5 * 0.2e-2), rtol=1e-5
  )


def test_errors_are_summed_over_microbatches_and_change_nothing():
  def errors(batch, predictions):
    distance = jnp.abs(predictions["energy"] - batch["y"])
    return {"a/mae": (jnp.where(batch["mask"], distance, 0).sum(), batch["mask"].sum())}

  objective = dataclasses.replace(toy.OBJECTIVE, errors=errors)
  mesh, _, state, step = toy.setup(3, objective=objective)
  batch = toy.batch(0, 3)
  params, scales = jax.tree.map(np.array, (state.params, state.scales))
  key = jax.random.fold_in(jax.random.PRNGKey(7), 0)
  total = 0.0
  for i in range(3):
    microbatch = jax.tree.map(lambda x: jnp.asarray(x[i]), batch)
    predictions = toy.predict(params, scales, jax.random.fold_in(key, i), microbatch)
    total += errors(microbatch, predictions)["a/mae"][0]
  state, metrics = step(state, sharding.put_batch(batch, mesh))
  chex.assert_trees_all_close(metrics["error_sum/a/mae"], total, rtol=1e-5)
  assert int(metrics["error_count/a/mae"]) == batch["mask"].sum()
  # They are no part of the loss.
  mesh, _, plain, step = toy.setup(3)
  plain, _ = step(plain, sharding.put_batch(batch, mesh))
  chex.assert_trees_all_close(state.params, plain.params, rtol=1e-6)
