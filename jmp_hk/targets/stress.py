"""Stress of periodic structures, as a derivative of the energy."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jmp_hk import structure as structure_lib
from jmp_hk import voigt
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import spec

# Å³ that a stress is multiplied by in its loss and its score. With it a coefficient of
# 1 beside 1 of energies and 10 of forces is the 1 : 10 : 100 (eV, eV/Å, eV/Å³) that
# MACE-MP was trained with, and errors of stress count like those of the others.
VOLUME = 100.0


@spec.register("conservative_stress")
@dataclasses.dataclass(frozen=True)
class ConservativeStress(spec.TargetSpec):
  """The stress dE/dε / V of the predicted energy, in eV/Å³ with ASE's sign.

  Labels and predictions are the six components xx, yy, zz, yz, xz, xy of a structure;
  models predict symmetric matrices. Derivatives of the normalised energy are
  normalised stress: both have the same scale, as the forces have. Structures without a
  periodic cell of finite volume have no stress, and their labels are missing.
  """

  label_name = "stress"
  shape = (3, 3)
  predicted_from = spec.PredictedFrom.ENERGY
  may_be_missing = True

  @property
  def label_shape(self) -> tuple[int, ...]:
    """The six components."""
    return (voigt.NUM_COMPONENTS,)

  def is_defined(self, structure: structure_lib.Structure) -> bool:
    """Whether there is a periodic cell of finite volume."""
    return structure.volume > 0

  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Frobenius norms of differences, times `VOLUME`.

    They do not depend on how a structure is turned, as the Euclidean norms of forces do
    not, and their derivative is zero where they vanish.
    """
    difference = (prediction - label).reshape(-1, 9)
    return VOLUME * optax.safe_norm(difference, 0.0, axis=-1)

  def error(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Absolute differences of the six components, times `VOLUME`."""
    return VOLUME * jnp.abs(voigt.components(prediction - label))

  @property
  def primary_metric(self) -> str:
    """The mean absolute error of the six components."""
    return "stress_mae_mev_per_cubic_angstrom"

  def metrics(
    self,
    prediction: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    batch: batch_lib.Batch,
    constants: spec.TaskConstants,
  ) -> spec.Sums:
    """Mean absolute error of the six components, in meV/Å³ and in GPa."""
    error = jnp.abs(voigt.components(prediction - label)) * constants.energy_scale
    return {
      self.primary_metric: arithmetic.masked_sum(arithmetic.MILLI * error, rows),
      "stress_mae_gpa": arithmetic.masked_sum(voigt.GPA * error, rows),
    }

  def scale(self, constants: spec.TaskConstants) -> float:
    """The eV/Å³ per unit."""
    return constants.energy_scale

  def normalise(
    self,
    label: spec.Value,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """The matrix over the energy scale, [3, 3]."""
    return voigt.to_matrix(np.asarray(label, np.float64)) / constants.energy_scale

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """The components in eV/Å³, [6]."""
    return voigt.from_matrix(value) * constants.energy_scale

  def unit(self, units: Mapping[str, str]) -> str:
    """The unit of stress, by default eV/Å³."""
    return units.get(self.name) or "eV/Å³"

  def shown_metrics(self, unit: str) -> tuple[spec.ShownMetric, ...]:
    """Errors of components in thousandths of the unit, and in GPa."""
    small, milli = f"m{unit}", arithmetic.MILLI
    return (
      spec.ShownMetric("MAE", small, "mae", milli, self.primary_metric),
      spec.ShownMetric("RMSE", small, "rmse", milli),
      spec.ShownMetric("R²", "", "r2", higher_is_better=True),
      spec.ShownMetric("MAE in GPa", "GPa", "mae", voigt.GPA, "stress_mae_gpa"),
    )
