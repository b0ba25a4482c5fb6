"""Forces on atoms: from a head of their own, or as derivatives of the energy."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import spec
from jmp_hk.targets import vector

_COSINE_EPS = 1e-8


@spec.register("direct_forces")
@dataclasses.dataclass(frozen=True)
class DirectForces(vector.Vector):
  """Forces in eV/Å that a head of their own predicts, divided by the force scale."""

  label_name = "forces"
  skips_fixed_atoms = True
  headline_rank = 0

  @property
  def primary_metric(self) -> str:
    """The mean absolute error of components."""
    return "force_mae_mev_per_angstrom"

  def metrics(
    self,
    prediction: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    batch: batch_lib.Batch,
    constants: spec.TaskConstants,
  ) -> spec.Sums:
    """Mean absolute error of components in meV/Å, and mean cosine over atoms."""
    error = self.error(prediction, label) * (constants.force_scale * arithmetic.MILLI)
    norms = jnp.linalg.norm(prediction, axis=-1) * jnp.linalg.norm(label, axis=-1)
    cosine = (prediction * label).sum(axis=-1) / jnp.maximum(norms, _COSINE_EPS)
    return {
      "force_mae_mev_per_angstrom": arithmetic.masked_sum(error, rows),
      "force_cosine": arithmetic.masked_sum(cosine, rows),
    }

  def scale(self, constants: spec.TaskConstants) -> float:
    """The eV/Å per unit."""
    return constants.force_scale

  def normalise(
    self,
    label: spec.Value,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """Forces over the force scale, [n, 3]."""
    return np.asarray(label, np.float64) / constants.force_scale

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """Forces in eV/Å, [n, 3]."""
    return value * constants.force_scale

  def unit(self, units: Mapping[str, str]) -> str:
    """The unit of forces, by default eV/Å."""
    return units.get(self.name) or "eV/Å"

  def shown_metrics(self, unit: str) -> tuple[spec.ShownMetric, ...]:
    """Errors of components in thousandths of the unit, and the cosine."""
    small, milli = f"m{unit}", arithmetic.MILLI
    return (
      spec.ShownMetric("MAE", small, "mae", milli, self.primary_metric),
      spec.ShownMetric("RMSE", small, "rmse", milli),
      spec.ShownMetric(
        "cosine", "", "cosine", name="force_cosine", higher_is_better=True
      ),
      spec.ShownMetric("R²", "", "r2", higher_is_better=True),
    )

  def more_scores(
    self, labels: np.ndarray, predictions: np.ndarray, num_atoms: np.ndarray
  ) -> dict[str, float]:
    """Mean cosine between predicted and labelled forces."""
    norms = np.linalg.norm(predictions, axis=-1) * np.linalg.norm(labels, axis=-1)
    cosine = (predictions * labels).sum(axis=-1) / np.maximum(norms, _COSINE_EPS)
    return {"cosine": float(cosine.mean())}


@spec.register("conservative_forces")
@dataclasses.dataclass(frozen=True)
class ConservativeForces(DirectForces):
  """Forces in eV/Å that are -dE/dx of the predicted energy.

  Derivatives of the normalised energy are normalised forces, so that the force scale
  is the unit of that energy, too: with any other, the forces would not be derivatives
  of the energy that is reported.
  """

  predicted_from = spec.PredictedFrom.ENERGY
