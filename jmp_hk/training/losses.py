"""Losses of all targets, as sums and counts that add up over microbatches."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models.gemnet_oc import edges
from jmp_hk.targets import config as tasks_lib

Kind = tasks_lib.TargetKind
Terms = dict[str, tuple[jax.Array, jax.Array]]

# Added to every component of a difference of vectors before its norm is taken, as in
# the published loss (fact 28).
NORM_EPSILON = 1e-6

VECTOR_KINDS = frozenset({Kind.DIRECT_FORCES, Kind.CONSERVATIVE_FORCES, Kind.VECTOR})


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
  tasks: tuple[tasks_lib.TaskConfig, ...],
  batch: batch_lib.Batch,
  predictions: Mapping[str, jax.Array],
) -> Terms:
  """Computes the sum and the count of every target's loss.

  The loss of a step is Σ over targets of (Σ over microbatches of sum) / (Σ of count).
  Counts depend on the batch alone.

  Args:
    config: averages.
    tasks: of the model; `batch.task` indexes them.
    batch: packed structures with normalised `targets`.
    predictions: of the model, in the same units.

  Returns:
    Target name to (sum of losses times their coefficients, number of structures or
    atoms averaged over). Targets whose coefficient is zero in every task are left
    out.

  Raises:
    KeyError: a target with a loss is missing in the batch.
  """
  terms = {}
  for name, kind, coefficients in _active_targets(tasks):
    if name not in batch.targets:
      raise KeyError(
        f"The loss needs the label {name!r}, but batches hold only "
        f"{sorted(batch.targets)}."
      )
    owned, coefficient = _per_graph(coefficients, batch)
    if kind in VECTOR_KINDS:
      terms[name] = _vector_terms(
        config, batch, predictions[name], batch.targets[name], owned, coefficient
      )
    else:
      loss = _graph_loss(kind, predictions[name], batch.targets[name])
      total = jnp.where(owned, coefficient * loss, 0).sum()
      terms[name] = total, owned.sum().astype(total.dtype)
  return terms


def mean_loss(terms: Terms) -> jax.Array:
  """The loss of a single batch from its terms."""
  return sum(total / jnp.maximum(count, 1) for total, count in terms.values())


def _active_targets(tasks):
  """(name, kind, coefficient per task or None where a task lacks the target)."""
  targets = {}
  for i, task in enumerate(tasks):
    for target in task.targets:
      entry = targets.setdefault(target.name, (target.kind, [None] * len(tasks)))
      entry[1][i] = target.loss_coefficient
  return [
    (name, kind, coefficients)
    for name, (kind, coefficients) in targets.items()
    if any(coefficients)
  ]


def _per_graph(coefficients, batch) -> tuple[jax.Array, jax.Array]:
  """Whether each structure has the target, and its coefficient; [G] each."""
  owned = jnp.asarray([c is not None for c in coefficients])[batch.task]
  values = jnp.asarray([c or 0.0 for c in coefficients], batch.positions.dtype)
  return owned & batch.graph_mask, values[batch.task]


def _graph_loss(kind: Kind, prediction: jax.Array, label: jax.Array) -> jax.Array:
  """[G] loss per structure: L1, or cross-entropy of classes."""
  if kind is Kind.BINARY:
    label = label.astype(prediction.dtype)
    return jnp.logaddexp(0.0, prediction) - label * prediction
  if kind is Kind.MULTICLASS:
    log_probabilities = jax.nn.log_softmax(prediction)
    index = label.astype(jnp.int32)[:, None]
    return -jnp.take_along_axis(log_probabilities, index, axis=1)[:, 0]
  return jnp.abs(prediction - label)


def _vector_terms(config, batch, prediction, label, owned, coefficient):
  """L2 norms of per-atom differences, averaged as configured."""
  mask = batch.atom_mask & owned[batch.node_graph]
  if config.free_atoms_only:
    mask &= ~batch.fixed
  difference = jnp.where(mask[:, None], prediction - label + NORM_EPSILON, 0)
  norms = edges.safe_norm(difference) * coefficient[batch.node_graph]
  if not config.structure_wise:
    return norms.sum(), mask.sum().astype(norms.dtype)
  num_graphs = batch.graph_mask.shape[0]
  weights = mask.astype(norms.dtype)
  totals, counts = (
    jax.ops.segment_sum(x, batch.node_graph, num_graphs, indices_are_sorted=True)
    for x in (norms, weights)
  )
  means = totals / jnp.maximum(counts, 1)
  return means.sum(), (counts > 0).sum().astype(norms.dtype)
