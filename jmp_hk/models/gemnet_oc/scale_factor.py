"""Fitted scalars that keep the variance of every branch near one.

A factor is stored as Haiku state, not as a parameter: it is fitted on data once, at the
start of a run from scratch, and never trained. Zero means "not fitted" and multiplies
by one.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import re
from typing import Any
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.graphs import batch as batch_lib


class Moments(NamedTuple):
  """Rows of a batch in sums that add up over batches.

  Attributes:
    count: [] number of rows.
    mean: [channels] mean of each column.
    squares: [channels] squared deviations from it, summed over rows.
    variance: [] unbiased variance per column, averaged over columns.
  """

  count: jax.Array
  mean: jax.Array
  squares: jax.Array
  variance: jax.Array


class Observation(NamedTuple):
  """What fitting one factor needs from one batch.

  Attributes:
    reference: rows whose variance is to be reached.
    values: rows before scaling.
  """

  reference: Moments
  values: Moments


# A function that returns rows [n, channels] and their weights [n]; it is called only
# while fitting.
Rows = Callable[[], tuple[jax.Array, jax.Array]]


@contextlib.contextmanager
def observe() -> Iterator[dict[str, Observation]]:
  """Collects an `Observation` per factor while the model runs inside the context."""
  observations: dict[str, Observation] = {}

  def interceptor(
    next_call: Callable[..., jax.Array],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: hk.MethodContext,
  ) -> jax.Array:
    if isinstance(context.module, ScaleFactor) and context.method_name == "__call__":
      name = context.module.module_name
      observations[name] = _observe(kwargs["rows"], kwargs["reference"])
    return next_call(*args, **kwargs)

  with hk.intercept_methods(interceptor):
    yield observations


def _observe(rows: Rows, reference: Rows) -> Observation:
  return Observation(reference=_moments(*reference()), values=_moments(*rows()))


def _moments(rows: jax.Array, weights: jax.Array) -> Moments:
  """Moments of rows repeated `weights` times."""
  rows = rows.reshape(-1, rows.shape[-1]).astype(jnp.promote_types(rows, jnp.float32))
  weights = weights.reshape(-1, 1).astype(rows.dtype)
  count = weights.sum()
  mean = (weights * rows).sum(0) / jnp.maximum(count, 1)
  squares = (weights * (rows - mean) ** 2).sum(0)
  variance = (squares / jnp.maximum(count - 1, 1)).mean()
  return Moments(count, mean, squares, variance)


class ScaleFactor(hk.Module):
  """Multiplies by a fitted scalar."""

  def __call__(self, x: jax.Array, *, rows: Rows, reference: Rows) -> jax.Array:
    """Scales.

    Args:
      x: [..., channels].
      rows: the rows of `x` that count (without padding), with weights.
      reference: rows whose variance `x` is to have, with weights.

    Returns:
      `x` times the factor.
    """
    del rows, reference  # Read while fitting, see `observe`.
    factor = hk.get_state(
      "scale_factor", (), jnp.promote_types(x.dtype, jnp.float32), init=jnp.zeros
    )
    return x * jnp.where(factor == 0, 1, factor).astype(x.dtype)


_ORDER = (
  "trip_interaction/scale_rbf",
  "trip_interaction/scale_cbf_sum",
  "quad_interaction/scale_rbf",
  "quad_interaction/scale_cbf",
  "quad_interaction/scale_sbf_sum",
  "atom_edge_interaction/scale_rbf",
  "atom_edge_interaction/scale_cbf_sum",
  "edge_atom_interaction/scale_rbf",
  "edge_atom_interaction/scale_cbf_sum",
  "atom_interaction/scale_rbf_sum",
  "atom_update/scale_sum",
  "scale_sum",
  "scale_rbf_F",
)
_NAME = re.compile(r"backbone/(int|out)_blocks_(\d+)/(.+)")


def fitting_order(modules: Sequence[str]) -> list[str]:
  """Sorts scale-factor modules: interaction blocks first, then output blocks."""

  def key(module: str) -> tuple[str, int, int]:
    match = _NAME.fullmatch(module)
    if match is None:
      raise ValueError(f"{module!r} is no scale factor of GemNet-OC.")
    kind, block, name = match.groups()
    return kind, int(block), _ORDER.index(name)

  return sorted(modules, key=key)


def fit(
  apply: Callable[[hk.State, batch_lib.Batch], Any],
  state: hk.State,
  batches: Sequence[batch_lib.Batch],
  on_factor: Callable[[str, float], None] = lambda module, value: None,
  together: int = 1,
) -> hk.MutableState:
  """Fits every scale factor that is still zero ("not fitted").

  One factor after another, in the order of the modules: its value makes the mean
  variance of a branch equal to that of its reference (GemNet, appendix E). A factor
  depends on those before it, so each needs a pass of its own.

  Args:
    apply: runs the backbone with a state on a batch.
    state: scale factors, a Haiku state.
    batches: packed structures of one shape, together a sample of the training data.
    on_factor: called with module and value after each fit, for progress.
    together: how many of them, one after another, are the microbatches of a step, whose
      variances are taken over all their rows.

  Returns:
    The scale factors, a tree like `state`.

  Raises:
    ValueError: no batches.
  """
  if not batches:
    raise ValueError("Fitting scale factors needs at least one batch.")

  def observed(state: hk.State, batch: batch_lib.Batch) -> dict[str, Observation]:
    with observe() as observations:
      apply(state, batch)
    return observations

  measure = jax.jit(observed)
  scales: dict[str, Any] = {module: dict(leaves) for module, leaves in state.items()}
  for module in fitting_order(list(scales)):
    if float(scales[module]["scale_factor"]) != 0.0:
      continue
    values = [jax.device_get(measure(scales, batch)[module]) for batch in batches]
    value = _fitted_value(
      [values[i : i + together] for i in range(0, len(values), together)]
    )
    dtype = scales[module]["scale_factor"].dtype
    scales[module]["scale_factor"] = np.asarray(value, dtype)
    on_factor(module, value)
  return scales


def _fitted_value(steps: Sequence[Sequence[Observation]]) -> float:
  """sqrt(reference variance / variance), averaged over steps by rows.

  A branch without variance (a data set without quadruplets, say) keeps one.
  """
  rows = np.array([sum(o.values.count for o in step) for step in steps], np.float64)
  if not rows.sum():
    return 1.0
  references = [_variance([o.reference for o in step]) for step in steps]
  reference = np.average(references, weights=rows)
  variance = np.average(
    [_variance([o.values for o in step]) for step in steps], weights=rows
  )
  ratio = np.sqrt(reference / variance) if variance > 0 else 1.0
  return float(ratio) if np.isfinite(ratio) and ratio > 0 else 1.0


def _variance(parts: Sequence[Moments]) -> float:
  """Unbiased variance per column over the rows of all parts, averaged over columns."""
  if len(parts) == 1:
    return float(parts[0].variance)
  counts = np.array([part.count for part in parts], np.float64)[:, None]
  means = np.array([part.mean for part in parts], np.float64)
  mean = (counts * means).sum(0) / max(counts.sum(), 1)
  squares = np.array([part.squares for part in parts], np.float64).sum(0)
  squares = squares + (counts * (means - mean) ** 2).sum(0)
  return float((squares / max(counts.sum() - 1, 1)).mean())
