"""What a finished fine-tuning run tells, and the report reads."""

from collections.abc import Mapping
import dataclasses
from typing import Any

FILE = "finetune_result.json"  # In the working directory.


@dataclasses.dataclass(frozen=True)
class Result:
  """The test of the best weights of a run.

  Attributes:
    task: name of the task.
    dataset: what results are averaged by.
    unit: of the errors.
    model: backbone in words.
    initial: checkpoint that it started from; "" from scratch.
    fold: of the data.
    num_structures: structures that it was trained on.
    num_devices: that it ran on.
    seconds: training time without compilation and evaluations.
    steps: optimiser steps.
    best_step: step of the weights that were tested, the best in validation.
    validation_metric: by which they were chosen.
    validation: its value there.
    error: on the test split: mean absolute error, or the cross-entropy of classes.
    metrics: all metrics of the test split by target, in the labels' units.
  """

  task: str
  dataset: str
  unit: str
  model: str
  initial: str
  fold: int
  num_structures: int
  num_devices: int
  seconds: float
  steps: int
  best_step: int
  validation_metric: str
  validation: float
  error: float
  metrics: Mapping[str, Any]

  def describe(self) -> str:
    """The result in one line."""
    return (
      f"{self.task}: test error {self.error:.4g} {self.unit} with the weights of "
      f"step {self.best_step} ({self.validation_metric} {self.validation:.4g}), "
      f"{self.seconds * self.num_devices / 3600:.4f} device-hours of training"
    )
