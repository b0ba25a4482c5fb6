"""The published sizes of GemNet-OC, and two small ones."""

import dataclasses

from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models.gemnet_oc import backbone
from jmp_hk.models.gemnet_oc import config

# For tests and the demo: trains in minutes on two CPU cores.
_TINY = backbone.GemNetOCConfig(
  num_blocks=2,
  atom_channels=48,
  edge_channels=64,
  bases=config.BasesConfig(
    num_radial=32,
    num_spherical=5,
    radial_channels=8,
    circular_channels=8,
    spherical_channels=8,
  ),
  interaction=config.InteractionConfig(
    triplet=config.BilinearConfig(16, 16),
    quadruplet=config.BilinearConfig(8, 8),
    pair=config.BilinearConfig(16, 16),
    num_before_skip=1,
    num_after_skip=1,
    num_atom_update=1,
    num_atom_embedding=1,
  ),
  output=config.OutputConfig(num_before_skip=1, num_after_skip=1, num_combined=1),
)

PRESETS = {
  # JMP-S: 38.8 M parameters in the backbone with the force branch.
  "gemnet_oc_small": backbone.GemNetOCConfig(),
  # JMP-L: 216 M parameters in the backbone with the force branch.
  "gemnet_oc_large": backbone.GemNetOCConfig(
    num_blocks=6,
    edge_channels=1024,
    bases=config.BasesConfig(radial_channels=32, spherical_channels=64),
    interaction=config.InteractionConfig(
      triplet=config.BilinearConfig(64, 128),
      quadruplet=config.BilinearConfig(64, 32),
      num_concat=4,
    ),
  ),
  # That of the pre-trained model `jmp-mini`: 1.3 M parameters in the backbone with the
  # force branch. Trains overnight on two CPU cores.
  "mini": dataclasses.replace(_TINY, num_blocks=3, atom_channels=64, edge_channels=128),
  "tiny": _TINY,
}
backbone_lib.register_presets(PRESETS)
