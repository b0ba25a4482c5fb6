"""Validation metrics in physical units, one set per dataset and target.

On the device each metric is a sum and a count per batch; the host adds them up in
float64. References cancel in energy errors, so energies are compared as normalised
values and then scaled: nothing is lost to large totals.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import math

import chex
import jax.numpy as jnp
import optax

from jmp_hk import dataset_info as info_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import config as tasks_lib

Sums = dict[str, tuple[chex.Array, chex.Array]]

_MILLI = 1000.0
_COSINE_EPS = 1e-8
_ROOT = "_rmse"  # Metrics that end so are square roots of a mean.
SCORE = "score"

Kind = tasks_lib.TargetKind


def batch_sums(
  tasks: tuple[tasks_lib.TaskConfig, ...],
  infos: Mapping[str, info_lib.DatasetInfo],
  batch: batch_lib.Batch,
  predictions: Mapping[str, chex.Array],
) -> Sums:
  """Sums and counts of all metrics over one packed batch.

  Args:
    tasks: datasets with their targets; `batch.task` indexes this tuple.
    infos: scales by dataset name.
    batch: structures with normalised targets.
    predictions: normalised predictions by target name.

  Returns:
    "dataset/metric" → (sum, count), both [] float. Per target the dataset also has
    "score/target", its error in normalised units.
  """
  sums: Sums = {}
  for index, task in enumerate(tasks):
    graphs = batch.graph_mask & (batch.task == index)
    for target in filter(lambda target: target.is_learned, task.targets):
      entries = _target_sums(target, infos[task.name], batch, predictions, graphs)
      sums |= {f"{task.name}/{name}": entry for name, entry in entries.items()}
  return sums


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
      metrics[name] = math.sqrt(mean) if name.endswith(_ROOT) else mean
  metrics |= {f"{dataset}/{SCORE}": value for dataset, value in scores.items()}
  if scores:
    metrics[SCORE] = math.fsum(scores.values()) / len(scores)
  return metrics


def zero_predictions(
  tasks: tuple[tasks_lib.TaskConfig, ...], batch: batch_lib.Batch
) -> dict[str, chex.Array]:
  """What a model without any knowledge predicts: the references, zero forces.

  Args:
    tasks: of the model.
    batch: structures with normalised targets.

  Returns:
    Zeros of the shapes of predictions by target name.
  """
  zeros = {name: jnp.zeros_like(x, jnp.float32) for name, x in batch.targets.items()}
  for target in (target for task in tasks for target in task.targets):
    if target.kind is Kind.MULTICLASS and target.name in zeros:
      shape = (*zeros[target.name].shape, target.num_classes)
      zeros[target.name] = jnp.zeros(shape, jnp.float32)
  return zeros


def primary_metric(task: tasks_lib.TaskConfig) -> str:
  """Validation metric of a task, lower is better, e.g. "qm9_u0/U_0_mae".

  It is the error of the one target that has a loss; where several have, the sum of
  their normalised errors.
  """
  learned = [target for target in task.targets if target.is_learned]
  if len(learned) != 1:
    return f"{task.name}/{SCORE}"
  (target,) = learned
  if target.kind is Kind.ENERGY:
    return f"{task.name}/energy_mae_mev"
  if target.kind in (Kind.DIRECT_FORCES, Kind.CONSERVATIVE_FORCES):
    return f"{task.name}/force_mae_mev_per_angstrom"
  is_class = target.kind in (Kind.BINARY, Kind.MULTICLASS)
  return f"{task.name}/{target.name}_{'cross_entropy' if is_class else 'mae'}"


def _target_sums(
  target: tasks_lib.TargetConfig,
  info: info_lib.DatasetInfo,
  batch: batch_lib.Batch,
  predictions: Mapping[str, chex.Array],
  graphs: chex.Array,
) -> Sums:
  """Metrics of one target over the structures in the mask `graphs`."""
  if target.name not in batch.targets:
    return {}
  prediction, label = predictions[target.name], batch.targets[target.name]
  if target.kind is Kind.BINARY:
    loss = optax.sigmoid_binary_cross_entropy(prediction, label)
    return _classes(target.name, (prediction > 0) == (label > 0.5), loss, graphs)
  if target.kind is Kind.MULTICLASS:
    loss = optax.softmax_cross_entropy_with_integer_labels(prediction, label)
    return _classes(target.name, prediction.argmax(axis=-1) == label, loss, graphs)
  error = prediction - label
  if target.kind is Kind.ENERGY:
    return _energy(error, info.energy_scale, batch, graphs)
  if target.kind in (Kind.DIRECT_FORCES, Kind.CONSERVATIVE_FORCES):
    return _forces(prediction, label, info, batch, graphs)
  scale = info.targets[target.name].std
  mask = graphs
  if target.kind is Kind.VECTOR:
    mask = graphs[batch.node_graph] & batch.atom_mask
  return {
    f"{SCORE}/{target.name}": _sum(jnp.abs(error), mask),
    f"{target.name}_mae": _sum(scale * jnp.abs(error), mask),
    f"{target.name}{_ROOT}": _sum((scale * error) ** 2, mask),
  }


def _energy(
  error: chex.Array, scale: float, batch: batch_lib.Batch, graphs: chex.Array
) -> Sums:
  """Energy MAE in meV, per structure and per atom."""
  error = jnp.abs(error)
  atoms = jnp.maximum(batch.main.n_node, 1)
  return {
    f"{SCORE}/energy": _sum(error, graphs),
    "energy_mae_mev": _sum(error * (scale * _MILLI), graphs),
    "energy_mae_mev_per_atom": _sum(error * (scale * _MILLI) / atoms, graphs),
  }


def _forces(
  prediction: chex.Array,
  label: chex.Array,
  info: info_lib.DatasetInfo,
  batch: batch_lib.Batch,
  graphs: chex.Array,
) -> Sums:
  """Force MAE over components in meV/Å, and mean cosine over atoms."""
  atoms = graphs[batch.node_graph] & batch.atom_mask
  if info.evaluate_free_atoms_only:
    atoms &= ~batch.fixed
  error = jnp.abs(prediction - label)
  norms = jnp.linalg.norm(prediction, axis=-1) * jnp.linalg.norm(label, axis=-1)
  cosine = (prediction * label).sum(axis=-1) / jnp.maximum(norms, _COSINE_EPS)
  return {
    f"{SCORE}/forces": _sum(error, atoms),
    "force_mae_mev_per_angstrom": _sum(error * (info.force_scale * _MILLI), atoms),
    "force_cosine": _sum(cosine, atoms),
  }


def _classes(
  name: str, correct: chex.Array, loss: chex.Array, graphs: chex.Array
) -> Sums:
  """Accuracy and cross-entropy of a classification."""
  return {
    f"{SCORE}/{name}": _sum(loss, graphs),
    f"{name}_accuracy": _sum(correct.astype(loss.dtype), graphs),
    f"{name}_cross_entropy": _sum(loss, graphs),
  }


def _sum(values: chex.Array, mask: chex.Array) -> tuple[chex.Array, chex.Array]:
  """Sum over the masked rows, and the number of values in them."""
  mask = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
  per_row = math.prod(values.shape[1:])
  total = jnp.where(mask, values, 0).sum()
  return total, mask.sum().astype(total.dtype) * per_row
