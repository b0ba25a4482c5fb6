"""Predicts a split of a converted dataset and compares with its labels.

Importing this imports TensorFlow; runners do so after they have checked their flags.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np

from data.records import datasets as datasets_lib
from experiments import scores
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import buckets
from jmp_hk.inference import batching
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import single_head
from jmp_hk.targets import config as tasks_lib

Kind = tasks_lib.TargetKind

_AT_ONCE = 2048  # Structures whose graphs are in memory.
_CLASSES = (Kind.BINARY, Kind.MULTICLASS)
_PER_ATOM = (Kind.DIRECT_FORCES, Kind.CONSERVATIVE_FORCES, Kind.VECTOR)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Labels and predictions of one target over a split, in physical units.

  Attributes:
    target: what is compared.
    unit: of the values.
    labels: [structures] values or classes; per atom [atoms, 3], the atoms of all
      structures one after another.
    predictions: likewise; for classes the probabilities [structures, classes].
    counted: [structures] or [atoms] bool, what metrics are of; without fixed atoms
      where the dataset says so.
  """

  target: tasks_lib.TargetConfig
  unit: str
  labels: np.ndarray
  predictions: np.ndarray
  counted: np.ndarray

  @property
  def is_class(self) -> bool:
    """Whether the labels are classes."""
    return self.target.kind in _CLASSES

  @property
  def is_per_atom(self) -> bool:
    """Whether there is a vector for each atom."""
    return self.target.kind in _PER_ATOM

  def metrics(self) -> dict[str, float]:
    """MAE, RMSE and R² over structures or force components; or those of classes."""
    labels, predictions = self.labels[self.counted], self.predictions[self.counted]
    if self.is_class:
      return scores.classification(labels, predictions)
    return scores.regression(labels, predictions)


@dataclasses.dataclass(frozen=True)
class SplitPredictions:
  """Predictions for every structure of a split, in the order of its records.

  Attributes:
    structures: with their labels.
    predictions: of the model.
    comparisons: of every learned target that has labels.
  """

  structures: Sequence[structure_lib.Structure]
  predictions: Sequence[prediction_lib.Prediction]
  comparisons: Sequence[Comparison]

  def metrics(self) -> dict[str, dict[str, float | str]]:
    """Metrics by target name, each with its unit."""
    return {
      comparison.target.name: {**comparison.metrics(), "unit": comparison.unit}
      for comparison in self.comparisons
    }


def predict_split(
  predictor: predictor_lib.Predictor,
  head: str | None,
  dataset: datasets_lib.Dataset,
  limit: int = 0,
  on_progress: batching.OnProgress | None = None,
) -> SplitPredictions:
  """Predicts a split.

  References, scales and graph settings are those of the head, not of the data.

  Args:
    predictor: the model.
    head: its head; may be None if there is only one.
    dataset: the split.
    limit: structures to take, evenly; 0 takes all.
    on_progress: called with structures done, of how many.

  Raises:
    ValueError: there is no such head.
  """
  runner = predictor.head(head)
  stride = max(1, dataset.num_structures // limit) if limit else 1
  records = dataset.source.ordered(stride)
  structures = list(itertools.islice(records, limit or None))
  predictions = []
  for chunk in _chunks(structures):
    predictions += _predict(runner, chunk, predictor.batch_edges)
    if on_progress:
      on_progress(len(predictions), len(structures))
  return SplitPredictions(
    structures,
    predictions,
    [
      compare(
        target,
        _unit(target, dataset.info.units),
        structures,
        predictions,
        free_atoms_only=runner.info.evaluate_free_atoms_only,
      )
      for target in runner.task.targets
      if target.is_learned and _has_label(structures[0], target.name)
    ],
  )


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
    unit: of its values.
    structures: with labels.
    predictions: as many.
    free_atoms_only: leave fixed atoms out of metrics.
  """
  labels = [_label(structure, target.name) for structure in structures]
  values = [_prediction(prediction, target.name) for prediction in predictions]
  if target.kind in _PER_ATOM:
    fixed = np.concatenate([structure.fixed for structure in structures])
    counted = ~fixed if free_atoms_only else np.ones(len(fixed), bool)
    return Comparison(
      target, unit, np.concatenate(labels), np.concatenate(values), counted
    )
  labels, values = np.asarray(labels, np.float64), np.asarray(values, np.float64)
  if target.kind is Kind.BINARY:
    values = np.stack([1 - values, values], axis=1)
  if target.kind in _CLASSES:
    labels = labels.astype(np.int64)
  return Comparison(target, unit, labels, values, np.ones(len(labels), bool))


def _predict(
  runner: single_head.SingleHead,
  structures: Sequence[structure_lib.Structure],
  batch_edges: int,
) -> list[prediction_lib.Prediction]:
  """Predicts structures whose graphs fit into memory together."""
  info = runner.info
  prepare = batching.Preparer(info.graph)
  items = [prepare(structure) for structure in structures]
  classes = buckets.classify(
    [item.sizes for item in items], info.graph, batch_edges, runner.budgets
  )
  outputs = batching.run(
    items, runner.predict, runner.per_atom, classes, info.graph, runner.dtype
  )
  return [
    prediction_lib.denormalise(runner.task, info, structure, values)
    for structure, values in zip(structures, outputs, strict=True)
  ]


def _chunks(
  structures: Iterable[structure_lib.Structure],
) -> Iterator[list[structure_lib.Structure]]:
  iterator = iter(structures)
  while chunk := list(itertools.islice(iterator, _AT_ONCE)):
    yield chunk


def _unit(target: tasks_lib.TargetConfig, units: Mapping[str, str]) -> str:
  return units.get(target.name, "")


def _has_label(structure: structure_lib.Structure, name: str) -> bool:
  if name in (prediction_lib.ENERGY, prediction_lib.FORCES):
    return getattr(structure, name) is not None
  return name in structure.targets


def _label(structure: structure_lib.Structure, name: str) -> np.ndarray | float:
  if name in (prediction_lib.ENERGY, prediction_lib.FORCES):
    return getattr(structure, name)
  return structure.targets[name]


def _prediction(prediction: prediction_lib.Prediction, name: str) -> np.ndarray | float:
  if name in (prediction_lib.ENERGY, prediction_lib.FORCES):
    return getattr(prediction, name)
  return prediction.properties[name]
