"""Predicts labelled structures and compares the predictions with the labels."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import chex
import numpy as np

from jmp_hk import from_ase
from jmp_hk import structure as structure_lib
from jmp_hk import text_table
from jmp_hk.inference import batching
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import preparation
from jmp_hk.inference import scores
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels
from jmp_hk.targets import spec as spec_lib


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
    num_atoms: [structures] sizes of the structures.
  """

  target: tasks_lib.TargetConfig
  unit: str
  labels: np.ndarray
  predictions: np.ndarray
  counted: np.ndarray
  num_atoms: np.ndarray

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
    """Scores in the unit of the labels.

    Returns:
      MAE, RMSE and R² over structures or components, or the scores of classes; and what
      the kind of target adds, such as "mae_per_atom" of energies.
    """
    labels, predictions = self.labels[self.counted], self.predictions[self.counted]
    score = scores.classification if self.is_class else scores.regression
    sizes = self.num_atoms[:0] if self.is_per_atom else self.num_atoms[self.counted]
    spec = self.target.spec
    return score(labels, predictions) | spec.more_scores(labels, predictions, sizes)

  def shown(self) -> dict[spec_lib.ShownMetric, float]:
    """The metrics that people read, in the units that training tells them in."""
    scored = self.metrics()
    return {
      metric: metric.factor * scored[metric.score]
      for metric in self.target.spec.shown_metrics(self.unit)
      if metric.score in scored
    }


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
    """Metrics by target name in the units of the labels, each with its unit."""
    return {
      comparison.target.name: {**comparison.metrics(), "unit": comparison.unit}
      for comparison in self.comparisons
    }

  def validation_metrics(self) -> dict[str, float]:
    """The same with the names and units of validation, e.g. "mine/gap_mae"."""
    return {
      f"{self.task.name}/{metric.name}": value
      for comparison in self.comparisons
      for metric, value in comparison.shown().items()
      if metric.name
    }

  def table(self) -> str:
    """The metrics as lines, a row a target, with the units of validation."""
    return shown_table({c.target.name: c.shown() for c in self.comparisons})


def shown_table(
  targets: Mapping[str, Mapping[spec_lib.ShownMetric, float]],
) -> str:
  """Metrics as lines.

  Args:
    targets: values by metric, by target.

  Returns:
    A row a target with its unit, and a column for each kind of metric.
  """
  titles = list(
    dict.fromkeys(metric.title for row in targets.values() for metric in row)
  )
  rows = [["", *titles]]
  for target, row in targets.items():
    cells = {m.title: text_table.quantity(v, m.unit, 4) for m, v in row.items()}
    rows.append([target, *(cells.get(title, "") for title in titles)])
  return text_table.align(rows)


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
    InvalidStructuresError: the head does not know elements of some structures, or the
      model gives numbers that are not finite.
    ValueError: there is no such head.
  """
  runner = predictor.head(head)
  task, info = runner.task, runner.info
  records = list(structures)
  problems = {
    index: f"{record.record_id}: {problem}"
    for index, record in enumerate(records)
    if (problem := from_ase.find_element_problem(record.atomic_numbers, info))
  }
  preparation.InvalidPolicy().apply(problems)
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
  values = []
  for structure, prediction in zip(structures, predictions, strict=True):
    value = prediction.get(target)
    if value is None:  # Nor has it a label.
      value = spec.missing_label(structure, normalised=False)
    values.append(value)
  missing = [labels.is_missing(target, structure) for structure in structures]
  stacked = spec.stack_labels(
    [
      spec.missing_label(structure, normalised=False)
      if is_missing
      else labels.required_label(target, structure)
      for structure, is_missing in zip(structures, missing, strict=True)
    ]
  )
  sizes = [structure.num_atoms if spec.per_atom else 1 for structure in structures]
  counted = ~np.repeat(missing, sizes)
  if spec.per_atom and spec.skips_fixed_atoms and free_atoms_only:
    counted &= ~np.concatenate([structure.fixed for structure in structures])
  num_atoms = np.array([structure.num_atoms for structure in structures])
  predicted = spec.stack_predictions(values)
  return Comparison(target, unit, stacked, predicted, counted, num_atoms)
