"""A small message-passing backbone that only tests use.

It shows that GemNet-OC is one backbone among others: nothing outside of this file knows
of it. The network is a SchNet (Schütt et al. 2017, arXiv 1706.08566) with continuous
filters of Gaussian distances, written with jraph's interaction network.
"""

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jmp_hk import pytrees
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import layout as layout_lib
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors
from jmp_hk.models import backbone as backbone_lib


@dataclasses.dataclass(frozen=True)
class SchNetBudget(budget_lib.Budget):
  """Static sizes: `num_edges` directed edges beside structures and atoms."""

  main_field: ClassVar[str] = "num_edges"

  num_edges: int = budget_lib.count(round_to=16)


@dataclasses.dataclass(frozen=True)
class SchNetStructureGraphs(builder_lib.StructureGraphs):
  """The edges of one structure, sorted by receiver."""

  edges: neighbors.EdgeSet


@pytrees.dataclass
class SchNetGraphs:
  """The packed edges; `graph.edges` holds their cell offsets [E, 3]."""

  graph: jraph.GraphsTuple

  def budget(self, num_graphs: int, num_atoms: int) -> SchNetBudget:
    """See `PackedGraphs`."""
    return SchNetBudget(num_graphs, num_atoms, np.shape(self.graph.senders)[-1])


@dataclasses.dataclass(frozen=True)
class SchNetGraphBuilder(builder_lib.GraphBuilder):
  """One graph of the nearest neighbors within the cutoff."""

  budget_type: ClassVar[type[SchNetBudget]] = SchNetBudget

  def build(
    self,
    structure: structure_lib.Structure,
    config: graph_config.GraphConfig,
    rng: np.random.Generator | None = None,
  ) -> SchNetStructureGraphs:
    """See `GraphBuilder`."""
    edges = neighbors.find_neighbors(structure, config.cutoff)
    if rng is not None and self.edge_dropout:
      edges = edges.take(rng.random(len(edges)) >= self.edge_dropout)
    limit = config.max_neighbors_of(structure.num_atoms)
    edges = nearest.nearest(edges, limit, neighbors.home_cells(structure)).edges
    return SchNetStructureGraphs(structure, edges)

  def sizes(self, graphs: SchNetStructureGraphs) -> SchNetBudget:
    """See `GraphBuilder`."""
    return SchNetBudget(1, graphs.structure.num_atoms, len(graphs.edges))

  def pack(
    self, graphs: Sequence[SchNetStructureGraphs], layout: layout_lib.Layout
  ) -> SchNetGraphs:
    """See `GraphBuilder`."""
    edges = [entry.edges for entry in graphs]
    return SchNetGraphs(graph=layout.edges(edges, layout.budget.num_edges))

  def width_limits(
    self, configs: Sequence[graph_config.GraphConfig], most_atoms: int
  ) -> dict[str, int]:
    """See `GraphBuilder`; there are no tables."""
    del configs, most_atoms
    return {}

  def limits(
    self, structure: structure_lib.Structure, config: graph_config.GraphConfig
  ) -> dict[str, int]:
    """See `GraphBuilder`."""
    limit = config.max_neighbors_of(structure.num_atoms)
    return {"num_edges": max(structure.num_atoms * limit, 1)}

  def extrapolate(
    self, known: SchNetBudget, num_atoms: int, config: graph_config.GraphConfig
  ) -> SchNetBudget:
    """See `GraphBuilder`."""
    limit = config.max_neighbors_of(num_atoms)
    return SchNetBudget(1, num_atoms, num_atoms * limit)


@backbone_lib.register("schnet")
@dataclasses.dataclass(frozen=True)
class SchNetConfig(backbone_lib.BackboneConfig):
  """Sizes of the network.

  Attributes:
    num_blocks: rounds of message passing.
    num_radial: Gaussians of the distances.
    radial_cutoff: largest distance that the Gaussians cover, in Å.
  """

  num_blocks: int = 2
  num_radial: int = 16
  radial_cutoff: float = 8.0

  @property
  def graph_builder(self) -> SchNetGraphBuilder:
    """See `BackboneConfig`."""
    return SchNetGraphBuilder(self.edge_dropout)

  @property
  def dense_modules(self) -> tuple[type[hk.Module], ...]:
    """See `BackboneConfig`."""
    return (hk.Linear,)

  def embed(
    self, h: jax.Array, batch: batch_lib.Batch, *, is_training: bool
  ) -> backbone_lib.Embeddings:
    """See `BackboneConfig`."""
    if is_training and self.dropout:
      h = hk.dropout(hk.next_rng_key(), self.dropout, h)
    return SchNet(self)(h, batch)


class SchNet(hk.Module):
  """The network."""

  def __init__(self, config: SchNetConfig, name: str = "backbone"):
    super().__init__(name=name)
    self._config = config

  def __call__(self, h: jax.Array, batch: batch_lib.Batch) -> backbone_lib.Embeddings:
    """Maps atom embeddings [N, channels] to the final embeddings."""
    graph = batch.graphs.graph
    cell = batch.cell[batch.node_graph[graph.receivers]]
    offsets = graph.edges["cell_offsets"].astype(cell.dtype)
    vectors = batch.positions[graph.receivers] - batch.positions[graph.senders]
    vectors -= jnp.einsum("ei,eij->ej", offsets, cell)
    mask = batch.atom_mask[graph.receivers][:, None]
    squares = jnp.where(mask, vectors**2, 1.0).sum(-1, keepdims=True)
    distances = jnp.sqrt(squares)
    graph = graph._replace(nodes=h, edges=jnp.where(mask, self._radial(distances), 0))
    for index in range(self._config.num_blocks):
      graph = self._block(graph, f"block_{index}")
    nodes = jnp.where(batch.atom_mask[:, None], graph.nodes, 0)
    edges = None
    if self._config.direct_vectors:
      both = jnp.concatenate([nodes[graph.senders], nodes[graph.receivers]], axis=-1)
      edges = jax.nn.silu(hk.Linear(h.shape[-1], name="edges")(both))
      edges = jnp.where(mask, edges, 0)
    return backbone_lib.Embeddings(
      nodes, edges, jnp.where(mask, vectors / distances, 0), graph.receivers
    )

  @hk.transparent
  def _radial(self, distances: jax.Array) -> jax.Array:
    """Gaussians [E, num_radial] of distances [E, 1], zero from the cutoff on."""
    config = self._config
    centres = jnp.linspace(0, config.radial_cutoff, config.num_radial)
    width = config.radial_cutoff / config.num_radial
    envelope = 0.5 * (1 + jnp.cos(jnp.pi * distances / config.radial_cutoff))
    envelope = jnp.where(distances < config.radial_cutoff, envelope, 0)
    values = envelope * jnp.exp(-0.5 * ((distances - centres) / width) ** 2)
    return values.astype(distances.dtype)

  @hk.transparent
  def _block(self, graph: jraph.GraphsTuple, name: str) -> jraph.GraphsTuple:
    """One round of message passing; the edges stay what they are."""
    channels = graph.nodes.shape[-1]
    linear = lambda part: hk.Linear(channels, name=f"{name}_{part}")
    radial = graph.edges
    network = jraph.InteractionNetwork(
      update_edge_fn=lambda edges, senders, receivers: (
        linear("message")(senders) * jax.nn.softplus(linear("filter")(edges))
      ),
      update_node_fn=lambda nodes, messages: (
        nodes + linear("update")(jax.nn.silu(messages.astype(nodes.dtype)))
      ),
    )
    return network(graph)._replace(edges=radial)


backbone_lib.register_presets({"schnet_tiny": SchNetConfig(atom_channels=32)})
