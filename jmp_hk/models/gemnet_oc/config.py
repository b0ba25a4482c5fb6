"""Hyper-parameters of GemNet-OC, nested as its modules are, and the published sizes."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import haiku as hk
import jax

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models.gemnet_oc.graphs import build
from jmp_hk.models.gemnet_oc.graphs import builder as builder_lib

# Learning-rate factors of JMP's fine-tuning by number of blocks, JMP-S and JMP-L: those
# of the atom embedding and of each block (Shoghi et al. 2024).
_FINE_TUNING_FACTORS = {
  4: (0.3, 0.35, 0.40, 0.55, 0.625),
  6: (0.3, 0.55, 0.40, 0.30, 0.40, 0.55, 0.625),
}


@dataclasses.dataclass(frozen=True)
class BasesConfig:
  """Sizes of the radial and angular bases that all blocks share.

  Attributes:
    num_radial: number of Gaussians of the radial basis.
    num_spherical: number of Legendre orders of the angular bases.
    radial_channels: embedding width of radial bases ("rbf").
    circular_channels: embedding width of circular bases ("cbf").
    spherical_channels: embedding width of spherical bases ("sbf").
    radial_cutoff: distance in Å at which the radial envelope reaches zero, whatever the
      cutoff of the graphs.
    envelope_exponent: exponent p of the polynomial envelope.
  """

  num_radial: int = 128
  num_spherical: int = 7
  radial_channels: int = 16
  circular_channels: int = 16
  spherical_channels: int = 32
  radial_cutoff: float = 12.0
  envelope_exponent: int = 5

  def __post_init__(self) -> None:
    if self.num_spherical < 1:
      raise ValueError(f"num_spherical must be positive, got {self.num_spherical}.")
    if self.num_radial < 2:
      raise ValueError(f"num_radial must be at least 2, got {self.num_radial}.")


@dataclasses.dataclass(frozen=True)
class BilinearConfig:
  """Widths around the bilinear layer of one interaction.

  Attributes:
    in_channels: width of the messages that are summed over neighbors.
    out_channels: width after the bilinear layer.
  """

  in_channels: int
  out_channels: int


@dataclasses.dataclass(frozen=True)
class InteractionConfig:
  """Sizes of an interaction block.

  Attributes:
    triplet: the triplet interaction; also the atom→edge and edge→atom interactions.
    quadruplet: the quadruplet interaction.
    pair: the atom-pair interaction.
    num_before_skip: residual layers on the edges before the skip connection.
    num_after_skip: residual layers on the edges after it.
    num_concat: residual layers after the atoms are concatenated to the edges.
    num_atom_update: residual layers of the update of the atoms by their edges.
    num_atom_embedding: residual layers on the atoms.
  """

  triplet: BilinearConfig = BilinearConfig(64, 64)
  quadruplet: BilinearConfig = BilinearConfig(32, 32)
  pair: BilinearConfig = BilinearConfig(64, 64)
  num_before_skip: int = 2
  num_after_skip: int = 2
  num_concat: int = 1
  num_atom_update: int = 3
  num_atom_embedding: int = 2


@dataclasses.dataclass(frozen=True)
class OutputConfig:
  """Sizes of the output blocks and of the layers that combine them.

  Attributes:
    num_before_skip: residual layers on the sums over edges, and on the edges themselves
      where direct vectors are wanted.
    num_after_skip: residual layers on the atoms after the skip connection.
    num_combined: residual layers on the concatenated features of all output blocks.
  """

  num_before_skip: int = 3
  num_after_skip: int = 3
  num_combined: int = 2


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

  num_blocks: int = 4
  edge_channels: int = 512
  bases: BasesConfig = BasesConfig()
  interaction: InteractionConfig = InteractionConfig()
  output: OutputConfig = OutputConfig()
  graphs: build.GraphOptions = build.GraphOptions()

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ("num_blocks", "edge_channels"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

  @classmethod
  def upgrade_json(cls, data: Mapping[str, Any]) -> dict[str, Any]:
    """Nests the fields of configs that were stored by versions before 0.2."""
    return _nest(data) if "num_radial" in data else dict(data)

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
  def low_precision_modules(self) -> tuple[type[hk.Module], ...]:
    """See `BackboneConfig`."""
    from jmp_hk.models.gemnet_oc import bases
    from jmp_hk.models.gemnet_oc import layers

    return layers.Dense, layers.SplitDense, bases.BasisProjection

  def embed(
    self, h: jax.Array, batch: batch_lib.Batch, *, is_training: bool
  ) -> backbone_lib.Embeddings:
    """See `BackboneConfig`."""
    from jmp_hk.models.gemnet_oc import backbone

    return backbone.GemNetOC(self)(h, batch, is_training=is_training)

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
    from jmp_hk.models.gemnet_oc import shared_bases

    return shared_bases.divide_shared_gradients(gradients, self.num_blocks)

  def fit_state(
    self,
    embed: backbone_lib.Embed,
    params: hk.Params,
    state: hk.State,
    batches: Sequence[batch_lib.Batch],
    on_progress: Callable[[str, float], None] = lambda name, value: None,
  ) -> hk.MutableState:
    """Fits every scale factor that is still zero ("not fitted")."""
    from jmp_hk.models.gemnet_oc import scale_factor

    # What is observed inside a block could not leave a rematerialised one.
    config = dataclasses.replace(self, remat=False)
    apply = lambda state, batch: embed(config, params, state, batch)
    return scale_factor.fit(apply, state, batches, on_progress)


_OLD_INTERACTION = (
  "num_before_skip",
  "num_after_skip",
  "num_concat",
  "num_atom_embedding",
)


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Turns the flat fields of earlier versions into nested ones."""
  data = dict(flat)
  pair = lambda name: {
    "in_channels": data.pop(f"{name}_in_channels"),
    "out_channels": data.pop(f"{name}_out_channels"),
  }
  names = [field.name for field in dataclasses.fields(BasesConfig)]
  num_atom = data.pop("num_atom")
  return {
    "bases": {name: data.pop(name) for name in names},
    "interaction": {
      "triplet": pair("triplet"),
      "quadruplet": pair("quad"),
      "pair": pair("pair"),
      **{name: data.pop(name) for name in _OLD_INTERACTION},
      "num_atom_update": num_atom,
    },
    "output": {
      "num_before_skip": num_atom,
      "num_after_skip": data.pop("num_output_after_atom"),
      "num_combined": data.pop("num_global_output"),
    },
    **data,
  }


PRESETS = {
  # JMP-S: 38.8 M parameters in the backbone with the force branch.
  "gemnet_oc_small": GemNetOCConfig(),
  # JMP-L: 216 M parameters in the backbone with the force branch.
  "gemnet_oc_large": GemNetOCConfig(
    num_blocks=6,
    edge_channels=1024,
    bases=BasesConfig(radial_channels=32, spherical_channels=64),
    interaction=InteractionConfig(
      triplet=BilinearConfig(64, 128), quadruplet=BilinearConfig(64, 32), num_concat=4
    ),
  ),
  # For tests and the demo: trains in minutes on two CPU cores.
  "tiny": GemNetOCConfig(
    num_blocks=2,
    atom_channels=48,
    edge_channels=64,
    bases=BasesConfig(
      num_radial=32,
      num_spherical=5,
      radial_channels=8,
      circular_channels=8,
      spherical_channels=8,
    ),
    interaction=InteractionConfig(
      triplet=BilinearConfig(16, 16),
      quadruplet=BilinearConfig(8, 8),
      pair=BilinearConfig(16, 16),
      num_before_skip=1,
      num_after_skip=1,
      num_atom_update=1,
      num_atom_embedding=1,
    ),
    output=OutputConfig(num_before_skip=1, num_after_skip=1, num_combined=1),
  ),
}
backbone_lib.register_presets(PRESETS)
