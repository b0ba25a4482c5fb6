"""The GemNet-OC backbone (Gasteiger et al. 2022, arXiv 2204.02782)."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any
from typing import ClassVar

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk import ranges
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models.gemnet_oc import blocks
from jmp_hk.models.gemnet_oc import config as config_lib
from jmp_hk.models.gemnet_oc import edges as edges_lib
from jmp_hk.models.gemnet_oc import fusion
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import interactions
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.models.gemnet_oc import quadruplets
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.models.gemnet_oc import shared_bases
from jmp_hk.models.gemnet_oc.graphs import builder as builder_lib
from jmp_hk.models.gemnet_oc.graphs import choice

# Learning-rate factors of JMP's fine-tuning by number of blocks, JMP-S and JMP-L: those
# of the atom embedding and of each block (Shoghi et al. 2024).
_FINE_TUNING_FACTORS = {
  4: (0.3, 0.35, 0.40, 0.55, 0.625),
  6: (0.3, 0.55, 0.40, 0.30, 0.40, 0.55, 0.625),
}


@backbone_lib.register("gemnet_oc")
@dataclasses.dataclass(frozen=True)
class GemNetOCConfig(backbone_lib.BackboneConfig):
  """GemNet-OC (Gasteiger et al. 2022); the defaults are the sizes of JMP-S.

  With `edge_dropout` the energy sums of output blocks are divided by one minus it in
  training. `dropout` follows the dense layers of blocks.

  Attributes:
    num_blocks: interaction blocks; there is one output block more.
    edge_channels: width of the edge embeddings.
    bases: the bases that all blocks share.
    interaction: every interaction block.
    output: the output blocks.
    graphs: how the graphs are chosen, apart from what the dataset decides.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    **backbone_lib.BackboneConfig.RANGES,
    "num_blocks": ranges.POSITIVE_COUNT,
    "edge_channels": ranges.POSITIVE_COUNT,
  }

  num_blocks: int = 4
  edge_channels: int = 512
  bases: config_lib.BasesConfig = config_lib.BasesConfig()
  interaction: config_lib.InteractionConfig = config_lib.InteractionConfig()
  output: config_lib.OutputConfig = config_lib.OutputConfig()
  graphs: choice.GraphOptions = choice.GraphOptions()

  @classmethod
  def upgrade_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
    """Nests the fields of configs that were stored by versions before 0.2."""
    return config_lib.nest(data) if "num_radial" in data else dict(data)

  def describe(self) -> str:
    """See `BackboneConfig`."""
    return (
      f"GemNet-OC with {self.num_blocks} blocks, {self.atom_channels} atom and "
      f"{self.edge_channels} edge channels"
    )

  @property
  def graph_builder(self) -> builder_lib.GemNetOCGraphBuilder:
    """See `BackboneConfig`."""
    return builder_lib.GemNetOCGraphBuilder(self.edge_dropout, self.graphs)

  @property
  def dense_modules(self) -> tuple[type[hk.Module], ...]:
    """See `BackboneConfig`; the projections of radial bases are not among them."""
    return (
      layers.Dense,
      layers.SplitDense,
      layers.GatedDense,
      layers.RadialFilter,
      layers.SymmetricSum,
      layers.Residual,
    )

  @property
  def message_modules(self) -> tuple[type[hk.Module], ...]:
    """See `BackboneConfig`."""
    return (
      interactions.EdgeUpdate,
      interactions.EdgeAtomInteraction,
      interactions.AtomPairInteraction,
      quadruplets.QuadrupletInteraction,
    )

  def embed(
    self, h: jax.Array, batch: batch_lib.Batch, *, is_training: bool
  ) -> backbone_lib.Embeddings:
    """See `BackboneConfig`."""
    return GemNetOC(self)(h, batch, is_training=is_training)

  @property
  def learning_rate_factors(self) -> tuple[tuple[str, float], ...]:
    """See `BackboneConfig`; those of JMP's fine-tuning, published for 4 and 6 blocks.

    "Block i" is interaction block i and output block i + 1; block 0 has output block 0
    too. There are none for other numbers of blocks.
    """
    factors = _FINE_TUNING_FACTORS.get(self.num_blocks)
    if factors is None:
      return ()
    embedding, *blocks = factors
    patterns = [("^atom_embedding/", embedding)]
    for i, factor in enumerate(blocks):
      outputs = "[01]" if i == 0 else str(i + 1)
      patterns.append((f"^backbone/(int_blocks_{i}|out_blocks_{outputs})/", factor))
    return tuple(patterns)

  def process_gradients(self, gradients: hk.MutableParams) -> hk.MutableParams:
    """Divides the gradients of the shared basis projections by their number of uses."""
    return shared_bases.divide_shared_gradients(gradients, self.num_blocks)

  def fit_state(
    self,
    embed: backbone_lib.Embed,
    params: hk.Params,
    state: hk.State,
    batches: Sequence[batch_lib.Batch],
    on_progress: Callable[[str, float], None] = lambda name, value: None,
    together: int = 1,
  ) -> hk.MutableState:
    """Fits every scale factor that is still zero ("not fitted")."""
    # What is observed inside a block could not leave a rematerialised one.
    config = dataclasses.replace(self, remat=False)
    apply = lambda state, batch: embed(config, params, state, batch)
    return scale_factor.fit(apply, state, batches, on_progress, together)


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
    return layers.residual_stack(
      x, self._num_residual, "out_mlp", dropout=self._dropout, first=1
    )


class GemNetOC(hk.Module):
  """Message passing over atoms, edges, triplets and quadruplets."""

  def __init__(self, config: GemNetOCConfig, name: str = "backbone"):
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
    batch = edges_lib.align_tables(batch, h.dtype)
    geometry = geometry_lib.compute_geometry(batch, config.bases.num_spherical)
    bases, m = shared_bases.BasisEmbeddings(config.bases, config.edge_channels)(
      h, batch, geometry
    )
    spherical = fusion.fan_out(bases.quad_spherical, config.num_blocks)
    outputs = []
    for i in range(config.num_blocks + 1):
      if i:
        bases = dataclasses.replace(bases, quad_spherical=spherical[i - 1])
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
    vectors, weights = geometry.main.vectors, geometry.main.weights
    if weights is not None:  # For heads, whose biases would count otherwise.
      vectors = weights[:, None] * vectors
    return backbone_lib.Embeddings(
      nodes=nodes,
      edges=edges,
      vectors=vectors,
      receivers=batch.graphs.main.receivers,
    )

  @hk.transparent
  def _maybe_remat(self, block: Callable[..., Any]) -> Callable[..., Any]:
    """The block, computed again in the backward pass where that is wanted."""
    return hk.remat(block) if self._config.remat else block
