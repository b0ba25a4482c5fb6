"""Forces and stress as exact derivatives of a predicted energy."""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing

Predictions = dict[str, jax.Array]


def with_derivatives(
  predict: Callable[[batch_lib.Batch], Predictions],
  batch: batch_lib.Batch,
  with_stress: bool,
) -> Predictions:
  """Predicts energies and differentiates them.

  Args:
    predict: a model whose predictions contain "energy" [G].
    batch: packed structures.
    with_stress: predict stress too.

  Returns:
    The predictions with "forces" -dE/dx [N, 3] and, where asked for, "stress"
    dE/dε / V [G, 3, 3], zero without a volume.
  """

  def total_energy(positions, strain):
    deformation = (
      jnp.eye(3, dtype=positions.dtype) + (strain + strain.transpose(0, 2, 1)) / 2
    )
    of_atoms = indexing.take_rows(
      deformation, batch.node_graph, indices_are_sorted=True
    )
    predictions = predict(
      dataclasses.replace(
        batch,
        positions=jnp.einsum("ni,nij->nj", positions, of_atoms),
        cell=jnp.einsum("gij,gjk->gik", batch.cell, deformation),
      )
    )
    return predictions["energy"].sum(), predictions

  strain = jnp.zeros_like(batch.cell)
  gradient = jax.grad(total_energy, argnums=(0, 1), has_aux=True)
  (position_gradient, strain_gradient), predictions = gradient(batch.positions, strain)
  predictions = dict(predictions)
  predictions["forces"] = jnp.where(batch.atom_mask[:, None], -position_gradient, 0)
  if with_stress:
    volume = jnp.abs(jnp.linalg.det(batch.cell))[:, None, None]
    has_volume = volume > 0
    predictions["stress"] = jnp.where(
      has_volume, strain_gradient / jnp.where(has_volume, volume, 1), 0
    )
  return predictions
