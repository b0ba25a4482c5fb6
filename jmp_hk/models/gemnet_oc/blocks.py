"""Interaction and output blocks of GemNet-OC (GemNet-OC, figure 2)."""

import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import edge_embedding
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import interactions
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import quadruplets
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.models.gemnet_oc import shared_bases

_SQRT_THIRD = 3**-0.5


class EdgesToAtoms(hk.Module):
  """Radially filtered sum of edge embeddings per atom, then residual layers.

  Called inside the module that owns the parameters' names (an atom update or an
  output block).
  """

  def __init__(self, config: config_lib.GemNetOCConfig, name: str):
    super().__init__(name=name)
    self._config = config

  @hk.transparent
  def _to_atoms(
    self,
    m: jax.Array,
    radial: jax.Array,
    batch: batch_lib.Batch,
    mask: jax.Array,
    correction: float = 1.0,
  ) -> jax.Array:
    """Maps [E, edge] to [N, atom].

    Args:
      m: edge embeddings.
      radial: [E, rbf].
      batch: packed structures.
      mask: [E] bool, real edges.
      correction: factor on the sum (for dropped edges).
    """
    config = self._config
    gated = m * layers.Dense(m.shape[-1], name="dense_rbf")(radial)
    gated = gated.astype(jnp.promote_types(gated.dtype, jnp.float32))
    x = correction * jax.ops.segment_sum(
      gated,
      batch.main.receivers,
      batch.positions.shape[0],
      indices_are_sorted=True,
    )
    x = scale_factor.ScaleFactor(name="scale_sum")(
      x, rows=lambda: (x, batch.atom_mask), reference=lambda: (m, mask)
    ).astype(m.dtype)
    first = 0
    if m.shape[-1] != config.atom_channels:
      x = layers.Dense(
        config.atom_channels,
        activation=True,
        dropout=config.dropout,
        name="layers_0",
      )(x)
      first = 1
    for i in range(first, first + config.num_atom):
      x = layers.Residual(dropout=config.dropout, name=f"layers_{i}")(x)
    return x


class AtomUpdate(EdgesToAtoms):
  """Update of the atom embeddings from the edges into each atom."""

  def __init__(self, config: config_lib.GemNetOCConfig, name: str = "atom_update"):
    super().__init__(config, name=name)

  def __call__(self, m, radial, batch, mask) -> jax.Array:
    """Maps edge embeddings [E, edge] to [N, atom]."""
    return self._to_atoms(m, radial, batch, mask)


class OutputBlock(EdgesToAtoms):
  """Per-atom and per-edge features that the final output MLPs combine."""

  def __call__(
    self,
    h: jax.Array,
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
    *,
    is_training: bool,
  ) -> tuple[jax.Array, jax.Array | None]:
    """Maps [N, atom] and [E, edge] to the same shapes; no edges without vectors."""
    config, mask = self._config, geometry.main.mask
    correction = 1 / (1 - config.edge_dropout) if is_training else 1.0
    x = self._to_atoms(m, bases.output_radial, batch, mask, correction)
    x = layers.skip(x, h)
    x = layers.residual_stack(
      x, config.num_output_after_atom, "seq_energy2", dropout=config.dropout
    )
    if not config.direct_vectors:
      return x, None
    edges = layers.residual_stack(
      m, config.num_atom, "seq_forces", dropout=config.dropout
    )
    gated = edges * layers.Dense(m.shape[-1], name="dense_rbf_F")(bases.output_radial)
    gated = scale_factor.ScaleFactor(name="scale_rbf_F")(
      gated, rows=lambda: (gated, mask), reference=lambda: (edges, mask)
    )
    return x, gated


class InteractionBlock(hk.Module):
  """One round of message passing."""

  def __init__(self, config: config_lib.GemNetOCConfig, name: str):
    super().__init__(name=name)
    self._config = config

  def __call__(
    self,
    h: jax.Array,
    m: jax.Array,
    batch: batch_lib.Batch,
    geometry: geometry_lib.Geometry,
    bases: shared_bases.SharedBases,
  ) -> tuple[jax.Array, jax.Array]:
    """Maps [N, atom] and [E, edge] embeddings to updated ones."""
    config, dropout = self._config, self._config.dropout
    context = (batch, geometry, bases)
    x = layers.Dense(m.shape[-1], activation=True, dropout=dropout, name="dense_ca")(m)
    x += interactions.TripletInteraction(config, name="trip_interaction")(m, *context)
    x += quadruplets.QuadrupletInteraction(config)(m, *context)
    x += interactions.AtomEdgeInteraction(config, name="atom_edge_interaction")(
      h, *context
    )
    x = layers.fusion_barrier(x * 0.5)
    h += interactions.EdgeAtomInteraction(config, name="edge_atom_interaction")(
      m, *context
    ) + interactions.AtomPairInteraction(config)(h, *context)
    h = layers.fusion_barrier(h * _SQRT_THIRD)
    x = layers.residual_stack(
      x, config.num_before_skip, "layers_before_skip", dropout=dropout
    )
    m = layers.skip(m, x)
    m = layers.residual_stack(
      m, config.num_after_skip, "layers_after_skip", dropout=dropout
    )
    h = layers.residual_stack(
      h, config.num_atom_embedding, "atom_emb_layers", dropout=dropout
    )
    update = AtomUpdate(config)(m, bases.update_radial, batch, geometry.main.mask)
    h = layers.skip(h, update)
    edges = edge_embedding.EdgeEmbedding(
      m.shape[-1], dropout=dropout, name="concat_layer"
    )(h, m, batch)
    edges = layers.residual_stack(
      edges, config.num_concat, "residual_m", dropout=dropout
    )
    return h, layers.skip(m, edges)
