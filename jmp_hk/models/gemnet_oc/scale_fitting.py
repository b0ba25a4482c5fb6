"""Fits the scale factors on data at the start of a run from scratch.

One factor after another, in the order of the modules: its value makes the mean
variance of a branch equal to that of its reference (facts 26 and 27 of the published
implementation). A factor depends on those before it, so each needs its own pass.
"""

from collections.abc import Callable
from collections.abc import Sequence
import re

import haiku as hk
import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import scale_factor

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

  def key(module):
    kind, block, name = _NAME.fullmatch(module).groups()
    return kind, int(block), _ORDER.index(name)

  return sorted(modules, key=key)


def fit_scales(
  model: model_lib.Model,
  variables: model_lib.Variables,
  batches: Sequence[batch_lib.Batch],
  *,
  on_factor: Callable[[str, float], None] = lambda module, value: None,
) -> hk.MutableState:
  """Fits every scale factor that is still zero ("not fitted").

  Args:
    model: the model.
    variables: its parameters and scale factors.
    batches: packed structures of one shape, together a sample of the training data.
    on_factor: called with module and value after each fit, for progress.

  Returns:
    The scale factors, a tree like `variables.scales`.

  Raises:
    ValueError: no batches.
  """
  if not batches:
    raise ValueError("Fitting scale factors needs at least one batch.")
  observe = jax.jit(
    lambda *args: _observe(model, model_lib.Variables(*args[:2]), args[2])
  )
  scales = {module: dict(leaves) for module, leaves in variables.scales.items()}
  for module in fitting_order(list(scales)):
    if float(scales[module]["scale_factor"]) != 0.0:
      continue
    observations = [
      jax.device_get(observe(variables.params, scales, batch)[module])
      for batch in batches
    ]
    value = _fitted_value(observations)
    dtype = scales[module]["scale_factor"].dtype
    scales[module]["scale_factor"] = np.asarray(value, dtype)
    on_factor(module, value)
  return scales


def _observe(model, variables, batch):
  with scale_factor.observe() as observations:
    model.embed(variables, batch)  # All factors are in the backbone.
  return observations


def _fitted_value(observations: Sequence[scale_factor.Observation]) -> float:
  """sqrt(reference variance / variance), averaged over batches by rows.

  A branch without variance (a data set without quadruplets, say) keeps one.
  """
  rows = np.array([o.num_rows for o in observations], np.float64)
  if not rows.sum():
    return 1.0
  reference = np.average([o.reference_variance for o in observations], weights=rows)
  variance = np.average([o.variance for o in observations], weights=rows)
  ratio = np.sqrt(reference / variance) if variance > 0 else 1.0
  return float(ratio) if np.isfinite(ratio) and ratio > 0 else 1.0
