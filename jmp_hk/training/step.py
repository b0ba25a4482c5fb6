"""The training step: gradients over all microbatches of all devices, then one update."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jmp_hk.runtime import compiled
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib

Predictions = Mapping[str, chex.Array]
Terms = Mapping[str, tuple[chex.Array, chex.Array]]
Metrics = dict[str, chex.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised: Σ over terms of (sum of a term) / (its count).

  Attributes:
    predict: (params, scales, key, batch) → predictions of one microbatch, in training
      mode.
    terms: (batch, predictions) → {name: (weighted sum, count)} of one microbatch. Counts
      depend on the batch alone, never on the predictions.
    process_gradients: applied to the summed gradients before clipping (the division
      of gradients of shared parameters).
  """

  predict: Callable[[Any, Any, chex.PRNGKey, Any], Predictions]
  terms: Callable[[Any, Predictions], Terms]
  process_gradients: Callable[[Any], Any] = lambda gradients: gradients


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformationExtraArgs,
  mesh: jax.sharding.Mesh,
  *,
  ema_decay: float,
  schedule: optax.Schedule,
  trainable: chex.ArrayTree | None = None,
) -> compiled.CompiledOnce:
  """Builds the step.

  A step whose loss or gradient is not finite changes nothing but `halted`, and
  neither does any later one, so that the state stays what it was before.

  Args:
    objective: what is minimised.
    optimizer: from `optimizer.make_optimizer`.
    mesh: the devices.
    ema_decay: of the moving average of weights, ignored where there is none.
    schedule: base learning rate, for the metrics.
    trainable: tree of booleans; false ones count neither in the gradient norm nor
      cost a backward pass. All are trained by default.

  Returns:
    A function (state, batch [microbatches, ...]) → (state, metrics), which donates the
    state. Metrics are scalars: "loss", "loss/term" for each term, "gradient_norm"
    (before clipping), "learning_rate" and "finite".
  """

  def train_step(
    state: state_lib.TrainState, batch: Any
  ) -> tuple[state_lib.TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    gradients, terms = microbatch_gradients(
      objective, mesh, state.params, state.scales, key, batch
    )
    gradients = objective.process_gradients(gradients)
    if trainable is not None:
      gradients = jax.tree.map(
        lambda keep, g: g if keep else jnp.zeros_like(g), trainable, gradients
      )
    loss = sum(terms.values())
    norm = optax.global_norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    proceed = finite & ~state.halted
    rate = schedule(state.step) * state.plateau.scale
    metrics = {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
    metrics |= {f"loss/{name}": value for name, value in terms.items()}
    updated = _update(state, gradients, optimizer, ema_decay)
    new_state = jax.tree.map(
      lambda new, old: jnp.where(proceed, new, old), updated, state
    )
    return new_state.replace(halted=~proceed), metrics | {"finite": finite}

  replicated = sharding.replicated(mesh)
  return compiled.CompiledOnce(
    train_step,
    "train_step",
    donate_argnums=(0,),
    in_shardings=(replicated, sharding.by_microbatch(mesh)),
    out_shardings=replicated,
  )


def microbatch_gradients(
  objective: Objective,
  mesh: jax.sharding.Mesh,
  params: Any,
  scales: Any,
  key: chex.PRNGKey,
  batch: Any,
) -> tuple[Any, Metrics]:
  """Gradient of the loss of all microbatches, and its terms.

  Each device works through its microbatches one after another; what is differentiated is
  local to a device (no collective inside), sums over devices come afterwards.

  Args:
    objective: what is minimised.
    mesh: the devices.
    params: parameters, replicated.
    scales: scale factors, replicated.
    key: of the step; a microbatch folds in its global number.
    batch: [microbatches, ...], split by microbatch.

  Returns:
    Gradients like `params`, and the value of each term of the loss.
  """
  microbatch, everywhere = (
    jax.sharding.PartitionSpec(sharding.AXIS),
    jax.sharding.PartitionSpec(),
  )

  def local(params: Any, scales: Any, key: chex.PRNGKey, microbatches: Any) -> Any:
    num_microbatches = jax.tree.leaves(microbatches)[0].shape[0]
    counts, no_terms = _counts(objective, params, scales, key, microbatches)
    totals = jax.lax.psum(counts, sharding.AXIS)
    first = jax.lax.axis_index(sharding.AXIS) * num_microbatches

    def microbatch_loss(params: Any, microbatch: Any, number: chex.Array) -> Any:
      predictions = objective.predict(
        params, scales, jax.random.fold_in(key, number), microbatch
      )
      terms = objective.terms(microbatch, predictions)
      values = {k: s / jnp.maximum(totals[k], 1) for k, (s, _) in terms.items()}
      return sum(values.values()), values

    gradient = jax.grad(microbatch_loss, has_aux=True)
    sums = _sum_over_microbatches(
      lambda microbatch, i: gradient(params, microbatch, first + i),
      microbatches,
      num_microbatches,
      (jax.tree.map(jnp.zeros_like, params), no_terms),
    )
    return jax.lax.psum(sums, sharding.AXIS)

  # check_vma would sum gradients of replicated parameters a second time.
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(everywhere, everywhere, everywhere, microbatch),
    out_specs=everywhere,
    check_vma=False,
  )(params, scales, key, batch)


def _sum_over_microbatches(
  function: Callable[[Any, chex.Array], Any],
  microbatches: Any,
  num_microbatches: int,
  zeros: Any,
) -> Any:
  """Σ over microbatches of a pytree-valued function; compiled once for any number."""
  pick = lambda i: jax.tree.map(lambda x: x[i], microbatches)
  if num_microbatches == 1:
    return function(pick(0), jnp.zeros((), jnp.int32))
  body = lambda i, total: jax.tree.map(jnp.add, total, function(pick(i), i))
  return jax.lax.fori_loop(0, num_microbatches, body, zeros)


def _counts(
  objective: Objective, params: Any, scales: Any, key: chex.PRNGKey, microbatches: Any
) -> tuple[Metrics, Metrics]:
  """Counts of the terms over local microbatches, and a zero for each term.

  Predictions do not matter for the counts, so zeros of the right shapes serve.
  """
  microbatch = jax.tree.map(lambda x: x[0], microbatches)
  shapes = jax.eval_shape(objective.predict, params, scales, key, microbatch)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  terms = jax.vmap(lambda microbatch: objective.terms(microbatch, zeros))(microbatches)
  counts = {name: count.sum() for name, (_, count) in terms.items()}
  return counts, {name: jnp.zeros((), s.dtype) for name, (s, _) in terms.items()}


def _update(
  state: state_lib.TrainState,
  gradients: Any,
  optimizer: optax.GradientTransformationExtraArgs,
  ema_decay: float,
) -> state_lib.TrainState:
  """Optimiser, moving average and step number."""
  updates, opt_state = optimizer.update(
    gradients, state.opt_state, state.params, lr_multiplier=state.plateau.scale
  )
  params = optax.apply_updates(state.params, updates)
  ema = state.ema
  if ema is not None:
    ema = optax.incremental_update(params, ema, 1.0 - ema_decay)
  return state.replace(step=state.step + 1, params=params, ema=ema, opt_state=opt_state)
