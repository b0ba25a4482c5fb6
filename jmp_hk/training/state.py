"""Everything that a training step reads and writes."""

import chex
import jax
import jax.numpy as jnp
import optax

from jmp_hk.training import sharding
from jmp_hk.training import stopping

Params = chex.ArrayTree
Scales = chex.ArrayTree


@chex.dataclass(frozen=True, mappable_dataclass=False)
class TrainState:
  """State of a run; the same on every device, donated to each step.

  Attributes:
    step: [] int32, optimiser steps taken.
    params: Haiku tree, float32.
    ema: moving average of `params`, or None where it is switched off.
    scales: fitted scale factors of the model (a Haiku state tree), not trained.
    opt_state: state of the optimiser.
    key: [2] uint32, key of the run; each step folds its number in.
    plateau: reduce-on-plateau; its `scale` multiplies the learning rate.
    halted: [] bool, a loss or gradient was not finite; nothing changes any more.
  """

  step: chex.Array
  params: Params
  ema: Params | None
  scales: Scales
  opt_state: optax.OptState
  key: chex.PRNGKey
  plateau: stopping.PlateauState
  halted: chex.Array

  @property
  def evaluation_params(self) -> Params:
    """The averaged weights, or the raw ones where there is no average."""
    return self.params if self.ema is None else self.ema


def create(
  params: Params,
  scales: Scales,
  optimizer: optax.GradientTransformation,
  key: chex.PRNGKey,
  *,
  use_ema: bool,
) -> TrainState:
  """State at step 0; the average starts at the initial weights."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    ema=jax.tree.map(jnp.copy, params) if use_ema else None,
    scales=scales,
    opt_state=optimizer.init(params),
    key=key,
    plateau=stopping.init_plateau(),
    halted=jnp.zeros((), bool),
  )


def create_on_mesh(
  params: Params,
  scales: Scales,
  optimizer: optax.GradientTransformation,
  key: chex.PRNGKey,
  mesh: jax.sharding.Mesh,
  *,
  use_ema: bool,
) -> TrainState:
  """`create`, with distinct buffers on every device of the mesh.

  The state is copied by jit, so none of its arrays shares memory with the arguments
  or with another of its arrays, and all of it may be donated.
  """
  make = jax.jit(
    lambda p, s, k: create(p, s, optimizer, k, use_ema=use_ema),
    out_shardings=sharding.replicated(mesh),
  )
  return make(*sharding.put_replicated((params, scales, key), mesh))
