"""Vectors of atoms."""

import dataclasses

import jax
import numpy as np
import optax

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import spec

# Added to every component of a difference of vectors before its norm is taken, as the
# published loss does.
NORM_EPSILON = 1e-6


@spec.register("vector")
@dataclasses.dataclass(frozen=True)
class Vector(spec.TargetSpec):
  """Any vector of every atom that turns with the structure.

  It is divided by its standard deviation alone: a mean would single out a direction.
  """

  per_atom = True
  shape = (3,)
  predicted_from = spec.PredictedFrom.EDGES

  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Euclidean norms of differences, with a zero derivative where they vanish."""
    return optax.safe_norm(prediction - label + NORM_EPSILON, 0.0, axis=-1)

  @property
  def primary_metric(self) -> str:
    """The mean absolute error of components."""
    return f"{self.name}_mae"

  def metrics(
    self,
    prediction: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    batch: batch_lib.Batch,
    constants: spec.TaskConstants,
  ) -> spec.Sums:
    """Errors of components in the unit of the label."""
    std = constants.statistics[self.name].std
    return arithmetic.error_sums(self.name, prediction, label, rows, std)

  def scale(self, constants: spec.TaskConstants) -> float:
    """The standard deviation."""
    return constants.statistics[self.name].std

  def shown_metrics(self, unit: str) -> tuple[spec.ShownMetric, ...]:
    """Errors in the unit of the label."""
    return arithmetic.shown_errors(self.name, unit)

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
