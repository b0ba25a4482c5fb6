"""Everything that a training run changes: on the devices, and beside them."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jmp_hk import pytrees
from jmp_hk.training import sharding
from jmp_hk.training import stopping

# Where a stream of training batches stands, as JSON values; None is its start.
Position = Mapping[str, Any] | None


@pytrees.dataclass
class TrainState:
  """State of a run on the devices; the same on each of them, donated to each step.

  Attributes:
    step: [] int32, number of optimiser steps taken.
    params: Haiku tree of parameters, float32.
    ema: moving average of `params`, or None where it is switched off.
    scales: fitted scale factors of the model (a Haiku state tree), not trained.
    opt_state: state of the optimiser.
    key: [2] uint32, random key of the run; each step folds its number in.
    plateau: state of reduce-on-plateau; its `scale` multiplies the learning rate.
    halted: [] bool, true once a loss or gradient was not finite; from then on nothing
      changes.
  """

  step: jax.Array
  params: hk.Params
  ema: hk.Params | None
  scales: hk.State
  opt_state: optax.OptState
  key: jax.Array
  plateau: stopping.PlateauState
  halted: jax.Array

  @property
  def evaluation_params(self) -> hk.Params:
    """The averaged weights, or the raw ones where there is no average."""
    return self.params if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True)
class HostState:
  """State of a run outside the devices; JSON in every checkpoint.

  Attributes:
    data: position of the training data.
    early_stopping: what early stopping remembers, the best metric among it.
    seconds: training time so far, without compilation and evaluations.
    interval: steps since the last line of training metrics, see `StepLog.steps`; empty
      unless the checkpoint was made between two lines.
    is_unvalidated: whether the step was to be validated, and the run was stopped before
      that was done.
  """

  data: Position = None
  early_stopping: stopping.EarlyStoppingState = stopping.EarlyStoppingState()
  seconds: float = 0.0
  interval: Sequence[Mapping[str, Any]] = ()
  is_unvalidated: bool = False


def create(
  params: hk.Params,
  scales: hk.State,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
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
  params: hk.Params,
  scales: hk.State,
  optimizer: optax.GradientTransformation,
  key: jax.Array | np.ndarray,
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
