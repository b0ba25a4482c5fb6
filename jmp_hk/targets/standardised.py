"""What is divided by a standard deviation of the training data."""

import dataclasses

import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import spec


@dataclasses.dataclass(frozen=True)
class Standardised(spec.TargetSpec):
  """Numbers whose errors are told in the unit of the label."""

  @property
  def primary_metric(self) -> str:
    """The mean absolute error, of components where there are several."""
    return f"{self.name}_mae"

  def metrics(
    self,
    prediction: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    batch: batch_lib.Batch,
    constants: spec.TaskConstants,
  ) -> spec.Sums:
    """Absolute and squared errors in the unit of the label."""
    error, std = prediction - label, self.scale(constants)
    return {
      f"{self.name}_mae": arithmetic.masked_sum(std * jnp.abs(error), rows),
      f"{self.name}{arithmetic.ROOT}": arithmetic.masked_sum((std * error) ** 2, rows),
    }

  def scale(self, constants: spec.TaskConstants) -> float:
    """The standard deviation."""
    return constants.statistics[self.name].std

  def shown_metrics(self, unit: str) -> tuple[spec.ShownMetric, ...]:
    """Errors in the unit of the label."""
    return (
      spec.ShownMetric("MAE", unit, "mae", name=f"{self.name}_mae"),
      spec.ShownMetric("RMSE", unit, "rmse", name=f"{self.name}{arithmetic.ROOT}"),
      spec.ShownMetric("R²", "", "r2", higher_is_better=True),
    )
