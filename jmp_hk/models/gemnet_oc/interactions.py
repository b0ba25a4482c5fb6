"""Triplet, atom→edge, edge→atom and atom-pair interactions (GemNet-OC, section 4)."""

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import edges as edges_lib
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.models.gemnet_oc import shared_bases


def gated_down_projection(
  x: jax.Array,
  radial: jax.Array,
  mask: jax.Array,
  channels: int,
  *,
  dense_name: str,
  dropout: float,
  gather: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Dense layer, product with a radial filter, projection to few channels.

  Args:
    x: [rows, width].
    radial: [e, rbf] radial embedding of the edges that carry the message.
    mask: [e] bool, real edges.
    channels: output width.
    dense_name: name of the first layer.
    dropout: rate.
    gather: from rows to edges, applied after the first layer; None where the rows are
      those edges.

  Returns:
    [e, channels].
  """
  width = x.shape[-1]
  dense = layers.Dense(width, activation=True, dropout=dropout, name=dense_name)
  gate = layers.Dense(width, name="mlp_rbf")
  scale = scale_factor.ScaleFactor(name="scale_rbf")
  if gather is None and not dropout:
    product = layers.GatedDense(name="gated")
    w = dense.weight(width, x.dtype)
    g = gate.weight(radial.shape[-1], x.dtype)
    scaled = scale(
      g,
      rows=lambda: (product(x, w, radial, g), mask),
      reference=lambda: (dense(x), mask),
    )
    gated = product(x, w, radial, scaled)
  else:
    y = dense(x) if gather is None else gather(dense(x))
    gated = y * gate(radial)
    gated = scale(gated, rows=lambda: (gated, mask), reference=lambda: (y, mask))
  return layers.Dense(
    channels, activation=True, dropout=dropout, name="down_projection"
  )(gated)


def symmetric_up_projection(
  x: jax.Array, channels: int, reverse: jax.Array, dropout: float
) -> jax.Array:
  """Sum of two projections, one of them of the reverse edge, over √2."""
  forward, backward = (
    layers.Dense(
      channels, activation=True, dropout=dropout, name=f"up_projection_{way}"
    )
    for way in ("ca", "ac")
  )
  if dropout:
    return layers.skip(forward(x), indexing.swap_rows(backward(x), reverse))
  weights = (layer.weight(x.shape[-1], x.dtype) for layer in (forward, backward))
  return layers.SymmetricSum(name="up_projection")(x, *weights, reverse)


def bilinear(
  sums: jax.Array, channels: int, mask: jax.Array, reference: scale_factor.Rows
) -> jax.Array:
  """The bilinear layer of an angular interaction, scaled.

  Args:
    sums: [rows, cbf, c] messages summed over neighbors and angular functions.
    channels: output width.
    mask: [rows] bool, rows that count.
    reference: rows whose variance the result is to have, see `ScaleFactor`.

  Returns:
    [rows, channels].
  """
  x = layers.Dense(channels, name="mlp_cbf")(sums.reshape(sums.shape[0], -1))
  return scale_factor.ScaleFactor(name="scale_cbf_sum")(
    x, rows=lambda: (x, mask), reference=reference
  )


def table_to_edges(
  table: jax.Array,
  batch: batch_lib.Batch,
  *,
  slot_axis: int = 1,
) -> jax.Array:
  """Rows of an [N, K, …] per-slot table for each main edge, [E, …], zero for padding.

  Args:
    table: what atoms hold for every slot of their row of `main_table`.
    batch: packed structures.
    slot_axis: which axis of the table is K.
  """
  return indexing.from_table(table, main_places(batch), slot_axis)


def main_places(batch: batch_lib.Batch) -> indexing.Places:
  """Where the main edges stand in the table of their receivers."""
  return edges_lib.places(batch, batch.graphs.main, batch.graphs.main_table)


class Neighborhood(NamedTuple):
  """What carries messages to the main edges of an atom.

  Sizes: N atoms, E main edges, K main table width, e edges that carry messages, W the
  width of their table, L Legendre orders.

  Attributes:
    radial: [e, rbf] radial embedding of the edges that carry messages.
    mask: [e] bool, real edges among them.
    places: where those edges stand in the table [N, W] of their receivers.
    angular: [N, K, L, W] Y_l of the angle between main edge and message.
    angular_mask: [N, K, W] bool, pairs that count.
    circular: [E, cbf, L] radial weights of the main edges per Legendre order.
  """

  radial: jax.Array
  mask: jax.Array
  places: indexing.Places
  angular: jax.Array
  angular_mask: jax.Array
  circular: jax.Array


def triplet_neighborhood(
  batch: batch_lib.Batch,
  geometry: geometry_lib.Geometry,
  bases: shared_bases.SharedBases,
) -> Neighborhood:
  """Messages from edges b→a to edges c→a, b ≠ c."""
  return Neighborhood(
    radial=bases.triplet_radial,
    mask=geometry.main.mask,
    places=main_places(batch),
    angular=geometry.edge_edge,
    angular_mask=geometry.edge_edge_mask,
    circular=bases.triplet_circular,
  )


def atom_edge_neighborhood(
  batch: batch_lib.Batch,
  geometry: geometry_lib.Geometry,
  bases: shared_bases.SharedBases,
) -> Neighborhood:
  """Messages from atoms b, over a2ee2a edges b→a, to main edges c→a."""
  return Neighborhood(
    radial=bases.atom_edge_radial,
    mask=geometry.a2ee2a.mask,
    places=edges_lib.places(batch, batch.graphs.a2ee2a, batch.graphs.a2ee2a_table),
    angular=geometry.edge_atom,
    angular_mask=geometry.edge_atom_mask,
    circular=bases.atom_edge_circular,
  )


class EdgeUpdate(hk.Module):
  """Messages over one angle to the main edges: triplet and atom→edge interactions."""

  def __init__(
    self,
    config: config_lib.BilinearConfig,
    channels: int,
    *,
    dropout: float = 0.0,
    name: str,
  ):
    """Builds the interaction.

    Args:
      config: widths around the bilinear layer.
      channels: width of the edge embeddings.
      dropout: dropout rate of the dense layers.
      name: name of the module.
    """
    super().__init__(name=name)
    self._config = config
    self._channels = channels
    self._dropout = dropout

  def __call__(
    self,
    x: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    neighborhood: Neighborhood,
    gather: Callable[[jax.Array], jax.Array] | None = None,
  ) -> jax.Array:
    """Sums messages over the neighborhood of every main edge.

    Args:
      x: [rows, channels] embeddings that messages are made of.
      batch: packed structures.
      geometry: geometry of the batch.
      neighborhood: what carries the messages.
      gather: from rows of `x` to the edges that carry them; None where they are those.

    Returns:
      [E, edge channels] update of the main edges.
    """
    x = gated_down_projection(
      x,
      neighborhood.radial,
      neighborhood.mask,
      self._config.in_channels,
      dense_name="dense_ba",
      dropout=self._dropout,
      gather=gather,
    )
    inputs = indexing.to_table(x, neighborhood.places)
    angular = neighborhood.angular.astype(inputs.dtype)
    sums = jnp.einsum("nilj,njc->nilc", angular, inputs)
    sums = table_to_edges(sums, batch)
    circular = neighborhood.circular.astype(inputs.dtype)
    sums = jnp.einsum("eml,elc->emc", circular, sums)
    x = bilinear(
      sums,
      self._config.out_channels,
      geometry.main.mask,
      lambda: (inputs, neighborhood.angular_mask.sum(1)),
    )
    return symmetric_up_projection(
      x, self._channels, batch.graphs.reverse_edge, self._dropout
    )


class EdgeAtomInteraction(hk.Module):
  """Messages from main edges b→a, over a2ee2a edges c→a, to the atom a."""

  def __init__(
    self,
    config: config_lib.BilinearConfig,
    channels: int,
    *,
    dropout: float = 0.0,
    name: str = "edge_atom_interaction",
  ):
    """Builds the interaction.

    Args:
      config: widths around the bilinear layer.
      channels: width of the atom embeddings.
      dropout: dropout rate of the dense layers.
      name: name of the module.
    """
    super().__init__(name=name)
    self._config = config
    self._channels = channels
    self._dropout = dropout

  def __call__(
    self,
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> jax.Array:
    """Maps edge embeddings [E, edge] to an update of atoms [N, atom]."""
    x = gated_down_projection(
      m,
      bases.edge_atom_radial,
      geometry.main.mask,
      self._config.in_channels,
      dense_name="dense_ba",
      dropout=self._dropout,
    )
    inputs = indexing.to_table(x, main_places(batch))
    circular = bases.edge_atom_circular.astype(inputs.dtype)
    sums = jnp.einsum("nmj,njc->nmc", circular, inputs)
    x = bilinear(
      sums,
      self._config.out_channels,
      batch.atom_mask,
      lambda: (inputs, geometry.edge_atom_mask.sum(2)),
    )
    return layers.Dense(
      self._channels, activation=True, dropout=self._dropout, name="up_projection_ca"
    )(x)


class AtomPairInteraction(hk.Module):
  """Messages between atoms over the a2a edges.

  The message depends on the sender alone, so the radial weights of a sender's
  periodic images are summed beforehand (`SharedBases.pair_radial`).
  """

  def __init__(
    self,
    config: config_lib.BilinearConfig,
    *,
    dropout: float = 0.0,
    name: str = "atom_interaction",
  ):
    """Builds the interaction.

    Args:
      config: widths around the bilinear layer.
      dropout: dropout rate of the dense layers.
      name: name of the module.
    """
    super().__init__(name=name)
    self._config = config
    self._dropout = dropout

  def __call__(
    self,
    h: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> jax.Array:
    """Maps atom embeddings [N, atom] to an update [N, atom]."""
    x = layers.Dense(
      self._config.in_channels,
      activation=True,
      dropout=self._dropout,
      name="down_projection",
    )(h)
    inputs = edges_lib.gather_rows(x, batch.graphs.a2a_senders)
    sums = jnp.einsum("npr,npc->nrc", bases.pair_radial.astype(x.dtype), inputs)
    y = layers.Dense(self._config.out_channels, name="bilinear")(
      sums.reshape(sums.shape[0], -1)
    )
    y = scale_factor.ScaleFactor(name="scale_rbf_sum")(
      y,
      rows=lambda: (y, batch.atom_mask),
      reference=lambda: (x[batch.graphs.a2a.senders], geometry.a2a.mask),
    )
    return layers.Dense(
      h.shape[-1], activation=True, dropout=self._dropout, name="up_projection"
    )(y)
