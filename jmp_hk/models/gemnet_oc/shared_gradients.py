"""Gradients of the projections that all blocks share are divided by their uses."""

import re

import haiku as hk
import jax

from jmp_hk.models.gemnet_oc import config as config_lib

_SHARED = re.compile(r"^backbone/bases/mlp_\w+$")


def num_uses(module: str, config: config_lib.GemNetOCConfig) -> int:
  """How often blocks use a module's parameters, as published (fact 30)."""
  if not _SHARED.match(module):
    return 1
  if module.endswith("mlp_rbf_out"):
    return config.num_blocks + 1
  return config.num_blocks


def divide_shared_gradients(
  gradients: hk.MutableParams, config: config_lib.GemNetOCConfig
) -> hk.MutableParams:
  """Divides the gradients of the twelve shared basis projections.

  Args:
    gradients: Haiku tree, before clipping.
    config: of the backbone.

  Returns:
    The tree with shared gradients divided by their number of uses.
  """
  return {
    module: jax.tree.map(lambda g, n=num_uses(module, config): g / n, leaves)
    for module, leaves in gradients.items()
  }
