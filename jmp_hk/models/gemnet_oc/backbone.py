"""The GemNet-OC backbone (Gasteiger et al. 2022, arXiv 2204.02782)."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models.gemnet_oc import blocks
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import shared_bases


class OutputMLP(hk.Module):
  """Combines the features of all output blocks."""

  def __init__(
    self, channels: int, num_residual: int, *, dropout: float = 0.0, name: str
  ):
    super().__init__(name=name)
    self._channels = channels
    self._num_residual = num_residual
    self._dropout = dropout

  def __call__(self, features: Sequence[jax.Array]) -> jax.Array:
    """Maps a list of [rows, channels] to one [rows, channels]."""
    x = layers.Dense(
      self._channels, activation=True, dropout=self._dropout, name="out_mlp_0"
    )(jnp.concatenate(features, axis=-1))
    for i in range(1, self._num_residual + 1):
      x = layers.Residual(dropout=self._dropout, name=f"out_mlp_{i}")(x)
    return x


class GemNetOC(hk.Module):
  """Message passing over atoms, edges, triplets and quadruplets."""

  def __init__(self, config: config_lib.GemNetOCConfig, name: str = "backbone"):
    super().__init__(name=name)
    self._config = config

  def __call__(
    self, h: jax.Array, batch: batch_lib.Batch, *, is_training: bool
  ) -> backbone_lib.Embeddings:
    """Computes embeddings.

    Args:
      h: [N, atom] initial atom embeddings, zero for padding.
      batch: packed structures.
      is_training: switches dropout and the correction for dropped edges on.

    Returns:
      The final embeddings.
    """
    config = self._config
    chex.assert_shape(h, (*batch.atomic_numbers.shape, config.atom_channels))
    dropout = config.dropout if is_training else 0.0
    geometry = geometry_lib.compute_geometry(batch, config.bases.num_spherical)
    bases, m = shared_bases.BasisEmbeddings(config.bases, config.edge_channels)(
      h, batch, geometry
    )
    outputs = []
    for i in range(config.num_blocks + 1):
      if i:
        block = blocks.InteractionBlock(
          config.interaction, dropout=dropout, name=f"int_blocks_{i - 1}"
        )
        h, m = self._maybe_remat(block)(h, m, batch, geometry, bases)
      block = blocks.OutputBlock(
        config.output,
        direct_vectors=config.direct_vectors,
        dropped_edges=config.edge_dropout if is_training else 0.0,
        dropout=dropout,
        name=f"out_blocks_{i}",
      )
      outputs.append(self._maybe_remat(block)(h, m, batch, geometry, bases))
    nodes, edges = zip(*outputs, strict=True)
    combine = functools.partial(OutputMLP, num_residual=config.output.num_combined)
    nodes = combine(config.atom_channels, name="out_mlp_E")(nodes)
    if config.direct_vectors:
      edges = combine(config.edge_channels, dropout=dropout, name="out_mlp_F")(edges)
    else:
      edges = None
    return backbone_lib.Embeddings(
      nodes=nodes,
      edges=edges,
      vectors=geometry.main.vectors,
      receivers=batch.graphs.main.receivers,
    )

  @hk.transparent
  def _maybe_remat(self, block: Callable[..., Any]) -> Callable[..., Any]:
    """The block, computed again in the backward pass where that is wanted."""
    return hk.remat(block) if self._config.remat else block
