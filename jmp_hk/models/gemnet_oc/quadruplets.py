"""Quadruplet interaction in O(edges × neighbors), without a list of quadruplets.

For a main edge c→a the published interaction sums over q = (b→a) and f = (d→b)

    Y_l1(cos φ_cab) Y_l2(cos θ_cabd) w_fq.

θ is the dihedral about q, so with azimuths α about q, Y_l2(cos θ) is a cosine series in
k(α_c - α_d), and the sum over d is taken once per q as Fourier sums M_q[k]. Exact;
derived in docs/model.md.
"""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import jraph

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import edges as edges_lib
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import interactions
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.models.gemnet_oc import shared_bases

gather_rows = edges_lib.gather_rows


class QuadrupletInteraction(hk.Module):
  """Messages from edges d→b to edges c→a over the edges b→a of the qint graph."""

  def __init__(
    self,
    config: config_lib.BilinearConfig,
    *,
    dropout: float = 0.0,
    name: str = "quad_interaction",
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
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> jax.Array:
    """Maps edge embeddings [E, edge] to an update [E, edge]."""
    x = interactions.gated_down_projection(
      m,
      bases.quad_radial,
      geometry.main.mask,
      self._config.in_channels,
      dense_name="dense_db",
      dropout=self._dropout,
    )
    messages = self._messages(x, batch, geometry, bases)
    sums = _sum_quadruplets(messages, batch, geometry, bases)
    x = jnp.einsum("ems,esc->emc", bases.quad_spherical.astype(x.dtype), sums)
    x = layers.Dense(self._config.out_channels, name="mlp_sbf")(
      x.reshape(x.shape[0], -1)
    )
    x = scale_factor.ScaleFactor(name="scale_sbf_sum")(
      x,
      rows=lambda: (x, geometry.main.mask),
      reference=lambda: (messages, _multiplicity(batch, geometry)),
    )
    return interactions.symmetric_up_projection(
      x, m.shape[-1], batch.graphs.reverse_edge, self._dropout
    )

  @hk.transparent
  def _messages(self, x, batch, geometry, bases) -> jax.Array:
    """w_fq for every qint edge q = (b→a) and slot of b's table row, [Q, K, c]."""
    graphs = batch.graphs
    inputs = gather_rows(x, graphs.main_table[graphs.qint.senders])
    circular = bases.quad_circular
    gated = inputs * layers.Dense(x.shape[-1], name="mlp_cbf")(circular)
    mask = geometry.quadruplets.input_mask
    return scale_factor.ScaleFactor(name="scale_cbf")(
      gated, rows=lambda: (gated, mask), reference=lambda: (inputs, mask)
    )


def _sum_quadruplets(
  messages: jax.Array,
  batch: batch_lib.Batch,
  geometry: geometry_lib.Geometry,
  bases: shared_bases.SharedBases,
) -> jax.Array:
  """Sums messages over q and f for every main edge.

  Args:
    messages: [Q, K, c].
    batch: packed structures.
    geometry: its geometry.
    bases: its bases.

  Returns:
    [E, (L + 1)·L, c], ordered by (Fourier order k, Legendre order l1), with those for
    cos θ = 0 in place of order L, see `SharedBases.quad_spherical`.
  """
  graphs = batch.graphs
  order = geometry.quadruplets.cos_abd.shape[1]
  dtype = messages.dtype
  fourier = jnp.einsum(
    "qkj,qjc->qkc", geometry.quadruplets.input_weights.astype(dtype), messages
  )
  # Per order the sums that go with cos kα_c and sin kα_c (sin 0 is zero, so what
  # stands beside it is of no matter); last those for cos θ = 0, see
  # `shared_bases.quad_output_weights`.
  constant = fourier[:, :1]
  pairs = jnp.stack(
    [
      fourier[:, : order + 1],
      jnp.concatenate([constant, fourier[:, order + 1 :], constant], axis=1),
    ],
    axis=2,
  )
  places = edges_lib.places(batch, graphs.qint, graphs.qint_table)
  pairs = indexing.to_table(pairs, places)  # [N, W, L + 1, 2, c]
  pairs = pairs.transpose(0, 2, 3, 1, 4)
  pairs = pairs.reshape(*pairs.shape[:2], -1, pairs.shape[-1])
  sums = jnp.einsum("nkxs,nksc->nkxc", bases.quad_output.astype(dtype), pairs)
  num_atoms, width = graphs.main_table.shape
  sums = sums.reshape(num_atoms, order + 1, width, order, -1)
  # [E, L + 1, L, c]
  sums = interactions.table_to_edges(sums, batch, slot_axis=2)
  regular, perpendicular = _excluded(messages, batch, geometry)
  regular = jnp.broadcast_to(regular, (len(sums), order, *regular.shape[2:]))
  sums -= jnp.concatenate([regular, perpendicular[:, None]], axis=1)
  return sums.reshape(len(sums), (order + 1) * order, -1)


def _excluded(messages, batch, geometry) -> tuple[jax.Array, jax.Array]:
  """Terms with d = c, which the sums over d contain and the published sum does not.

  Returns:
    Terms of dihedral zero, by Fourier order [E, L, L, c] or, if all are alike,
    [E, 1, L, c], and those with collinear atoms, which were counted with cos θ = 0,
    [E, L, c].
  """
  graphs = batch.graphs
  quads = geometry.quadruplets
  take = functools.partial(interactions.table_to_edges, batch=batch)
  index = graphs.quad_exclusion[graphs.main.receivers, graphs.main_slot]  # [E, W]
  edges = graphs.qint_table[graphs.main.receivers]
  # For an edge b→a each c→b in the table of b belongs to one c→a.
  take_terms = functools.partial(
    indexing.take_distinct,
    index=edges * messages.shape[1] + index,
    present=index >= 0,
  )
  terms = take_terms(messages.reshape(-1, messages.shape[-1]))  # [E, W, c]
  cos_cab = take(quads.cos_cab).astype(messages.dtype)  # [E, W, L]
  cos_cab = jnp.where((index >= 0)[..., None], cos_cab, 0)
  # Near the threshold the atom may count as collinear seen from b but not from a.
  order = quads.cos_abd.shape[1]
  collinear = jnp.maximum(
    take(quads.collinear), take_terms(quads.input_weights[:, order].reshape(-1))
  ).astype(messages.dtype)[..., None]
  regular, perpendicular = cos_cab * (1 - collinear), cos_cab * collinear
  if graphs.cutoffs is None:
    both = jnp.concatenate([regular, perpendicular], axis=-1)
    both = jnp.einsum("ewl,ewc->elc", both, terms)
    return both[:, None, :order], both[:, order:]
  # cos k(α_c - α_d) is one for d = c, but its smooth weights are not.
  of_d = quads.input_weights.transpose(0, 2, 1)
  of_d = take_terms(of_d.reshape(-1, of_d.shape[-1]))  # [E, W, 2L]
  of_c = take(quads.output_phases, slot_axis=2).transpose(2, 0, 3, 1)  # [2, E, W, L]
  cos_dihedral = of_c[0] * of_d[..., :order]
  cos_dihedral = cos_dihedral.at[..., 1:].add(of_c[1, ..., 1:] * of_d[..., order + 1 :])
  cos_dihedral = cos_dihedral.astype(messages.dtype)
  perpendicular = jnp.einsum("ewl,ewc->elc", perpendicular, terms)
  return jnp.einsum("ewk,ewl,ewc->eklc", cos_dihedral, regular, terms), perpendicular


def _multiplicity(batch, geometry) -> jax.Array:
  """[Q, K]: in how many quadruplets each message takes part (for fitting)."""
  graphs = batch.graphs
  quads = geometry.quadruplets
  num_edges, width = quads.input_mask.shape
  counts = jraph.segment_sum(
    quads.output_mask.sum(1).reshape(-1),
    jnp.where(graphs.qint_table < 0, num_edges, graphs.qint_table).reshape(-1),
    num_edges + 1,
  )[:num_edges]
  excluded = (graphs.quad_exclusion >= 0) & quads.output_mask
  edges = jnp.broadcast_to(graphs.qint_table[:, None], graphs.quad_exclusion.shape)
  slots = jnp.where(excluded, edges * width + graphs.quad_exclusion, num_edges * width)
  removed = jraph.segment_sum(
    excluded.astype(counts.dtype).reshape(-1),
    slots.reshape(-1),
    num_edges * width + 1,
  )[:-1].reshape(num_edges, width)
  return jnp.where(quads.input_mask, counts[:, None] - removed, 0)
