"""Interaction and output blocks of GemNet-OC (GemNet-OC, figure 2)."""

from collections.abc import Sequence
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import jraph

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import fusion
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import interactions
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import quadruplets
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.models.gemnet_oc import shared_bases

_SQRT_THIRD = 3**-0.5


def edges_to_atoms(
  m: jax.Array,
  radial: jax.Array,
  batch: batch_lib.Batch,
  mask: jax.Array,
  *,
  channels: int,
  num_residual: int,
  dropout: float,
  correction: float = 1.0,
) -> jax.Array:
  """Radially filtered sum of edge embeddings per atom, then residual layers.

  Called inside the module that owns the parameters' names (an atom update or an output
  block).

  Args:
    m: [E, edge] edge embeddings.
    radial: [E, rbf] radial embedding of the edges.
    batch: packed structures.
    mask: [E] bool, real edges.
    channels: width of the atom embeddings.
    num_residual: number of residual layers.
    dropout: dropout rate of the dense layers.
    correction: factor on the sum (for dropped edges).

  Returns:
    [N, channels].
  """
  gated = _radially_filtered(m, radial, "dense_rbf")
  gated = gated.astype(jnp.promote_types(gated.dtype, jnp.float32))
  x = correction * jraph.segment_sum(
    gated,
    batch.graphs.main.receivers,
    batch.positions.shape[0],
    indices_are_sorted=True,
  )
  x = scale_factor.ScaleFactor(name="scale_sum")(
    x, rows=lambda: (x, batch.atom_mask), reference=lambda: (m, mask)
  ).astype(m.dtype)
  first = 0
  if m.shape[-1] != channels:
    x = layers.Dense(channels, activation=True, dropout=dropout, name="layers_0")(x)
    first = 1
  return layers.residual_stack(x, num_residual, "layers", dropout=dropout, first=first)


def _radially_filtered(x: jax.Array, radial: jax.Array, name: str) -> jax.Array:
  """Edge embeddings [E, edge] times a dense layer `name` on [E, rbf]."""
  dense = layers.Dense(x.shape[-1], name=name)
  w = dense.weight(radial.shape[-1], x.dtype)
  return layers.RadialFilter(name=f"{name}_filter")(x, radial, w)


class AtomUpdate(hk.Module):
  """Update of the atom embeddings from the edges into each atom."""

  def __init__(
    self,
    channels: int,
    num_residual: int,
    *,
    dropout: float = 0.0,
    name: str = "atom_update",
  ):
    """Builds the update.

    Args:
      channels: width of the atom embeddings.
      num_residual: number of residual layers.
      dropout: dropout rate of the dense layers.
      name: name of the module.
    """
    super().__init__(name=name)
    self._channels = channels
    self._num_residual = num_residual
    self._dropout = dropout

  def __call__(
    self, m: jax.Array, radial: jax.Array, batch: batch_lib.Batch, mask: jax.Array
  ) -> jax.Array:
    """Maps edge embeddings [E, edge] to [N, atom]; `mask` [E] marks real edges."""
    return edges_to_atoms(
      m,
      radial,
      batch,
      mask,
      channels=self._channels,
      num_residual=self._num_residual,
      dropout=self._dropout,
    )


class OutputBlock(hk.Module):
  """Per-atom and per-edge features that the final output MLPs combine."""

  def __init__(
    self,
    config: config_lib.OutputConfig,
    *,
    direct_vectors: bool,
    dropped_edges: float = 0.0,
    dropout: float = 0.0,
    name: str,
  ):
    """Builds the block.

    Args:
      config: numbers of residual layers.
      direct_vectors: give features of the edges too.
      dropped_edges: part of the edges that the host left out; sums over edges are
        divided by one minus it.
      dropout: dropout rate of the dense layers.
      name: name of the module.
    """
    super().__init__(name=name)
    self._config = config
    self._direct_vectors = direct_vectors
    self._correction = 1 / (1 - dropped_edges) if dropped_edges else 1.0
    self._dropout = dropout

  def __call__(
    self,
    h: jax.Array,
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> tuple[jax.Array, jax.Array | None]:
    """Maps [N, atom] and [E, edge] to the same shapes; no edges without vectors."""
    config, dropout, mask = self._config, self._dropout, geometry.main.mask
    x = edges_to_atoms(
      m,
      bases.output_radial,
      batch,
      mask,
      channels=h.shape[-1],
      num_residual=config.num_before_skip,
      dropout=dropout,
      correction=self._correction,
    )
    x = layers.skip(x, h)
    x = layers.residual_stack(x, config.num_after_skip, "seq_energy2", dropout=dropout)
    if not self._direct_vectors:
      return x, None
    edges = layers.residual_stack(
      m, config.num_before_skip, "seq_forces", dropout=dropout, scale_first=False
    )
    gated = _radially_filtered(edges, bases.output_radial, "dense_rbf_F")
    gated = scale_factor.ScaleFactor(name="scale_rbf_F")(
      gated, rows=lambda: (gated, mask), reference=lambda: (edges, mask)
    )
    return x, gated


class InteractionBlock(hk.Module):
  """One round of message passing."""

  def __init__(
    self, config: config_lib.InteractionConfig, *, dropout: float = 0.0, name: str
  ):
    """Builds the block.

    Args:
      config: widths of the interactions and numbers of residual layers.
      dropout: dropout rate of the dense layers.
      name: name of the module.
    """
    super().__init__(name=name)
    self._config = config
    self._dropout = dropout

  def __call__(
    self,
    h: jax.Array,
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps [N, atom] and [E, edge] embeddings to updated ones."""
    config, dropout = self._config, self._dropout
    *ways, m = fusion.fan_out(m, 5)
    x, h = self._interact(h, ways, batch, geometry, bases)
    stack = functools.partial(layers.residual_stack, dropout=dropout)
    x = stack(x, config.num_before_skip, "layers_before_skip")
    m = layers.skip(m, x)
    m = stack(m, config.num_after_skip, "layers_after_skip")
    h = stack(h, config.num_atom_embedding, "atom_emb_layers")
    update = AtomUpdate(h.shape[-1], config.num_atom_update, dropout=dropout)
    h = layers.skip(h, update(m, bases.update_radial, batch, geometry.main.mask))
    edges = layers.EdgeEmbedding(m.shape[-1], dropout=dropout, name="concat_layer")(
      h, m, batch
    )
    edges = stack(edges, config.num_concat, "residual_m")
    return h, layers.skip(m, edges)

  @hk.transparent
  def _interact(
    self,
    h: jax.Array,
    ways: Sequence[jax.Array],
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> tuple[jax.Array, jax.Array]:
    """New edge features [E, edge], and atoms [N, atom] with their messages added."""
    config, dropout = self._config, self._dropout
    m, m_triplet, m_quadruplet, m_atom = ways
    context = (batch, geometry, bases)
    edge_update = functools.partial(
      interactions.EdgeUpdate, config.triplet, m.shape[-1], dropout=dropout
    )
    x = layers.Dense(m.shape[-1], activation=True, dropout=dropout, name="dense_ca")(m)
    x += edge_update(name="trip_interaction")(
      m_triplet, batch, geometry, interactions.triplet_neighborhood(*context)
    )
    x += quadruplets.QuadrupletInteraction(config.quadruplet, dropout=dropout)(
      m_quadruplet, *context
    )
    x += edge_update(name="atom_edge_interaction")(
      h,
      batch,
      geometry,
      interactions.atom_edge_neighborhood(*context),
      gather=lambda x: indexing.take_rows(x, batch.graphs.a2ee2a.senders),
    )
    x = fusion.barrier(x * 0.5)
    edge_atom = interactions.EdgeAtomInteraction(
      config.triplet, h.shape[-1], dropout=dropout
    )
    pair = interactions.AtomPairInteraction(config.pair, dropout=dropout)
    h += edge_atom(m_atom, *context) + pair(h, *context)
    return x, fusion.barrier(h * _SQRT_THIRD)
