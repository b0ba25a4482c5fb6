"""Heads: from embeddings to predictions, by kind of target."""

import ase.data
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import grouped_mlp
from jmp_hk.models.gemnet_oc import backbone
from jmp_hk.targets import config as tasks_lib

Kind = tasks_lib.TargetKind

NODE_KINDS = frozenset(
  {Kind.ENERGY, Kind.SCALAR, Kind.SPATIAL_EXTENT, Kind.BINARY, Kind.MULTICLASS}
)
EDGE_KINDS = frozenset({Kind.DIRECT_FORCES, Kind.VECTOR})


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
    y = y / jnp.maximum(batch.main.n_node, 1)[:, None]
  return jnp.where(batch.graph_mask[:, None], y, 0)


def squared_distance_to_centre_of_mass(batch: batch_lib.Batch) -> jax.Array:
  """|r_i - r_com|² in Å² with masses of natural abundance, [N]; padding is zero."""
  masses = jnp.asarray(ase.data.atomic_masses, batch.positions.dtype)
  masses = jnp.where(batch.atom_mask, masses[batch.atomic_numbers], 0)[:, None]
  num_graphs = batch.graph_mask.shape[0]
  total = jax.ops.segment_sum(masses, batch.node_graph, num_graphs)
  centre = jax.ops.segment_sum(
    masses * batch.positions, batch.node_graph, num_graphs
  ) / jnp.where(total > 0, total, 1)
  squares = ((batch.positions - centre[batch.node_graph]) ** 2).sum(-1)
  return jnp.where(batch.atom_mask, squares, 0)


def node_head(
  target: tasks_lib.TargetConfig,
  num_heads: int,
  embeddings: backbone.Embeddings,
  batch: batch_lib.Batch,
  graph_head: jax.Array,
) -> jax.Array:
  """A prediction per structure from atom embeddings.

  Args:
    target: what to predict.
    num_heads: tasks that have this target.
    embeddings: of the backbone.
    batch: packed structures.
    graph_head: [G] index of each structure's head.

  Returns:
    [G], or [G, classes] for multi-class targets; zero for padding.
  """
  outputs = target.num_classes if target.kind is Kind.MULTICLASS else 1
  x = grouped_mlp.GroupedMLP(
    num_heads, num_outputs=outputs, bias=target.head_bias, name=f"out_{target.name}"
  )(embeddings.nodes, graph_head[batch.node_graph])
  if target.kind is Kind.SPATIAL_EXTENT:
    x = x * squared_distance_to_centre_of_mass(batch)[:, None]
  x = reduce_atoms(x, batch, target.reduction)
  return x if target.kind is Kind.MULTICLASS else x[:, 0]


def edge_head(
  target: tasks_lib.TargetConfig,
  num_heads: int,
  embeddings: backbone.Embeddings,
  batch: batch_lib.Batch,
  graph_head: jax.Array,
) -> jax.Array:
  """A vector per atom: the sum over main edges into it of scalar times direction.

  Args and the meaning of `graph_head` as in `node_head`.

  Returns:
    [N, 3], zero for padding.
  """
  receivers = batch.main.receivers
  x = grouped_mlp.GroupedMLP(
    num_heads, bias=target.head_bias, name=f"out_{target.name}"
  )(embeddings.edges, graph_head[batch.node_graph[receivers]])
  return jax.ops.segment_sum(
    x * embeddings.vectors,
    receivers,
    batch.positions.shape[0],
    indices_are_sorted=True,
  )
