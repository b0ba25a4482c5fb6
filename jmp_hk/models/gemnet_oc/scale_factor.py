"""Fitted scalars that keep the variance of every branch near one.

A factor is stored as Haiku state, not as a parameter: it is fitted on data once
(`jmp_hk.models.gemnet_oc.scale_fitting`) and never trained. Zero means "not fitted" and multiplies
by one (fact 26 of the published implementation).
"""

from collections.abc import Callable
import contextlib
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp


class Observation(NamedTuple):
  """What fitting one factor needs from one batch.

  Attributes:
    reference_variance: mean over columns of the variance to reach.
    variance: mean over columns of the variance before scaling.
    num_rows: rows that `variance` was taken over.
  """

  reference_variance: jax.Array
  variance: jax.Array
  num_rows: jax.Array


# A function that returns rows [n, channels] and their weights [n]; it is called only
# while fitting.
Rows = Callable[[], tuple[jax.Array, jax.Array]]

_observers: list[dict[str, Observation]] = []


@contextlib.contextmanager
def observe():
  """Collects an `Observation` per factor while the model runs inside the context."""
  observations: dict[str, Observation] = {}
  _observers.append(observations)
  try:
    yield observations
  finally:
    _observers.pop()


def is_observed() -> bool:
  """Whether the model runs inside `observe`."""
  return bool(_observers)


def _column_variance(rows: jax.Array, weights: jax.Array) -> jax.Array:
  """Unbiased variance per column of rows repeated `weights` times, averaged."""
  rows = rows.reshape(-1, rows.shape[-1]).astype(jnp.promote_types(rows, jnp.float32))
  weights = weights.reshape(-1, 1).astype(rows.dtype)
  count = weights.sum()
  mean = (weights * rows).sum(0) / jnp.maximum(count, 1)
  squares = (weights * (rows - mean) ** 2).sum(0)
  return (squares / jnp.maximum(count - 1, 1)).mean()


class ScaleFactor(hk.Module):
  """Multiplies by a fitted scalar."""

  def __call__(self, x: jax.Array, rows: Rows, reference: Rows) -> jax.Array:
    """Scales.

    Args:
      x: [..., channels].
      rows: the rows of `x` that count (without padding), with weights.
      reference: rows whose variance `x` is to have, with weights.

    Returns:
      `x` times the factor.
    """
    factor = hk.get_state(
      "scale_factor", (), jnp.promote_types(x.dtype, jnp.float32), init=jnp.zeros
    )
    if _observers:
      values, weights = rows()
      _observers[-1][self.module_name] = Observation(
        reference_variance=_column_variance(*reference()),
        variance=_column_variance(values, weights),
        num_rows=weights.sum(),
      )
    return x * jnp.where(factor == 0, 1, factor).astype(x.dtype)
