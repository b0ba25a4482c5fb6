"""Reduce-on-plateau and early stopping: what the host decides after an evaluation."""

import dataclasses
import math
from typing import cast

import jax
import jax.numpy as jnp
import optax

from jmp_hk import serialization
from jmp_hk.training import config as config_lib

PlateauState = optax.contrib.ReduceLROnPlateauState


def init_plateau() -> PlateauState:
  """State before any evaluation; its `scale` of 1 multiplies the learning rate."""
  state = optax.contrib.reduce_on_plateau().init(jnp.zeros((), jnp.float32))
  return cast(PlateauState, state)


def update_plateau(
  config: config_lib.PlateauConfig | None,
  state: PlateauState,
  step: int,
  value: float,
) -> PlateauState:
  """Takes one validation metric into account.

  Args:
    config: settings; None leaves the state alone.
    state: state so far.
    step: step of the evaluation.
    value: the metric, lower is better; NaN counts as no improvement.

  Returns:
    The new state.
  """
  if config is None or step < config.start_step:
    return state
  transform = optax.contrib.reduce_on_plateau(
    factor=config.factor,
    patience=config.patience + 1,  # optax reduces at, torch after, the patience.
    rtol=config.threshold,
  )
  return jax.jit(lambda s, v: transform.update({}, s, value=v)[1])(state, value)


@dataclasses.dataclass(frozen=True)
class EarlyStoppingState:
  """What early stopping remembers.

  Attributes:
    best: best metric so far.
    best_step: its step.
    bad_evaluations: evaluations since then.
  """

  best: serialization.Unbounded = math.inf
  best_step: int = 0
  bad_evaluations: int = 0


def update_early_stopping(
  config: config_lib.EarlyStoppingConfig | None,
  state: EarlyStoppingState,
  step: int,
  value: float,
) -> EarlyStoppingState:
  """Takes one validation metric into account; the best is tracked in any case."""
  min_delta = config.min_delta if config else 0.0
  if value < state.best - min_delta:
    return EarlyStoppingState(best=value, best_step=step)
  return dataclasses.replace(state, bad_evaluations=state.bad_evaluations + 1)


def stop_reason(
  config: config_lib.EarlyStoppingConfig | None,
  state: EarlyStoppingState,
  learning_rate: float,
) -> str | None:
  """Why the run should end now, as a sentence, or None.

  Args:
    config: settings; None never stops.
    state: state after the last evaluation.
    learning_rate: current base rate.
  """
  if config is None:
    return None
  if state.bad_evaluations >= config.patience:
    return (
      f"No improvement in {state.bad_evaluations} evaluations since step "
      f"{state.best_step} ({state.best:.6g})."
    )
  if learning_rate < config.min_learning_rate:
    return (
      f"The learning rate {learning_rate:.3g} fell below "
      f"{config.min_learning_rate:.3g}."
    )
  return None
