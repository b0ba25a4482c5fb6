"""Vectors of atoms."""

import dataclasses

import jax
import numpy as np
import optax

from jmp_hk import structure as structure_lib
from jmp_hk.targets import spec
from jmp_hk.targets import standardised

# Added to every component of a difference of vectors before its norm is taken, as the
# published loss does.
NORM_EPSILON = 1e-6


@spec.register("vector")
@dataclasses.dataclass(frozen=True)
class Vector(standardised.Standardised):
  """Any vector of every atom that turns with the structure.

  It is divided by its standard deviation alone: a mean would single out a direction.
  """

  per_atom = True
  shape = (3,)
  predicted_from = spec.PredictedFrom.EDGES

  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Euclidean norms of differences, with a zero derivative where they vanish."""
    return optax.safe_norm(prediction - label + NORM_EPSILON, 0.0, axis=-1)

  def normalise(
    self,
    label: spec.Value,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """Vectors over the standard deviation, [n, 3]."""
    vectors = np.asarray(label, np.float64).reshape(structure.num_atoms, -1)
    return vectors / constants.statistics[self.name].std

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """Vectors in the unit of the label, [n, 3]."""
    return value * constants.statistics[self.name].std
