"""Classes of structures."""

import abc
from collections.abc import Sequence
import dataclasses

import jax
import numpy as np
import optax

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import spec


@dataclasses.dataclass(frozen=True)
class Classes(spec.TargetSpec):
  """What kinds of classes share: labels are indices and stay as they are."""

  is_class = True

  @abc.abstractmethod
  def choose(self, prediction: jax.Array) -> jax.Array:
    """The most likely class of every row, [rows]."""

  def error(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """The cross-entropy."""
    return self.loss(prediction, label)

  @property
  def primary_metric(self) -> str:
    """The cross-entropy."""
    return f"{self.name}_cross_entropy"

  def metrics(
    self,
    prediction: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    batch: batch_lib.Batch,
    constants: spec.TaskConstants,
  ) -> spec.Sums:
    """Accuracy and cross-entropy in nat."""
    loss = self.loss(prediction, label)
    correct = (self.choose(prediction) == label).astype(loss.dtype)
    return {
      f"{self.name}_accuracy": arithmetic.masked_sum(correct, rows),
      f"{self.name}_cross_entropy": arithmetic.masked_sum(loss, rows),
    }

  def normalise(
    self,
    label: spec.Value,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """The index of the class, an integer."""
    return np.asarray(label, np.float64).astype(np.int64)

  def stack_labels(self, labels: Sequence[spec.Value]) -> np.ndarray:
    """Indices of classes, integers."""
    return super().stack_labels(labels).astype(np.int64)

  def shown_metrics(self, unit: str) -> tuple[spec.ShownMetric, ...]:
    """The cross-entropy, accuracy, F1 and area under the ROC curve."""
    return (
      spec.ShownMetric("cross-entropy", "nat", "cross_entropy", 1, self.primary_metric),
      spec.ShownMetric(
        "accuracy", "", "accuracy", 1, f"{self.name}_accuracy", higher_is_better=True
      ),
      spec.ShownMetric("F1", "", "f1", higher_is_better=True),
      spec.ShownMetric("AUC", "", "auc", higher_is_better=True),
    )


@spec.register("binary")
@dataclasses.dataclass(frozen=True)
class Binary(Classes):
  """Two classes; the prediction is the logit of class 1."""

  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropies."""
    return optax.sigmoid_binary_cross_entropy(prediction, label)

  def choose(self, prediction: jax.Array) -> jax.Array:
    """Class 1 where its logit is positive."""
    return (prediction > 0).astype(int)

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> float:
    """The probability of class 1."""
    return float(1 / (1 + np.exp(-value)))

  def stack_predictions(self, values: Sequence[spec.Value]) -> np.ndarray:
    """Probabilities of both classes, [structures, 2]."""
    probabilities = super().stack_predictions(values)
    return np.stack([1 - probabilities, probabilities], axis=1)


@spec.register("multiclass")
@dataclasses.dataclass(frozen=True)
class Multiclass(Classes):
  """Several classes; the prediction is a logit of each."""

  needs_num_classes = True

  @property
  def prediction_shape(self) -> tuple[int, ...]:
    """A logit of each class."""
    return (self.num_classes,)

  def loss(self, prediction: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropies."""
    return optax.softmax_cross_entropy_with_integer_labels(prediction, label)

  def choose(self, prediction: jax.Array) -> jax.Array:
    """The class with the largest logit."""
    return prediction.argmax(axis=-1)

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """The probabilities of all classes, [classes]."""
    weights = np.exp(value - value.max())
    return weights / weights.sum()
