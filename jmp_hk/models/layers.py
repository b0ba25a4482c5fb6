"""What dense layers of all backbones and heads share."""

import haiku as hk
import jax
import jax.numpy as jnp

_SILU_SCALE = 1 / 0.6
SQRT_HALF = 0.5**0.5  # Of sums, which keeps unit variance.


def scaled_silu(x: jax.Array) -> jax.Array:
  """SiLU divided by 0.6, which keeps unit variance (GemNet, appendix E)."""
  return jax.nn.silu(x) * _SILU_SCALE


def get_weight(
  name: str,
  shape: tuple[int, ...],
  dtype: jnp.dtype,
  init: hk.initializers.Initializer,
) -> jax.Array:
  """A parameter that is stored in float32 or wider and used in `dtype`."""
  stored = jnp.promote_types(dtype, jnp.float32)
  return hk.get_parameter(name, shape, stored, init).astype(dtype)
