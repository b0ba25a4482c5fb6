"""Arithmetic that specs of targets share."""

from collections.abc import Mapping
import math

import chex
import jax
import jax.numpy as jnp

from jmp_hk import structure as structure_lib
from jmp_hk.targets import spec

MILLI = 1000.0  # Thousandths of a unit.
ROOT = "_rmse"  # Metrics that end so are square roots of a mean.


def masked_sum(values: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Sum over the rows that count, and the number of values in them.

  Args:
    values: [rows, …].
    rows: [rows] bool.
  """
  chex.assert_equal_shape_prefix([values, rows], 1)
  mask = rows.reshape(rows.shape + (1,) * (values.ndim - 1))
  total = jnp.where(mask, values, 0).sum()
  return total, rows.sum().astype(total.dtype) * math.prod(values.shape[1:])


def sum_of_references(
  references: Mapping[int, float], structure: structure_lib.Structure, name: str
) -> float:
  """Sum of the per-element references of a structure, in float64.

  Args:
    references: by atomic number.
    structure: the structure.
    name: name of the label, for messages.

  Raises:
    LabelError: an element has no reference.
  """
  try:
    return float(sum(references[z] for z in structure.atomic_numbers.tolist()))
  except KeyError as error:
    raise spec.LabelError(
      f"{structure.record_id}: no reference of {name!r} for atomic number {error}; "
      f"the training split fitted {sorted(references)}."
    ) from error
