"""Losses of all targets, as sums and counts that add up over microbatches."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import chex
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.targets import config as tasks_lib

Terms = dict[str, tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What the loss averages over.

  Attributes:
    structure_wise: average per-atom losses over the atoms of each structure first
      and then over structures, so that large structures do not drown small ones
      (JMP, section 3.2). False averages over all atoms of the batch.
    free_atoms_only: leave fixed atoms out of per-atom losses. The published
      pre-training counts them.
  """

  structure_wise: bool = True
  free_atoms_only: bool = False


def loss_terms(
  config: LossConfig,
  tasks: Sequence[tasks_lib.TaskConfig],
  batch: batch_lib.Batch,
  predictions: Mapping[str, jax.Array],
) -> Terms:
  """Computes the sum and the count of every target's loss.

  The loss of a step is Σ over targets of (Σ over microbatches of sum) / (Σ of count).
  Counts depend on the batch alone.

  Args:
    config: what is averaged over.
    tasks: tasks of the model; `batch.task` indexes them.
    batch: packed structures with normalised `targets`.
    predictions: predictions of the model, in the same units.

  Returns:
    Target name to (sum of losses times their coefficients, number of structures or
    atoms averaged over). Targets whose coefficient is zero in every task are left
    out.

  Raises:
    KeyError: a target with a loss is missing in the batch.
  """
  terms = {}
  for target, coefficients in _active_targets(tasks):
    if target.name not in batch.targets:
      raise KeyError(
        f"The loss needs the label {target.name!r}, but batches hold only "
        f"{sorted(batch.targets)}."
      )
    spec = target.spec
    mask = batch.atom_mask if spec.per_atom else batch.graph_mask
    prediction, label = predictions[target.name], batch.targets[target.name]
    chex.assert_shape(prediction, (*mask.shape, *spec.prediction_shape))
    chex.assert_shape(label, (*mask.shape, *spec.shape))
    if target.allow_missing:
      # Before the loss, so that what stands for missing labels has no gradient.
      label, has_label = spec.split_missing(label)
      mask &= has_label
    losses = spec.loss(prediction, label)
    chex.assert_equal_shape([losses, mask])
    owned, coefficient = _per_graph(coefficients, batch)
    if spec.per_atom:
      mask &= owned[batch.node_graph]
      terms[target.name] = _atom_terms(config, batch, losses, mask, coefficient)
    else:
      owned &= mask
      total = jnp.where(owned, coefficient * losses, 0).sum()
      terms[target.name] = total, owned.sum().astype(total.dtype)
  return terms


def mean_loss(terms: Terms) -> jax.Array:
  """The loss of a single batch from its terms."""
  means = [total / jnp.maximum(count, 1) for total, count in terms.values()]
  return jnp.asarray(sum(means))


def _active_targets(
  tasks: Sequence[tasks_lib.TaskConfig],
) -> list[tuple[tasks_lib.TargetConfig, list[float | None]]]:
  """Targets with a loss, and per task the coefficient or None where it lacks them.

  Labels of a target may be missing where any of its tasks allows it.
  """
  targets: dict[str, tuple[tasks_lib.TargetConfig, list[float | None]]] = {}
  for i, task in enumerate(tasks):
    for target in task.targets:
      entry = targets.setdefault(target.name, (target, [None] * len(tasks)))
      entry[1][i] = target.loss_coefficient
      if target.allow_missing:
        targets[target.name] = target, entry[1]
  return [entry for entry in targets.values() if any(entry[1])]


def _per_graph(
  coefficients: Sequence[float | None], batch: batch_lib.Batch
) -> tuple[jax.Array, jax.Array]:
  """Whether each structure has the target, and its coefficient; [G] each."""
  owned = jnp.asarray([c is not None for c in coefficients])[batch.task]
  values = jnp.asarray([c or 0.0 for c in coefficients], batch.positions.dtype)
  return owned & batch.graph_mask, values[batch.task]


def _atom_terms(
  config: LossConfig,
  batch: batch_lib.Batch,
  losses: jax.Array,
  mask: jax.Array,
  coefficient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Losses of the atoms in a mask [N], averaged as configured."""
  if config.free_atoms_only:
    mask &= ~batch.fixed
  losses = jnp.where(mask, losses * coefficient[batch.node_graph], 0)
  if not config.structure_wise:
    return losses.sum(), mask.sum().astype(losses.dtype)
  num_graphs = batch.graph_mask.shape[0]
  weights = mask.astype(losses.dtype)
  totals, counts = (
    jax.ops.segment_sum(x, batch.node_graph, num_graphs, indices_are_sorted=True)
    for x in (losses, weights)
  )
  means = totals / jnp.maximum(counts, 1)
  return means.sum(), (counts > 0).sum().astype(losses.dtype)
