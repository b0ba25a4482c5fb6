"""Hyper-parameters of GemNet-OC and the published sizes."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class GemNetOCConfig:
  """Sizes of one GemNet-OC backbone; defaults are those of JMP-S.

  Attributes:
    num_blocks: interaction blocks; there is one output block more.
    num_radial: Gaussians of the radial basis.
    num_spherical: Legendre orders of the angular bases.
    atom_channels: width of the atom embeddings `h`.
    edge_channels: width of the edge embeddings `m`.
    triplet_in_channels: width that is summed over triplets, also for atom→edge and
      edge→atom interactions.
    triplet_out_channels: width after the triplet's bilinear layer.
    quad_in_channels: width that is summed over quadruplets.
    quad_out_channels: width after the quadruplet's bilinear layer.
    pair_in_channels: width that is summed over atom pairs.
    pair_out_channels: width after the atom pair's bilinear layer.
    radial_channels: embedding width of radial bases ("rbf").
    circular_channels: embedding width of circular bases ("cbf").
    spherical_channels: embedding width of spherical bases ("sbf").
    num_before_skip: residual layers on `m` before the skip connection.
    num_after_skip: residual layers on `m` after it.
    num_concat: residual layers after an atom→edge concatenation.
    num_atom: residual layers of an atom update and of an output block.
    num_output_after_atom: residual layers after an output block's skip connection.
    num_atom_embedding: residual layers on `h`.
    num_global_output: residual layers of the final output MLPs.
    radial_cutoff: Å, at which the radial envelope reaches zero, whatever the
      cutoff of the graphs ("absolute_rbf_cutoff").
    envelope_exponent: p of the polynomial envelope.
    num_elements: rows of the atom embedding; row Z - 1 is element Z.
    edge_dropout: rate at which the data pipeline drops a2a edges in training; the
      energy sums of output blocks are divided by one minus it.
    dropout: rate of the dropout after the dense layers of blocks in training.
    direct_vectors: whether there is an edge branch for direct forces.
    remat: keep only the inputs of blocks for the backward pass and compute their
      insides again: less memory, more time, the same numbers.
  """

  num_blocks: int = 4
  num_radial: int = 128
  num_spherical: int = 7
  atom_channels: int = 256
  edge_channels: int = 512
  triplet_in_channels: int = 64
  triplet_out_channels: int = 64
  quad_in_channels: int = 32
  quad_out_channels: int = 32
  pair_in_channels: int = 64
  pair_out_channels: int = 64
  radial_channels: int = 16
  circular_channels: int = 16
  spherical_channels: int = 32
  num_before_skip: int = 2
  num_after_skip: int = 2
  num_concat: int = 1
  num_atom: int = 3
  num_output_after_atom: int = 3
  num_atom_embedding: int = 2
  num_global_output: int = 2
  radial_cutoff: float = 12.0
  envelope_exponent: int = 5
  num_elements: int = 120
  edge_dropout: float = 0.0
  dropout: float = 0.0
  direct_vectors: bool = True
  remat: bool = False

  def __post_init__(self):
    for field in ("edge_dropout", "dropout"):
      rate = getattr(self, field)
      if not 0.0 <= rate < 1.0:
        raise ValueError(f"{field} must be in [0, 1), got {rate}.")
    for field in ("num_blocks", "num_spherical", "atom_channels", "edge_channels"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field} must be positive, got {getattr(self, field)}.")
    if self.num_radial < 2:
      raise ValueError(f"num_radial must be at least 2, got {self.num_radial}.")


PRESETS = {
  # JMP-S, 38.8 M backbone parameters with the force branch.
  "gemnet_oc_small": GemNetOCConfig(),
  # JMP-L, 216 M backbone parameters with the force branch.
  "gemnet_oc_large": GemNetOCConfig(
    num_blocks=6,
    edge_channels=1024,
    triplet_out_channels=128,
    quad_in_channels=64,
    radial_channels=32,
    spherical_channels=64,
    num_concat=4,
  ),
  # For tests and the demo: trains in minutes on two CPU cores.
  "tiny": GemNetOCConfig(
    num_blocks=2,
    num_radial=32,
    num_spherical=5,
    atom_channels=48,
    edge_channels=64,
    triplet_in_channels=16,
    triplet_out_channels=16,
    quad_in_channels=8,
    quad_out_channels=8,
    pair_in_channels=16,
    pair_out_channels=16,
    radial_channels=8,
    circular_channels=8,
    spherical_channels=8,
    num_before_skip=1,
    num_after_skip=1,
    num_atom=1,
    num_output_after_atom=1,
    num_atom_embedding=1,
    num_global_output=1,
  ),
}


def preset(name: str) -> GemNetOCConfig:
  """Returns a named configuration.

  Args:
    name: one of `PRESETS`.

  Raises:
    ValueError: the name is not known.
  """
  if name not in PRESETS:
    raise ValueError(f"Unknown model preset {name!r}; choose one of {sorted(PRESETS)}.")
  return PRESETS[name]
