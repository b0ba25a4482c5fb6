"""The GemNet-OC backbone (Gasteiger et al. 2022, arXiv 2204.02782)."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models.gemnet_oc import blocks
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.models.gemnet_oc import shared_bases


class Embeddings(NamedTuple):
  """What the heads read.

  Attributes:
    nodes: [N, atom] final atom embeddings, zero for padding.
    edges: [E, edge] final main-edge embeddings, zero for padding; None where the
      backbone has no edge branch.
    vectors: [E, 3] unit vectors of the main edges, zero for padding.
  """

  nodes: jax.Array
  edges: jax.Array | None
  vectors: jax.Array


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
  ) -> Embeddings:
    """Computes embeddings.

    Args:
      h: [N, atom] initial atom embeddings, zero for padding.
      batch: packed structures.
      is_training: switches dropout and the correction for dropped edges on.

    Returns:
      The final embeddings.
    """
    config = self._config
    geometry = geometry_lib.compute_geometry(batch, config.num_spherical)
    if not is_training and config.dropout:
      config = dataclasses.replace(config, dropout=0.0)
    bases, m = shared_bases.BasisEmbeddings(config)(h, batch, geometry)
    outputs = []
    for i in range(config.num_blocks + 1):
      if i:
        block = blocks.InteractionBlock(config, name=f"int_blocks_{i - 1}")
        h, m = _maybe_remat(block, config)(h, m, batch, geometry, bases)
      block = blocks.OutputBlock(config, name=f"out_blocks_{i}")
      block = functools.partial(block, is_training=is_training)
      outputs.append(_maybe_remat(block, config)(h, m, batch, geometry, bases))
    nodes, edges = zip(*outputs, strict=True)
    nodes = OutputMLP(config.atom_channels, config.num_global_output, name="out_mlp_E")(
      nodes
    )
    if config.direct_vectors:
      edges = OutputMLP(
        config.edge_channels,
        config.num_global_output,
        dropout=config.dropout,
        name="out_mlp_F",
      )(edges)
    else:
      edges = None
    return Embeddings(nodes=nodes, edges=edges, vectors=geometry.main.vectors)


def _maybe_remat(
  block: Callable[..., Any], config: config_lib.GemNetOCConfig
) -> Callable[..., Any]:
  """The block, computed again in the backward pass where that is wanted.

  Not while scale factors are fitted: what is observed inside has to get out.
  """
  if config.remat and not scale_factor.is_observed():
    return hk.remat(block)
  return block
