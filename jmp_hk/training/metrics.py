"""Validation metrics in physical units, one set per dataset and target.

On the device each metric is a sum and a count per batch; the host adds them up in
float64. What the metrics of a target are is said by its spec.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import math

import chex
import jax
import jax.numpy as jnp

from jmp_hk import dataset_info as info_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import arithmetic
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib

Sums = spec_lib.Sums
SCORE = "score"


def batch_sums(
  tasks: Sequence[tasks_lib.TaskConfig],
  infos: Mapping[str, info_lib.DatasetInfo],
  batch: batch_lib.Batch,
  predictions: Mapping[str, jax.Array],
) -> Sums:
  """Sums and counts of all metrics over one packed batch.

  Args:
    tasks: datasets with their targets; `batch.task` indexes this tuple.
    infos: scales by dataset name; tasks without them are left out.
    batch: structures with normalised targets.
    predictions: normalised predictions by target name.

  Returns:
    "dataset/metric" → (sum, count), both [] float. Per target the dataset also has
    "score/target", its error in normalised units.
  """
  sums: Sums = {}
  for index, task in enumerate(tasks):
    if task.name not in infos:
      continue
    graphs = batch.graph_mask & (batch.task == index)
    constants = task.constants(infos[task.name])
    for target in task.learned:
      if target.name not in batch.targets:
        continue
      spec = target.spec
      rows = spec.counted(batch, graphs, constants)
      prediction, label = predictions[target.name], batch.targets[target.name]
      if target.allow_missing:
        label, has_label = spec.split_missing(label)
        rows &= has_label
      chex.assert_shape(prediction, (*rows.shape, *spec.prediction_shape))
      chex.assert_shape(label, (*rows.shape, *spec.shape))
      entries = spec.metrics(prediction, label, rows, batch, constants)
      error = arithmetic.masked_sum(spec.error(prediction, label), rows)
      entries[f"{SCORE}/{target.name}"] = error
      sums |= {f"{task.name}/{name}": entry for name, entry in entries.items()}
  return sums


def training_sums(
  tasks: Sequence[tasks_lib.TaskConfig],
  infos: Mapping[str, info_lib.DatasetInfo],
  batch: batch_lib.Batch,
  predictions: Mapping[str, jax.Array],
) -> Sums:
  """The one metric of every target that lines of the training log tell.

  Args:
    tasks: see `batch_sums`.
    infos: see `batch_sums`.
    batch: see `batch_sums`.
    predictions: see `batch_sums`.

  Returns:
    "dataset/metric" → (sum, count), see `targets.spec.TargetSpec.shown_metrics`.
  """
  wanted = {
    f"{task.name}/{target.spec.shown_metrics('')[0].name}"
    for task in tasks
    for target in task.learned
  }
  sums = batch_sums(tasks, infos, batch, predictions)
  return {name: entry for name, entry in sums.items() if name in wanted}


def summarise(batches: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
  """Metrics from the sums of all batches, added up in float64.

  Args:
    batches: what `batch_sums` gave, as host values.

  Returns:
    Every metric with a count; "dataset/score", the sum over its targets of their
    normalised errors; and "score", its mean over datasets. Lower is better.
  """
  values: dict[str, tuple[list[float], list[float]]] = {}
  for sums in batches:
    for name, (total, count) in sums.items():
      totals, counts = values.setdefault(name, ([], []))
      totals.append(float(total))
      counts.append(float(count))
  metrics: dict[str, float] = {}
  scores: dict[str, float] = {}
  for name, (totals, counts) in values.items():
    count = math.fsum(counts)
    if not count:
      continue
    mean = math.fsum(totals) / count
    dataset, _, metric = name.partition("/")
    if metric.startswith(f"{SCORE}/"):
      scores[dataset] = scores.get(dataset, 0.0) + mean
    else:
      metrics[name] = math.sqrt(mean) if name.endswith(arithmetic.ROOT) else mean
  metrics |= {f"{dataset}/{SCORE}": value for dataset, value in scores.items()}
  if scores:
    metrics[SCORE] = math.fsum(scores.values()) / len(scores)
  return metrics


def names(
  tasks: Sequence[tasks_lib.TaskConfig],
  infos: Mapping[str, info_lib.DatasetInfo],
  example: batch_lib.Batch,
) -> list[str]:
  """Names of the metrics that `summarise` gives where all labels occur.

  Args:
    tasks: tasks of the model.
    infos: scales by dataset name.
    example: a batch, for shapes; nothing is computed.
  """
  sums = lambda batch: batch_sums(tasks, infos, batch, zero_predictions(tasks, batch))
  return list(summarise([dict.fromkeys(jax.eval_shape(sums, example), (0.0, 1.0))]))


def zero_predictions(
  tasks: Sequence[tasks_lib.TaskConfig], batch: batch_lib.Batch
) -> dict[str, jax.Array]:
  """What a model without any knowledge predicts: the references, zero forces.

  Args:
    tasks: tasks of the model.
    batch: structures with normalised targets.

  Returns:
    Zeros of the shapes of predictions by target name.
  """
  zeros = {}
  for spec in (target.spec for task in tasks for target in task.targets):
    if spec.name in batch.targets:
      shape = batch.targets[spec.name].shape
      rows = shape[: len(shape) - len(spec.shape)]
      zeros[spec.name] = jnp.zeros((*rows, *spec.prediction_shape), jnp.float32)
  return zeros


def primary_metric(task: tasks_lib.TaskConfig) -> str:
  """Validation metric of a task, lower is better, e.g. "qm9_u0/U_0_mae".

  It is the error of the one target that has a loss; where several have, the sum of
  their normalised errors.
  """
  if len(task.learned) != 1:
    return f"{task.name}/{SCORE}"
  return f"{task.name}/{task.learned[0].spec.primary_metric}"
