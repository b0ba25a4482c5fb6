"""Triplet, atom→edge, edge→atom and atom-pair interactions (GemNet-OC, section 4)."""

from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import edges as edges_lib
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.models.gemnet_oc import shared_bases

gather_rows = edges_lib.gather_rows


def gated_down_projection(
  x: jax.Array,
  radial: jax.Array,
  mask: jax.Array,
  channels: int,
  *,
  dense_name: str,
  dropout: float,
  gather: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
  """Dense layer, product with a radial filter, projection to few channels.

  Args:
    x: [rows, width].
    radial: [e, rbf] radial embedding of the edges that carry the message.
    mask: [e] bool, real edges.
    channels: output width.
    dense_name: of the first layer.
    dropout: rate.
    gather: from rows to edges, applied after the first layer.

  Returns:
    [e, channels].
  """
  x = layers.Dense(x.shape[-1], activation=True, dropout=dropout, name=dense_name)(x)
  x = gather(x)
  gated = x * layers.Dense(x.shape[-1], name="mlp_rbf")(radial)
  gated = scale_factor.ScaleFactor(name="scale_rbf")(
    gated, rows=lambda: (gated, mask), reference=lambda: (x, mask)
  )
  return layers.Dense(
    channels, activation=True, dropout=dropout, name="down_projection"
  )(gated)


def symmetric_up_projection(
  x: jax.Array, channels: int, reverse: jax.Array, dropout: float
) -> jax.Array:
  """Sum of two projections, one of them of the reverse edge, over √2."""
  forward = layers.Dense(
    channels, activation=True, dropout=dropout, name="up_projection_ca"
  )(x)
  backward = layers.Dense(
    channels, activation=True, dropout=dropout, name="up_projection_ac"
  )(x)
  return layers.skip(forward, backward[reverse])


def table_to_edges(table: jax.Array, batch: batch_lib.Batch) -> jax.Array:
  """Rows of an [N, K, …] per-slot table for each main edge, [E, …]."""
  return table[batch.main.receivers, batch.main_slot]


class _CircularInteraction(hk.Module):
  """What the three interactions with one angle have in common."""

  def __init__(self, config: config_lib.GemNetOCConfig, name: str):
    super().__init__(name=name)
    self._config = config

  @hk.transparent
  def _bilinear(self, sums, mask, reference):
    """[rows, cbf, c] to [rows, triplet_out], scaled."""
    x = layers.Dense(self._config.triplet_out_channels, name="mlp_cbf")(
      sums.reshape(sums.shape[0], -1)
    )
    return scale_factor.ScaleFactor(name="scale_cbf_sum")(
      x, rows=lambda: (x, mask), reference=reference
    )

  @hk.transparent
  def _to_edges(self, angular, inputs, circular, batch):
    """Sums inputs per main edge and order, then weights the orders radially."""
    sums = jnp.einsum("nilj,njc->nilc", angular.astype(inputs.dtype), inputs)
    sums = table_to_edges(sums, batch)
    return jnp.einsum("eml,elc->emc", circular.astype(inputs.dtype), sums)


class TripletInteraction(_CircularInteraction):
  """Messages from edges b→a to edges c→a, b ≠ c."""

  def __call__(
    self,
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> jax.Array:
    """Maps edge embeddings [E, edge] to an update [E, edge]."""
    config, mask = self._config, geometry.main.mask
    x = gated_down_projection(
      m,
      bases.triplet_radial,
      mask,
      config.triplet_in_channels,
      dense_name="dense_ba",
      dropout=config.dropout,
    )
    inputs = gather_rows(x, batch.main_table)
    sums = self._to_edges(geometry.edge_edge, inputs, bases.triplet_circular, batch)
    x = self._bilinear(sums, mask, lambda: (inputs, geometry.edge_edge_mask.sum(1)))
    return symmetric_up_projection(
      x, config.edge_channels, batch.reverse_edge, config.dropout
    )


class AtomEdgeInteraction(_CircularInteraction):
  """Messages from atoms b, over a2ee2a edges b→a, to main edges c→a."""

  def __call__(
    self,
    h: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> jax.Array:
    """Maps atom embeddings [N, atom] to an update of edges [E, edge]."""
    config = self._config
    x = gated_down_projection(
      h,
      bases.atom_edge_radial,
      geometry.a2ee2a.mask,
      config.triplet_in_channels,
      dense_name="dense_ba",
      dropout=config.dropout,
      gather=lambda x: x[batch.a2ee2a.senders],
    )
    inputs = gather_rows(x, batch.a2ee2a_table)
    sums = self._to_edges(geometry.edge_atom, inputs, bases.atom_edge_circular, batch)
    x = self._bilinear(
      sums,
      geometry.main.mask,
      lambda: (inputs, geometry.edge_atom_mask.sum(1)),
    )
    return symmetric_up_projection(
      x, config.edge_channels, batch.reverse_edge, config.dropout
    )


class EdgeAtomInteraction(_CircularInteraction):
  """Messages from main edges b→a, over a2ee2a edges c→a, to the atom a."""

  def __call__(
    self,
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> jax.Array:
    """Maps edge embeddings [E, edge] to an update of atoms [N, atom]."""
    config = self._config
    x = gated_down_projection(
      m,
      bases.edge_atom_radial,
      geometry.main.mask,
      config.triplet_in_channels,
      dense_name="dense_ba",
      dropout=config.dropout,
    )
    inputs = gather_rows(x, batch.main_table)
    circular = bases.edge_atom_circular.astype(inputs.dtype)
    sums = jnp.einsum("nmj,njc->nmc", circular, inputs)
    x = self._bilinear(
      sums, batch.atom_mask, lambda: (inputs, geometry.edge_atom_mask.sum(2))
    )
    return layers.Dense(
      config.atom_channels,
      activation=True,
      dropout=config.dropout,
      name="up_projection_ca",
    )(x)


class AtomPairInteraction(hk.Module):
  """Messages between atoms over the a2a edges.

  The message depends on the sender alone, so the radial weights of a sender's
  periodic images are summed beforehand (`SharedBases.pair_radial`).
  """

  def __init__(self, config: config_lib.GemNetOCConfig, name: str = "atom_interaction"):
    super().__init__(name=name)
    self._config = config

  def __call__(
    self,
    h: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> jax.Array:
    """Maps atom embeddings [N, atom] to an update [N, atom]."""
    config = self._config
    x = layers.Dense(
      config.pair_in_channels,
      activation=True,
      dropout=config.dropout,
      name="down_projection",
    )(h)
    inputs = gather_rows(x, batch.a2a_senders)
    sums = jnp.einsum("npr,npc->nrc", bases.pair_radial.astype(x.dtype), inputs)
    y = layers.Dense(config.pair_out_channels, name="bilinear")(
      sums.reshape(sums.shape[0], -1)
    )
    y = scale_factor.ScaleFactor(name="scale_rbf_sum")(
      y,
      rows=lambda: (y, batch.atom_mask),
      reference=lambda: (x[batch.a2a.senders], geometry.a2a.mask),
    )
    return layers.Dense(
      config.atom_channels,
      activation=True,
      dropout=config.dropout,
      name="up_projection",
    )(y)
