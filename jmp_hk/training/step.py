"""The training step: gradients over all lanes of all devices, then one update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jmp_hk.training import compiled
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib

Predictions = Mapping[str, chex.Array]
Terms = Mapping[str, tuple[chex.Array, chex.Array]]
Metrics = dict[str, chex.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised: Σ over terms of (sum of a term) / (its count).

  Attributes:
    predict: (params, scales, key, batch) → predictions of one lane, in training
      mode.
    terms: (batch, predictions) → {name: (weighted sum, count)} of one lane. Counts
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
    A function (state, batch [lanes, ...]) → (state, metrics), which donates the
    state. Metrics are scalars: "loss", "loss/term" for each term, "gradient_norm"
    (before clipping), "learning_rate" and "finite".
  """

  def train_step(
      state: state_lib.TrainState, batch: Any
  ) -> tuple[state_lib.TrainState, Metrics]:
    key = jax.random.fold_in(state.key, state.step)
    gradients, terms = lane_gradients(
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
    new_state = jax.tree.map(lambda new, old: jnp.where(proceed, new, old), updated, state)
    return new_state.replace(halted=~proceed), metrics | {"finite": finite}

  replicated = sharding.replicated(mesh)
  return compiled.CompiledOnce(
      train_step,
      "train_step",
      donate_argnums=(0,),
      in_shardings=(replicated, sharding.by_lane(mesh)),
      out_shardings=replicated,
  )


def lane_gradients(
    objective: Objective,
    mesh: jax.sharding.Mesh,
    params: Any,
    scales: Any,
    key: chex.PRNGKey,
    batch: Any,
) -> tuple[Any, Metrics]:
  """Gradient of the loss of all lanes, and its terms.

  Each device works through its lanes one after another; what is differentiated is
  local to a device (no collective inside), sums over devices come afterwards.

  Args:
    objective: what is minimised.
    mesh: the devices.
    params: parameters, replicated.
    scales: scale factors, replicated.
    key: of the step; a lane folds in its global number.
    batch: [lanes, ...], split by lane.

  Returns:
    Gradients like `params`, and the value of each term of the loss.
  """
  lane, everywhere = jax.sharding.PartitionSpec(sharding.AXIS), jax.sharding.PartitionSpec()

  def local(params: Any, scales: Any, key: chex.PRNGKey, lanes: Any) -> Any:
    num_lanes = jax.tree.leaves(lanes)[0].shape[0]
    counts, no_terms = _counts(objective, params, scales, key, lanes)
    totals = jax.lax.psum(counts, sharding.AXIS)
    first = jax.lax.axis_index(sharding.AXIS) * num_lanes

    def lane_loss(params: Any, lane: Any, number: chex.Array) -> Any:
      predictions = objective.predict(
          params, scales, jax.random.fold_in(key, number), lane
      )
      terms = objective.terms(lane, predictions)
      values = {k: s / jnp.maximum(totals[k], 1) for k, (s, _) in terms.items()}
      return sum(values.values()), values

    gradient = jax.grad(lane_loss, has_aux=True)
    sums = _sum_over_lanes(
        lambda lane, i: gradient(params, lane, first + i),
        lanes,
        num_lanes,
        (jax.tree.map(jnp.zeros_like, params), no_terms),
    )
    return jax.lax.psum(sums, sharding.AXIS)

  # check_vma would sum gradients of replicated parameters a second time.
  return jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(everywhere, everywhere, everywhere, lane),
      out_specs=everywhere,
      check_vma=False,
  )(params, scales, key, batch)


def _sum_over_lanes(
    function: Callable[[Any, chex.Array], Any], lanes: Any, num_lanes: int, zeros: Any
) -> Any:
  """Σ over lanes of a pytree-valued function; compiled once for any number."""
  pick = lambda i: jax.tree.map(lambda x: x[i], lanes)
  if num_lanes == 1:
    return function(pick(0), jnp.zeros((), jnp.int32))
  body = lambda i, total: jax.tree.map(jnp.add, total, function(pick(i), i))
  return jax.lax.fori_loop(0, num_lanes, body, zeros)


def _counts(
    objective: Objective, params: Any, scales: Any, key: chex.PRNGKey, lanes: Any
) -> tuple[Metrics, Metrics]:
  """Counts of the terms over local lanes, and a zero for each term.

  Predictions do not matter for the counts, so zeros of the right shapes serve.
  """
  lane = jax.tree.map(lambda x: x[0], lanes)
  shapes = jax.eval_shape(objective.predict, params, scales, key, lane)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  terms = jax.vmap(lambda lane: objective.terms(lane, zeros))(lanes)
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
  return state.replace(
      step=state.step + 1, params=params, ema=ema, opt_state=opt_state
  )
