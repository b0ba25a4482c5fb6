"""Heads: from embeddings to predictions, built as the spec of a target says."""

from collections.abc import Sequence
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models import grouped_mlp
from jmp_hk.targets import config as tasks_lib


class HeadPlan(NamedTuple):
  """One head of a model: its target and which tasks it serves.

  Attributes:
    target: declaration, from the first task that has it.
    task_head: per task the index of its weights in the stack, or -1.
    num_heads: number of weight sets.
  """

  target: tasks_lib.TargetConfig
  task_head: tuple[int, ...]
  num_heads: int


def plan_heads(tasks: Sequence[tasks_lib.TaskConfig]) -> list[HeadPlan]:
  """Lists the heads of a model in the order in which targets first appear."""
  first = {}
  for task in tasks:
    for target in task.targets:
      if not target.spec.is_derivative:
        first.setdefault(target.name, target)
  plans = []
  for name, target in first.items():
    owners = [any(t.name == name for t in task.targets) for task in tasks]
    index, task_head = 0, []
    for owner in owners:
      task_head.append(index if owner else -1)
      index += owner
    plans.append(HeadPlan(target, tuple(task_head), index))
  return plans


def module_name(target: str) -> str:
  """Name of the Haiku module of a target's head; its parameters are stacked by head."""
  return f"out_{target}"


def output_weights(target: str) -> str:
  """Path of the weights of a head's last layer, which has no bias."""
  return f"{module_name(target)}/linear_{grouped_mlp.NUM_HIDDEN}/w"


def predict(
  plan: HeadPlan, embeddings: backbone_lib.Embeddings, batch: batch_lib.Batch
) -> jax.Array:
  """Predicts one target, with the weights of each structure's own task.

  Args:
    plan: the head; the spec of its target says from which embeddings and how.
    embeddings: embeddings of the backbone.
    batch: packed structures.

  Returns:
    [G, …] or, for targets of atoms, [N, …] in normalised units; zero for padding and
    for structures whose task lacks the target.
  """
  spec = plan.target.spec
  graph_head = jnp.asarray(plan.task_head)[batch.task]
  owned = graph_head >= 0
  # Structures without this target borrow the head of the structures before them, which
  # keeps rows sorted by head; their prediction is set to zero.
  graph_head = jax.lax.cummax(jnp.maximum(graph_head, 0))
  if spec.needs_edges:
    x = _vectors(plan, embeddings, batch, graph_head)
  else:
    x = _mlp(plan, math.prod(spec.prediction_shape))(
      embeddings.nodes, graph_head[batch.node_graph]
    )
  x = spec.transform_atoms(x, batch)
  if spec.per_atom:
    owned = owned[batch.node_graph]
    if not spec.needs_edges:  # No edges lead to atoms of padding.
      x = jnp.where(batch.atom_mask[:, None], x, 0)
  else:
    x = reduce_atoms(x, batch, plan.target.reduction)
  if -1 in plan.task_head:
    x = jnp.where(owned[:, None], x, 0)
  return x.reshape(-1, *spec.prediction_shape)


def reduce_atoms(
  x: jax.Array, batch: batch_lib.Batch, reduction: tasks_lib.Reduction
) -> jax.Array:
  """Reduces per-atom values over each structure.

  Args:
    x: [N, k].
    batch: packed structures.
    reduction: sum, mean or max over the real atoms.

  Returns:
    [G, k], zero for padding structures.
  """
  chex.assert_rank(x, 2)
  chex.assert_equal_shape_prefix([x, batch.atom_mask], 1)
  num_graphs = batch.graph_mask.shape[0]
  mask = batch.atom_mask[:, None]
  if reduction is tasks_lib.Reduction.MAX:
    lowest = jnp.finfo(x.dtype).min
    y = jax.ops.segment_max(
      jnp.where(mask, x, lowest),
      batch.node_graph,
      num_graphs,
      indices_are_sorted=True,
    )
    return jnp.where(batch.graph_mask[:, None], y, 0)
  y = jax.ops.segment_sum(
    jnp.where(mask, x, 0), batch.node_graph, num_graphs, indices_are_sorted=True
  )
  if reduction is tasks_lib.Reduction.MEAN:
    y = y / jnp.maximum(batch.n_node, 1)[:, None]
  return jnp.where(batch.graph_mask[:, None], y, 0)


def _mlp(plan: HeadPlan, num_outputs: int = 1) -> grouped_mlp.GroupedMLP:
  return grouped_mlp.GroupedMLP(
    plan.num_heads,
    num_outputs=num_outputs,
    bias=plan.target.head_bias,
    name=module_name(plan.target.name),
  )


def _vectors(
  plan: HeadPlan,
  embeddings: backbone_lib.Embeddings,
  batch: batch_lib.Batch,
  graph_head: jax.Array,
) -> jax.Array:
  """A vector per atom, [N, 3]: Σ over edges into it of a number times the direction."""
  edges, vectors, receivers = embeddings.edges, embeddings.vectors, embeddings.receivers
  if edges is None or vectors is None or receivers is None:
    raise ValueError(
      f"Target {plan.target.name!r} of kind {plan.target.kind!r} is predicted from "
      "edges, but the backbone gives no embeddings of edges."
    )
  chex.assert_equal_shape_prefix([edges, vectors, receivers], 1)
  x = _mlp(plan)(edges, graph_head[batch.node_graph[receivers]])
  return jax.ops.segment_sum(
    x * vectors, receivers, batch.positions.shape[0], indices_are_sorted=True
  )
