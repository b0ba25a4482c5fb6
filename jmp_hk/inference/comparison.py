"""Predicts labelled structures and compares the predictions with the labels."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import chex
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.inference import batching
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import scores
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Labels and predictions of one target, in physical units.

  Attributes:
    target: what is compared.
    unit: unit of the values.
    labels: [structures] values or classes; of targets of atoms [atoms, …], the atoms
      of all structures one after another.
    predictions: likewise; for classes the probabilities [structures, classes].
    counted: [structures] or [atoms] bool, the rows that metrics count; without fixed
      atoms where the dataset says so, and without missing labels, which are NaN, of
      classes -1.
  """

  target: tasks_lib.TargetConfig
  unit: str
  labels: np.ndarray
  predictions: np.ndarray
  counted: np.ndarray

  def __post_init__(self) -> None:
    chex.assert_equal_shape_prefix([self.labels, self.predictions, self.counted], 1)

  @property
  def is_class(self) -> bool:
    """Whether the labels are classes."""
    return self.target.spec.is_class

  @property
  def is_per_atom(self) -> bool:
    """Whether there is a row for each atom."""
    return self.target.spec.per_atom

  def metrics(self) -> dict[str, float]:
    """MAE, RMSE and R² over structures or components, or the scores of classes."""
    labels, predictions = self.labels[self.counted], self.predictions[self.counted]
    if self.is_class:
      return scores.classification(labels, predictions)
    return scores.regression(labels, predictions)


@dataclasses.dataclass(frozen=True)
class Results:
  """Predictions of labelled structures, in their order.

  Attributes:
    task: task of the head that predicted.
    structures: structures with their labels.
    predictions: as many predictions.
    comparisons: labels beside predictions of every learned target that has labels.
  """

  task: tasks_lib.TaskConfig
  structures: Sequence[structure_lib.Structure]
  predictions: Sequence[prediction_lib.Prediction]
  comparisons: Sequence[Comparison]

  def metrics(self) -> dict[str, dict[str, float | str]]:
    """Metrics by target name, each with its unit."""
    return {
      comparison.target.name: {**comparison.metrics(), "unit": comparison.unit}
      for comparison in self.comparisons
    }


def predict_and_compare(
  predictor: predictor_lib.Predictor,
  structures: Iterable[structure_lib.Structure],
  head: str | None = None,
  *,
  units: Mapping[str, str] | None = None,
  on_progress: batching.OnProgress | None = None,
) -> Results:
  """Predicts labelled structures and compares with their labels.

  References, scales and graph settings are those of the head's dataset.

  Args:
    predictor: the model.
    structures: records with labels in physical units, all with the same ones but for
      those that may be missing.
    head: name of the head; may be left out if the model has one.
    units: units of the labels by name; by default those of the head's dataset.
    on_progress: called with the number of structures done, and of all.

  Returns:
    Predictions, and a comparison of every learned target that has labels.

  Raises:
    InvalidStructureError: a structure has no usable cell or positions.
    InvalidStructuresError: the model gives numbers that are not finite.
    ValueError: there is no such head.
  """
  runner = predictor.head(head)
  task, info = runner.task, runner.info
  records = list(structures)
  predictions = predictor.predict_structures(records, head, on_progress=on_progress)
  compared = [
    compare(
      target,
      target.spec.unit(info.units if units is None else units),
      records,
      predictions,
      free_atoms_only=task.constants(info).free_atoms_only,
    )
    for target in task.learned
    if any(target.spec.label(record) is not None for record in records)
  ]
  return Results(task, records, predictions, compared)


def compare(
  target: tasks_lib.TargetConfig,
  unit: str,
  structures: Sequence[structure_lib.Structure],
  predictions: Sequence[prediction_lib.Prediction],
  *,
  free_atoms_only: bool = False,
) -> Comparison:
  """Collects labels and predictions of one target.

  Args:
    target: which one.
    unit: unit of its values.
    structures: structures with labels.
    predictions: as many predictions.
    free_atoms_only: leave fixed atoms out of metrics of forces.

  Raises:
    LabelError: a structure lacks the label.
  """
  spec = target.spec
  values = [prediction.get(target) for prediction in predictions]
  missing = [labels.is_missing(target, structure) for structure in structures]
  stacked = spec.stack_labels(
    [
      spec.missing_label(structure)
      if is_missing
      else labels.required_label(target, structure)
      for structure, is_missing in zip(structures, missing, strict=True)
    ]
  )
  sizes = [structure.num_atoms if spec.per_atom else 1 for structure in structures]
  counted = ~np.repeat(missing, sizes)
  if spec.per_atom and spec.skips_fixed_atoms and free_atoms_only:
    counted &= ~np.concatenate([structure.fixed for structure in structures])
  return Comparison(target, unit, stacked, spec.stack_predictions(values), counted)
