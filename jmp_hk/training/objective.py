"""What is minimised and what is measured, as functions of one microbatch."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses

import haiku as hk
import jax

from jmp_hk import dataset_info
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.training import losses
from jmp_hk.training import metrics as metrics_lib

Predictions = Mapping[str, jax.Array]
Terms = Mapping[str, tuple[jax.Array, jax.Array]]
# (params, scales, one microbatch) → "dataset/metric" → (sum, count).
MicrobatchSums = Callable[[hk.Params, hk.State, batch_lib.Batch], metrics_lib.Sums]


def _unchanged(gradients: hk.MutableParams) -> hk.MutableParams:
  return gradients


def _num_structures(batch: batch_lib.Batch) -> jax.Array:
  return batch.graph_mask.sum()


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised: Σ over terms of (sum of a term) / (its count).

  Attributes:
    predict: (params, scales, key, batch) → predictions of one microbatch, in training
      mode.
    terms: (batch, predictions) → {name: (weighted sum, count)} of one microbatch.
      Counts depend on the batch alone, never on the predictions.
    process_gradients: applied to the summed gradients before clipping.
    errors: (batch, predictions) → {name: (sum, count)}, metrics that are told beside
      the loss and not minimised.
    num_structures: (batch [microbatches, ...]) → number of structures in it.
  """

  predict: Callable[[hk.Params, hk.State, jax.Array, batch_lib.Batch], Predictions]
  terms: Callable[[batch_lib.Batch, Predictions], Terms]
  process_gradients: Callable[[hk.MutableParams], hk.MutableParams] = _unchanged
  errors: Callable[[batch_lib.Batch, Predictions], Terms] = lambda batch, values: {}
  num_structures: Callable[[batch_lib.Batch], jax.Array] = _num_structures


def make_objective(
  model: model_lib.Model,
  loss: losses.LossConfig,
  infos: Mapping[str, dataset_info.DatasetInfo],
) -> Objective:
  """The loss of a model, as pre-training and fine-tuning minimise it.

  Args:
    model: the model; its tasks say which targets have a loss.
    loss: what the loss averages over.
    infos: constants of the datasets of its tasks by name; errors in physical units are
      told for those that are given.
  """
  tasks = model.config.tasks

  def predict(
    params: hk.Params, scales: hk.State, key: jax.Array, batch: batch_lib.Batch
  ) -> Predictions:
    variables = model_lib.Variables(params, scales)
    return model.apply(variables, key, batch, is_training=True)

  def terms(batch: batch_lib.Batch, predictions: Predictions) -> Terms:
    return losses.loss_terms(loss, tasks, batch, predictions)

  def errors(batch: batch_lib.Batch, predictions: Predictions) -> Terms:
    return metrics_lib.training_sums(tasks, infos, batch, predictions)

  return Objective(predict, terms, model.config.backbone.process_gradients, errors)


def make_validation_sums(
  model: model_lib.Model, infos: Mapping[str, dataset_info.DatasetInfo]
) -> MicrobatchSums:
  """Metrics of a model's predictions, see `metrics.batch_sums`.

  Args:
    model: the model.
    infos: constants of the dataset of each of its tasks by name.
  """

  def sums(
    params: hk.Params, scales: hk.State, batch: batch_lib.Batch
  ) -> metrics_lib.Sums:
    predictions = model.apply(model_lib.Variables(params, scales), None, batch)
    return metrics_lib.batch_sums(model.config.tasks, infos, batch, predictions)

  return sums


def make_linear_fit_sums(
  model: model_lib.Model, infos: Mapping[str, dataset_info.DatasetInfo]
) -> MicrobatchSums:
  """Metrics of the per-element linear fit alone, with zero forces; arguments as above.

  Labels are normalised by that fit, so that its predictions are zero.
  """
  tasks = model.config.tasks

  def sums(
    params: hk.Params, scales: hk.State, batch: batch_lib.Batch
  ) -> metrics_lib.Sums:
    del params, scales
    zeros = metrics_lib.zero_predictions(tasks, batch)
    return metrics_lib.batch_sums(tasks, infos, batch, zeros)

  return sums


def first_microbatch(batch: batch_lib.Batch) -> batch_lib.Batch:
  """The first of stacked microbatches [microbatches, ...]."""
  return jax.tree.map(lambda x: x[0], batch)
