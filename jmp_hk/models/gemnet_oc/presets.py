"""The published sizes of GemNet-OC, and a small one."""

from jmp_hk.models import backbone as backbone_lib
from jmp_hk.models.gemnet_oc import backbone
from jmp_hk.models.gemnet_oc import config

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
  # For tests and the demo: trains in minutes on two CPU cores.
  "tiny": backbone.GemNetOCConfig(
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
  ),
}
backbone_lib.register_presets(PRESETS)
