"""The training step: gradients of all microbatches of all devices, then one update."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import TypeVar

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.runtime import compilation
from jmp_hk.training import config as config_lib
from jmp_hk.training import objective as objective_lib
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib

ERROR_SUM, ERROR_COUNT = "error_sum/", "error_count/"  # Begin names of metrics.

Metrics = dict[str, jax.Array]
Errors = Mapping[str, tuple[jax.Array, jax.Array]]
TreeT = TypeVar("TreeT")  # A pytree of arrays.


def make_train_step(
  objective: objective_lib.Objective,
  optimizer: optax.GradientTransformationExtraArgs,
  config: config_lib.TrainConfig,
  mesh: jax.sharding.Mesh,
  num_budgets: int = 1,
) -> compilation.CompiledFunction:
  """Builds the step.

  A step whose loss or gradient is not finite changes nothing but `halted`, and
  neither does any later one, so that the state stays what it was before. Parameters
  that the optimiser does not train count as having no gradient.

  Args:
    objective: what is minimised.
    optimizer: optimiser from `optimizer.make_optimizer`.
    config: the run; schedule, frozen parameters and moving average are read.
    mesh: the devices.
    num_budgets: budgets of the batches; the step is compiled for each that occurs.

  Returns:
    A function (state, batch [microbatches, ...]) → (state, metrics), which donates the
    state. Metrics are scalars: "loss", "loss/term" for each term, "gradient_norm"
    (before clipping), "learning_rate", "structures" and "finite"; and for each of the
    objective's errors "error_sum/name" and "error_count/name".
  """
  schedule = optimizer_lib.make_schedule(config.optimizer.schedule)

  def train_step(
    state: state_lib.TrainState, batch: batch_lib.Batch
  ) -> tuple[state_lib.TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    gradients, terms, errors = microbatch_gradients(
      objective, mesh, state.params, state.scales, key, batch
    )
    gradients = objective.process_gradients(gradients)
    gradients = _trained_only(gradients, config.optimizer)
    loss = _total(terms)
    norm = optimizer_lib.global_norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    proceed = finite & ~state.halted
    rate = schedule(state.step) * state.plateau.scale
    metrics = {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
    metrics |= {"structures": objective.num_structures(batch)}
    metrics |= {f"loss/{name}": value for name, value in terms.items()}
    for name, (total, count) in errors.items():
      metrics |= {f"{ERROR_SUM}{name}": total, f"{ERROR_COUNT}{name}": count}
    updated = _update(state, gradients, optimizer, average_rate(state.step, config))
    new_state = jax.tree.map(
      lambda new, old: jnp.where(proceed, new, old), updated, state
    )
    return (
      dataclasses.replace(new_state, halted=~proceed),
      metrics | {"finite": finite},
    )

  replicated = sharding.replicated(mesh)
  return compilation.CompiledFunction(
    train_step,
    "train_step",
    most=num_budgets,
    donate_argnums=(0,),
    in_shardings=(replicated, sharding.by_microbatch(mesh)),
    out_shardings=replicated,
  )


def microbatch_gradients(
  objective: objective_lib.Objective,
  mesh: jax.sharding.Mesh,
  params: hk.Params,
  scales: hk.State,
  key: jax.Array,
  batch: batch_lib.Batch,
) -> tuple[hk.MutableParams, Metrics, Errors]:
  """Gradient of the loss of all microbatches, its terms, and errors.

  Each device works through its microbatches one after another. What is differentiated
  is local to a device (no collective inside); sums over devices come afterwards.

  Args:
    objective: what is minimised.
    mesh: the devices.
    params: parameters, replicated.
    scales: scale factors, replicated.
    key: key of the step; a microbatch folds in its global number.
    batch: [microbatches, ...], split by microbatch.

  Returns:
    Gradients like `params`, the value of each term of the loss, and the sum and count
    of each of the objective's errors.
  """
  chex.assert_equal_shape_prefix(jax.tree.leaves(batch), 1)
  microbatch = jax.sharding.PartitionSpec(sharding.AXIS)
  everywhere = jax.sharding.PartitionSpec()
  # check_vma would sum gradients of replicated parameters a second time.
  return jax.shard_map(
    functools.partial(_local_gradients, objective),
    mesh=mesh,
    in_specs=(everywhere, everywhere, everywhere, microbatch),
    out_specs=everywhere,
    check_vma=False,
  )(params, scales, key, batch)


def _local_gradients(
  objective: objective_lib.Objective,
  params: hk.Params,
  scales: hk.State,
  key: jax.Array,
  microbatches: batch_lib.Batch,
) -> tuple[hk.MutableParams, Metrics, Errors]:
  """What one device computes of `microbatch_gradients`, summed over the devices."""
  num_microbatches = jax.tree.leaves(microbatches)[0].shape[0]
  counts, zeros = _counts(objective, params, scales, key, microbatches)
  totals = jax.lax.psum(counts, sharding.AXIS)
  first = jax.lax.axis_index(sharding.AXIS) * num_microbatches

  def microbatch_loss(
    params: hk.Params, microbatch: batch_lib.Batch, number: jax.Array
  ) -> tuple[jax.Array, tuple[Metrics, Errors]]:
    predictions = objective.predict(
      params, scales, jax.random.fold_in(key, number), microbatch
    )
    terms = objective.terms(microbatch, predictions)
    values = {k: s / jnp.maximum(totals[k], 1) for k, (s, _) in terms.items()}
    return _total(values), (values, objective.errors(microbatch, predictions))

  gradient = jax.grad(microbatch_loss, has_aux=True)
  sums = _sum_over_microbatches(
    lambda microbatch, i: gradient(params, microbatch, first + i),
    microbatches,
    num_microbatches,
    (jax.tree.map(jnp.zeros_like, params), zeros),
  )
  gradients, (terms, errors) = jax.lax.psum(sums, sharding.AXIS)
  return gradients, terms, errors


def _sum_over_microbatches(
  function: Callable[[batch_lib.Batch, jax.Array], TreeT],
  microbatches: batch_lib.Batch,
  num_microbatches: int,
  zeros: TreeT,
) -> TreeT:
  """Σ over microbatches of a pytree-valued function; compiled once for any number."""
  pick = lambda i: jax.tree.map(lambda x: x[i], microbatches)
  if num_microbatches == 1:
    return function(pick(0), jnp.zeros((), jnp.int32))
  body = lambda i, total: jax.tree.map(jnp.add, total, function(pick(i), i))
  return jax.lax.fori_loop(0, num_microbatches, body, zeros)


def _trained_only(
  gradients: hk.MutableParams, config: config_lib.OptimizerConfig
) -> hk.MutableParams:
  """The gradients, zero for frozen parameters."""
  if not config.frozen:
    return gradients
  return jax.tree.map(
    lambda keep, g: g if keep else jnp.zeros_like(g),
    optimizer_lib.trainable(config, gradients),
    gradients,
  )


def _total(values: Mapping[str, jax.Array]) -> jax.Array:
  """Sum of the terms, of which there is at least one."""
  return functools.reduce(jnp.add, values.values())


def _counts(
  objective: objective_lib.Objective,
  params: hk.Params,
  scales: hk.State,
  key: jax.Array,
  microbatches: batch_lib.Batch,
) -> tuple[Metrics, tuple[Metrics, Errors]]:
  """Counts of the terms over local microbatches, and zeros for terms and errors.

  Predictions do not matter for the counts, so zeros of the right shapes serve.
  """
  microbatch = jax.tree.map(lambda x: x[0], microbatches)
  shapes = jax.eval_shape(objective.predict, params, scales, key, microbatch)
  nothing = _zeros(shapes)
  terms = jax.vmap(lambda microbatch: objective.terms(microbatch, nothing))(
    microbatches
  )
  counts = {name: count.sum() for name, (_, count) in terms.items()}
  no_terms = {name: jnp.zeros((), s.dtype) for name, (s, _) in terms.items()}
  errors = jax.eval_shape(objective.errors, microbatch, shapes)
  return counts, (no_terms, _zeros(errors))


def _zeros(shapes: TreeT) -> TreeT:
  """Zeros of the shapes and types of a tree."""
  return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


def average_rate(step: jax.Array, config: config_lib.TrainConfig) -> jax.Array | float:
  """Share of the new weights in their moving average, that is one minus its decay.

  With `ema_warmup` the n-th update has the decay min(ema_decay, (1 + n) / (10 + n)), as
  in TensorFlow's `ExponentialMovingAverage`.

  Args:
    step: [] int32, number of updates before this one, n - 1.
    config: the run.
  """
  rate = 1.0 - config.ema_decay
  return jnp.maximum(rate, 9.0 / (step + 11.0)) if config.ema_warmup else rate


def _update(
  state: state_lib.TrainState,
  gradients: hk.MutableParams,
  optimizer: optax.GradientTransformationExtraArgs,
  average: jax.Array | float,
) -> state_lib.TrainState:
  """Optimiser, moving average and step number."""
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params, lr_multiplier=state.plateau.scale
  )
  params = optax.apply_updates(state.params, updates)
  ema = state.ema
  if ema is not None:
    ema = jax.tree.map(
      lambda new, old: optax.incremental_update(
        new, old, jnp.asarray(average, old.dtype)
      ),
      params,
      ema,
    )
  return dataclasses.replace(
    state, step=state.step + 1, params=params, ema=ema, opt_state=opt_state
  )
