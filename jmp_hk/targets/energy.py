"""Total energies."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import spec


@spec.register("energy")
@dataclasses.dataclass(frozen=True)
class Energy(spec.TargetSpec):
  """The total energy of a structure in eV, as a rule a sum over atoms.

  Per-element references are subtracted, the rest is divided by the energy scale of the
  task.
  """

  label_name = "energy"

  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Absolute differences."""
    return jnp.abs(prediction - label)

  @property
  def primary_metric(self) -> str:
    """The mean absolute error of total energies."""
    return "energy_mae_mev"

  def metrics(
    self,
    prediction: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    batch: batch_lib.Batch,
    constants: spec.TaskConstants,
  ) -> spec.Sums:
    """Mean absolute error in meV, per structure and per atom."""
    error = self.error(prediction, label) * (constants.energy_scale * arithmetic.MILLI)
    atoms = jnp.maximum(batch.n_node, 1)
    return {
      "energy_mae_mev": arithmetic.masked_sum(error, rows),
      "energy_mae_mev_per_atom": arithmetic.masked_sum(error / atoms, rows),
    }

  def scale(self, constants: spec.TaskConstants) -> float:
    """The eV per unit."""
    return constants.energy_scale

  def normalise(
    self,
    label: spec.Value,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """(E - Σ references) / energy scale."""
    reference = arithmetic.sum_of_references(
      constants.energy_references, structure, self.name
    )
    return np.asarray((label - reference) / constants.energy_scale, np.float64)

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> float:
    """Energy in eV; relative to the references where none are known."""
    energy = float(value) * constants.energy_scale
    if not constants.energy_references:
      return energy
    return energy + arithmetic.sum_of_references(
      constants.energy_references, structure, self.name
    )

  def unit(self, units: Mapping[str, str]) -> str:
    """The unit of energies, by default eV."""
    return units.get(self.name) or "eV"

  def shown_metrics(self, unit: str) -> tuple[spec.ShownMetric, ...]:
    """Errors per atom in thousandths of the unit."""
    per_atom, milli = f"m{unit}/atom", arithmetic.MILLI
    return (
      spec.ShownMetric(
        "MAE", per_atom, "mae_per_atom", milli, "energy_mae_mev_per_atom"
      ),
      spec.ShownMetric("RMSE", per_atom, "rmse_per_atom", milli),
      spec.ShownMetric("R²", "", "r2", higher_is_better=True),
    )

  def more_scores(
    self, labels: np.ndarray, predictions: np.ndarray, num_atoms: np.ndarray
  ) -> dict[str, float]:
    """Errors per atom."""
    error = (predictions - labels) / num_atoms
    return {
      "mae_per_atom": float(np.abs(error).mean()),
      "rmse_per_atom": float(np.sqrt(np.square(error).mean())),
    }
