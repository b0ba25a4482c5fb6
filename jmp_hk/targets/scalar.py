"""Numbers of whole structures."""

import dataclasses

import ase.data
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import spec
from jmp_hk.targets import standardised


@spec.register("scalar")
@dataclasses.dataclass(frozen=True)
class Scalar(standardised.Standardised):
  """Any number of a structure: numbers of its atoms, reduced.

  Per-element references are subtracted where the dataset has some, then the mean; the
  rest is divided by the standard deviation.
  """

  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Absolute differences."""
    return jnp.abs(prediction - label)

  def normalise(
    self,
    label: spec.Value,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """(x - Σ references - mean) / standard deviation."""
    statistics = constants.statistics[self.name]
    value = np.asarray(label, np.float64)
    if statistics.references:
      value = value - arithmetic.sum_of_references(
        statistics.references, structure, self.name
      )
    return (value - statistics.mean) / statistics.std

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> float:
    """The number in the unit of the label."""
    statistics = constants.statistics[self.name]
    total = 0.0
    if statistics.references:
      total = arithmetic.sum_of_references(statistics.references, structure, self.name)
    return float(value * statistics.std + statistics.mean + total)


@spec.register("spatial_extent")
@dataclasses.dataclass(frozen=True)
class SpatialExtent(Scalar):
  """Σ x_i |r_i - r_com|², such as the electronic spatial extent of QM9."""

  def transform_atoms(self, x: jax.Array, batch: batch_lib.Batch) -> jax.Array:
    """Multiplies with the squared distances to the centre of mass."""
    return x * squared_distance_to_centre_of_mass(batch)[:, None]


def squared_distance_to_centre_of_mass(batch: batch_lib.Batch) -> jax.Array:
  """|r_i - r_com|² in Å² with masses of natural abundance, [N]; padding is zero."""
  masses = jnp.asarray(ase.data.atomic_masses, batch.positions.dtype)
  masses = jnp.where(batch.atom_mask, masses[batch.atomic_numbers], 0)[:, None]
  num_graphs = batch.graph_mask.shape[0]
  total, moment = (
    jax.ops.segment_sum(x, batch.node_graph, num_graphs, indices_are_sorted=True)
    for x in (masses, masses * batch.positions)
  )
  centre = moment / jnp.where(total > 0, total, 1)
  squares = ((batch.positions - centre[batch.node_graph]) ** 2).sum(-1)
  return jnp.where(batch.atom_mask, squares, 0)
