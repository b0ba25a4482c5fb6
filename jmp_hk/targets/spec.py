"""What a kind of target is. One class says everything that there is to say about it.

To add a kind, derive a frozen dataclass from `TargetSpec`, decorate it with
`register("kind")` and import its module before a `TargetConfig` names it. Nothing else
has to know: heads, losses, metrics, labels, predictions, reports and flags ask the
spec.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
from typing import ClassVar
from typing import NamedTuple
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import serialization
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import ase_names

SpecT = TypeVar("SpecT", bound="type[TargetSpec]")
# A label or a prediction of one structure on the host.
Value = float | np.ndarray
# Metric to (sum over the rows that count, number of values in them).
Sums = dict[str, tuple[jax.Array, jax.Array]]


# A structure lacks a label that its task learns, or has one it cannot use.
LabelError = dataset_summary.LabelError


class PredictedFrom(enum.Enum):
  """What the prediction of a target is computed from."""

  ATOMS = "atoms"  # A head on atom embeddings.
  EDGES = "edges"  # A head on edge embeddings times directions: a vector per atom.
  ENERGY = "energy"  # No head: it is a derivative of the predicted energy.


class ShownMetric(NamedTuple):
  """A metric as people read it: in training, in validation, and of a test.

  Attributes:
    title: what it is called, e.g. "MAE".
    unit: its unit; "" for a pure number.
    score: name of the same quantity in a comparison of stored predictions, see
      `inference.comparison.Comparison.metrics`.
    factor: shown number over that score, which is in the unit of the label.
    name: its name among `TargetSpec.metrics`, which are in the shown unit; "" where
      validation does not compute it.
    higher_is_better: whether it is no error.
  """

  title: str
  unit: str
  score: str
  factor: float = 1.0
  name: str = ""
  higher_is_better: bool = False


@dataclasses.dataclass(frozen=True)
class TaskConstants:
  """The constants of a dataset as one task uses them, see `TaskConfig.constants`.

  Attributes:
    energy_scale: eV per unit of the task's normalised energy.
    force_scale: eV/Å per unit of its normalised forces.
    energy_references: eV per element by atomic number; empty where none are known.
    statistics: statistics of all labels but energy and forces, by name.
    free_atoms_only: whether metrics of forces leave fixed atoms out.
  """

  energy_scale: float
  force_scale: float
  energy_references: Mapping[int, float]
  statistics: Mapping[str, dataset_info.TargetStatistics]
  free_atoms_only: bool


@dataclasses.dataclass(frozen=True)
class TargetSpec(abc.ABC):
  """One kind of target, for a target of a given name.

  On the device a target has one row per structure, or per atom. Sizes: G structures,
  N atoms.

  Attributes:
    name: name of the target; labels, predictions and metrics carry it.
    num_classes: number of classes, for kinds that have to be told.
  """

  name: str
  num_classes: int = 0

  # Name under which the kind is declared and stored; set by `register`.
  kind: ClassVar[str] = ""
  # The field of `Structure` that holds the label, which is the only name that such a
  # target can have; None where the label is one of `Structure.targets`.
  label_name: ClassVar[str | None] = None
  # Whether there is a row per atom instead of one per structure.
  per_atom: ClassVar[bool] = False
  # Shape of a row of labels on the device.
  shape: ClassVar[tuple[int, ...]] = ()
  # Whether labels are indices of classes, i.e. integers, instead of quantities.
  is_class: ClassVar[bool] = False
  # Whether `num_classes` has to be given.
  needs_num_classes: ClassVar[bool] = False
  predicted_from: ClassVar[PredictedFrom] = PredictedFrom.ATOMS
  # Whether fixed atoms are left out of metrics where the dataset says so.
  skips_fixed_atoms: ClassVar[bool] = False
  # Whether structures may lack the label unless a declaration says otherwise.
  may_be_missing: ClassVar[bool] = False
  # The target with the lowest rank stands for a task with several targets.
  headline_rank: ClassVar[int] = 1

  @property
  def prediction_shape(self) -> tuple[int, ...]:
    """Shape of a row of predictions on the device."""
    return self.shape

  @property
  def label_shape(self) -> tuple[int, ...]:
    """Shape of a row of labels in physical units, on the host."""
    return self.shape

  @property
  def needs_edges(self) -> bool:
    """Whether the backbone has to give embeddings of edges."""
    return self.predicted_from is PredictedFrom.EDGES

  @property
  def is_derivative(self) -> bool:
    """Whether it has no head but is a derivative of the predicted energy."""
    return self.predicted_from is PredictedFrom.ENERGY

  # What the head does.

  def transform_atoms(self, x: jax.Array, batch: batch_lib.Batch) -> jax.Array:
    """Changes the head's outputs per atom before they are reduced over atoms.

    Args:
      x: [N, outputs] what the head computed.
      batch: packed structures.

    Returns:
      The same shape; by default `x`.
    """
    del batch
    return x

  # Loss and metrics, on the device. Predictions and labels are normalised.

  @abc.abstractmethod
  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Loss of every row, [rows], from predictions and labels [rows, …]."""

  def error(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Error in normalised units, [rows, …], whose mean counts in the score."""
    return jnp.abs(prediction - label)

  @property
  @abc.abstractmethod
  def primary_metric(self) -> str:
    """The metric, lower is better, that validation goes by."""

  @abc.abstractmethod
  def metrics(
    self,
    prediction: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    batch: batch_lib.Batch,
    constants: TaskConstants,
  ) -> Sums:
    """Metrics in physical units, as sums and counts that add up over batches.

    References cancel in errors, so normalised values are compared and then scaled:
    nothing is lost to large totals.

    Args:
      prediction: [rows, …] normalised predictions.
      label: [rows, …] normalised labels.
      rows: [rows] bool, the rows that count.
      batch: packed structures.
      constants: scales of the task.

    Returns:
      Metric to (sum, count), see `arithmetic.masked_sum`. Names that end in
      `arithmetic.ROOT` hold squares.
    """

  def counted(
    self, batch: batch_lib.Batch, graphs: jax.Array, constants: TaskConstants
  ) -> jax.Array:
    """Rows of the structures in the mask `graphs` [G] that metrics count, [rows]."""
    if not self.per_atom:
      return graphs
    atoms = graphs[batch.node_graph] & batch.atom_mask
    if self.skips_fixed_atoms and constants.free_atoms_only:
      atoms &= ~batch.fixed
    return atoms

  # Labels and predictions of one structure, on the host, in float64.

  def label(self, structure: structure_lib.Structure) -> Value | None:
    """The label in physical units, or None where the structure has none."""
    if self.label_name is not None:
      return getattr(structure, self.label_name)
    return structure.targets.get(self.name)

  def is_defined(self, structure: structure_lib.Structure) -> bool:
    """Whether the quantity exists for a structure at all; by default it does."""
    del structure
    return True

  def missing_label(
    self, structure: structure_lib.Structure, *, normalised: bool = True
  ) -> np.ndarray:
    """What stands in place of the label of a structure without one.

    Args:
      structure: the structure.
      normalised: whether it is for a batch, instead of labels in physical units.

    Returns:
      NaN in the shape of a label, for classes -1.
    """
    row = self.shape if normalised else self.label_shape
    shape = (structure.num_atoms, *row) if self.per_atom else row
    return np.full(shape, -1) if self.is_class else np.full(shape, np.nan)

  def split_missing(self, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tells labels from what stands for missing ones, on the device.

    Args:
      label: [rows, …] normalised labels and `missing_label`s.

    Returns:
      The labels with zeros in place of missing ones, and [rows] bool, the rows that
      have a label.
    """
    entries = label >= 0 if self.is_class else jnp.isfinite(label)
    rows = entries.reshape(*label.shape[: label.ndim - len(self.shape)], -1).all(-1)
    mask = rows.reshape(rows.shape + (1,) * len(self.shape))
    return jnp.where(mask, label, 0), rows

  @abc.abstractmethod
  def normalise(
    self, label: Value, constants: TaskConstants, structure: structure_lib.Structure
  ) -> np.ndarray:
    """The label as the loss wants it; `denormalise` is its inverse.

    Args:
      label: in physical units.
      constants: scales of the task.
      structure: the structure that has the label.

    Raises:
      LabelError: an element of the structure has no reference.
    """

  @abc.abstractmethod
  def denormalise(
    self,
    value: np.ndarray,
    constants: TaskConstants,
    structure: structure_lib.Structure,
  ) -> Value:
    """A prediction in physical units, of classes the probabilities.

    Args:
      value: normalised prediction of one structure, float64.
      constants: scales of the task.
      structure: what was predicted.
    """

  def scale(self, constants: TaskConstants) -> float:
    """Physical units per unit of predictions; 1 where predictions are no quantities.

    A head that is taken over from other data is multiplied by the ratio of both scales.
    """
    del constants
    return 1.0

  # How it is compared offline and shown.

  def stack_labels(self, labels: Sequence[Value]) -> np.ndarray:
    """Labels of many structures as one array, with a row per structure or atom."""
    if self.per_atom:
      return np.concatenate(labels)
    return np.asarray(labels, np.float64)

  def stack_predictions(self, values: Sequence[Value]) -> np.ndarray:
    """Predictions of many structures likewise; probabilities [rows, classes]."""
    return TargetSpec.stack_labels(self, values)

  def unit(self, units: Mapping[str, str]) -> str:
    """Unit of the label, by the units of a dataset."""
    return units.get(self.name, "")

  def shown_metrics(self, unit: str) -> tuple[ShownMetric, ...]:
    """The metrics that people are shown; the first stands for the target.

    Args:
      unit: unit of the label.
    """
    return (
      ShownMetric("MAE", unit, "mae", name=self.primary_metric),
      ShownMetric("RMSE", unit, "rmse"),
      ShownMetric("R²", "", "r2", higher_is_better=True),
    )

  def more_scores(
    self, labels: np.ndarray, predictions: np.ndarray, num_atoms: np.ndarray
  ) -> dict[str, float]:
    """What `shown_metrics` needs of stored predictions besides MAE, RMSE and R².

    Args:
      labels: [rows, …] in physical units, only rows that count.
      predictions: likewise.
      num_atoms: [rows] sizes of the structures; empty for targets of atoms.

    Returns:
      Scores by name, in the unit of the label where they have one.
    """
    del labels, predictions, num_atoms
    return {}

  @property
  def calculator_property(self) -> str:
    """What a calculator calls the prediction: ASE's name where ASE has one."""
    return ase_names.property_name(self.name, per_atom=self.per_atom)


_REGISTRY: dict[str, type[TargetSpec]] = {}


def register(kind: str) -> Callable[[SpecT], SpecT]:
  """Registers a class of specs under the name that declarations of targets use.

  Args:
    kind: unique name, e.g. "scalar".

  Returns:
    A decorator of subclasses of `TargetSpec`.

  Raises:
    ValueError: the name is taken by another class.
  """

  def decorate(cls: SpecT) -> SpecT:
    serialization.add_class(_REGISTRY, kind, cls, "kind")
    cls.kind = kind
    return cls

  return decorate


def kinds() -> Mapping[str, type[TargetSpec]]:
  """All registered kinds by name."""
  return dict(_REGISTRY)


def find(kind: str) -> type[TargetSpec]:
  """The class of specs of a kind.

  Raises:
    ValueError: no such kind is registered.
  """
  if kind not in _REGISTRY:
    raise ValueError(
      f"There is no kind of target {kind!r}; known are {', '.join(_REGISTRY)}. Import "
      "the module that registers it first."
    )
  return _REGISTRY[kind]
