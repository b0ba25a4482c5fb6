"""Draws parameters one by one, without compiling the model that they belong to."""

from collections.abc import Callable
from typing import Any
import zlib

import haiku as hk
import jax
import jax.numpy as jnp


class Recorder:
  """A Haiku creator that notes every parameter and makes cheap zeros instead."""

  def __init__(self):
    self._recorded: dict[tuple[str, str], tuple[tuple[int, ...], Any, Callable]] = {}

  def __call__(self, next_creator, shape, dtype, init, context):
    """See `hk.custom_creator`."""
    self._recorded[context.module_name, context.name] = (shape, dtype, init)
    return next_creator(shape, dtype, jnp.zeros)

  def draw(self, rng: jax.Array) -> hk.MutableParams:
    """Draws what was recorded.

    Args:
      rng: key; a parameter's own key also depends on its path, so that it does not
        change when others come or go.

    Returns:
      The Haiku tree of parameters.
    """
    params: hk.MutableParams = {}
    for (module, name), (shape, dtype, init) in self._recorded.items():
      key = jax.random.fold_in(rng, zlib.crc32(f"{module}/{name}".encode()))
      draw = hk.transform(lambda init=init, s=shape, d=dtype: init(s, d))
      params.setdefault(module, {})[name] = draw.apply({}, key)
    return params
