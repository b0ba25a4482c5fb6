"""Radial and angular basis functions, and their learned projections."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import layers as base_layers
from jmp_hk.models.gemnet_oc import layers


def envelope(x: jax.Array, exponent: int) -> jax.Array:
  """Polynomial cutoff function of a scaled distance (DimeNet, equation 8).

  Args:
    x: [...] distance over cutoff, at least zero.
    exponent: p; value, first and second derivative vanish at x = 1.

  Returns:
    [...] one at zero, zero from one on.
  """
  p = exponent
  a = -(p + 1) * (p + 2) / 2
  b = p * (p + 2)
  c = -p * (p + 1) / 2
  inside = x < 1
  safe = jnp.where(inside, x, 0.5)
  value = 1 + safe**p * (a + safe * (b + safe * c))
  return jnp.where(inside, value, 0)


def radial_basis(
  distances: jax.Array,
  mask: jax.Array,
  num_radial: int,
  cutoff: float,
  exponent: int,
  weights: jax.Array | None = None,
) -> jax.Array:
  """Gaussians on [0, cutoff] under the envelope.

  Args:
    distances: [e] Å.
    mask: [e] bool; where false the values are zero.
    num_radial: number of Gaussians; their spacing is also their width.
    cutoff: Å.
    exponent: exponent of the envelope.
    weights: [e] further factors, None for one.

  Returns:
    [e, num_radial].
  """
  x = distances / cutoff
  centres = jnp.asarray(np.linspace(0, 1, num_radial), x.dtype)
  gaussians = jnp.exp(-0.5 * (num_radial - 1) ** 2 * (x[:, None] - centres) ** 2)
  weight = jnp.where(mask, envelope(x, exponent), 0)
  if weights is not None:
    weight = weight * weights
  return weight[:, None] * gaussians


def clip_cosine(x: jax.Array) -> jax.Array:
  """Clips to [-1, 1]; at exactly ±1 the gradient passes in full."""
  return jnp.where(x > 1, 1.0, jnp.where(x < -1, -1.0, x)).astype(x.dtype)


def legendre(x: jax.Array, num_spherical: int, axis: int) -> jax.Array:
  """Zonal spherical harmonics Y_l(x) = sqrt((2l + 1) / 4π) P_l(x).

  Args:
    x: [...] cosines.
    num_spherical: number of orders, l = 0 … num_spherical - 1.
    axis: where the new axis of orders goes in the result.

  Returns:
    x's shape with a new axis of length `num_spherical`.
  """
  values = [jnp.ones_like(x), x]
  for l in range(2, num_spherical):
    values.append(((2 * l - 1) * x * values[-1] - (l - 1) * values[-2]) / l)
  norms = legendre_norms(num_spherical)
  return jnp.stack([values[l] * norms[l] for l in range(num_spherical)], axis=axis)


def legendre_norms(num_spherical: int) -> list[float]:
  """sqrt((2l + 1) / 4π) for l = 0 … num_spherical - 1."""
  return [float(np.sqrt((2 * l + 1) / (4 * np.pi))) for l in range(num_spherical)]


def legendre_to_cosines(num_spherical: int) -> np.ndarray:
  """Matrix A with Y_l(cos θ) = Σ_k A[l, k] cos(kθ).

  Returns:
    [num_spherical, num_spherical] float64.
  """
  matrix = np.zeros((num_spherical, num_spherical))
  for l, norm in enumerate(legendre_norms(num_spherical)):
    power_series = np.polynomial.legendre.leg2poly(np.eye(num_spherical)[l])
    chebyshev = np.polynomial.chebyshev.poly2cheb(power_series)
    matrix[l, : len(chebyshev)] = norm * chebyshev[:num_spherical]
  return matrix


class RadialProjection(layers.Dense):
  """Projects a radial basis to a few channels, linearly and without bias.

  A class of its own because it belongs to the basis: the derivatives of neighboring
  Gaussians nearly cancel, so it is computed in true float32 where dense layers are not.
  """


class BasisProjection(hk.Module):
  """Projects a radial basis to `channels` weights per angular function.

  The parameter is [num_radial, channels, num_angular]; the published PyTorch
  tensor is the same memory labelled (num_radial, num_angular, channels), see
  `jmp_hk.interop.torch_names`.
  """

  def __init__(self, channels: int, num_angular: int, name: str | None = None):
    super().__init__(name=name)
    self._channels = channels
    self._num_angular = num_angular

  def __call__(self, radial: jax.Array) -> jax.Array:
    """Maps [e, num_radial] to [e, channels, num_angular]."""
    return jnp.einsum("er,rca->eca", radial, self.weight(radial))

  def weight(self, radial: jax.Array) -> jax.Array:
    """The parameter, [num_radial, channels, num_angular]."""
    num_radial = radial.shape[-1]

    def init(shape, dtype):
      torch_shape = (num_radial, self._num_angular, self._channels)
      key = hk.next_rng_key()
      return layers.standardised_orthogonal(key, torch_shape, dtype).reshape(shape)

    shape = (num_radial, self._channels, self._num_angular)
    return base_layers.get_weight("w", shape, radial.dtype, init)
