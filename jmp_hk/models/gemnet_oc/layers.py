"""Dense layers of GemNet-OC and their initialisation."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing
from jmp_hk.models import layers as base_layers
from jmp_hk.models.gemnet_oc import fusion
from jmp_hk.models.gemnet_oc import kernels
from jmp_hk.runtime import compilation


@functools.partial(jax.jit, static_argnums=(1, 2))
def standardised_orthogonal(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
  """He-orthogonal initialisation of a weight in PyTorch's axis order.

  An orthogonal matrix, standardised over the fan-in axes and divided by
  sqrt(fan_in): axis 1 of an (out, in) matrix, axes (0, 1) of a
  (num_radial, num_spherical, channels) basis weight.

  Args:
    key: random key.
    shape: two or three dimensions.
    dtype: data type of the result.

  Returns:
    The weight, shape `shape`.
  """
  axes = (0, 1) if len(shape) == 3 else (1,)
  rows, columns = shape[0], 1
  for size in shape[1:]:
    columns *= size
  matrix = jax.nn.initializers.orthogonal()(key, (rows, columns), jnp.float32)
  weight = matrix.reshape(shape)
  fan_in = 1
  for axis in axes:
    fan_in *= shape[axis]
  mean = weight.mean(axes, keepdims=True)
  variance = weight.var(axes, keepdims=True, ddof=1) if fan_in > 1 else 0.0
  weight = (weight - mean) / jnp.sqrt(variance + 1e-6)
  return (weight / fan_in**0.5).astype(dtype)


@fusion.saving_products
def _activated(x: jax.Array, w: jax.Array) -> jax.Array:
  return base_layers.scaled_silu(x @ w)


@fusion.saving_products
def _gated(x: jax.Array, w: jax.Array, radial: jax.Array, gate: jax.Array) -> jax.Array:
  return fusion.filtered(base_layers.scaled_silu(x @ w), radial, gate)


@fusion.saving_products
def _symmetric(
  x: jax.Array, forward: jax.Array, backward: jax.Array, reverse: jax.Array
) -> jax.Array:
  y = base_layers.scaled_silu(x @ backward)
  y = base_layers.scaled_silu(x @ forward) + indexing.swap_rows(y, reverse)
  return y * base_layers.SQRT_HALF


@functools.cache
def _residual(scale: float, factor: float):
  """A residual layer of x, where the array given is x / scale.

  Returns:
    A function of it and both weights, which returns (x + f(x)) * factor / scale.
  """

  @fusion.saving_products
  def residual(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    y = base_layers.scaled_silu(scale * (x @ first))
    return (x + (1 / scale) * base_layers.scaled_silu(y @ second)) * factor

  return residual


def _dense_init(shape, dtype):
  inputs, outputs = shape
  return standardised_orthogonal(hk.next_rng_key(), (outputs, inputs), dtype).T


class Dense(hk.Module):
  """Linear layer without bias, then optionally scaled SiLU and dropout."""

  def __init__(
    self,
    channels: int,
    *,
    activation: bool = False,
    dropout: float = 0.0,
    name: str | None = None,
  ):
    """Builds the layer.

    Args:
      channels: output width.
      activation: apply `scaled_silu`.
      dropout: rate, after the activation. Draws depend on the position of an
        element in the array alone, so padding rows behind it do not change them.
      name: name of the module.
    """
    super().__init__(name=name)
    self._channels = channels
    self._activation = activation
    self._dropout = dropout

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., in] to [..., channels]."""
    w = self.weight(x.shape[-1], x.dtype)
    x = _activated(x, w) if self._activation else x @ w
    if self._dropout:
      x = hk.dropout(hk.next_rng_key(), self._dropout, x)
    return x

  def weight(self, inputs: int, dtype) -> jax.Array:
    """The parameter, [inputs, channels]."""
    return base_layers.get_weight("w", (inputs, self._channels), dtype, _dense_init)


class GatedDense(hk.Module):
  """An activated dense layer times a linear function of a radial embedding.

  Both products and the activation are one function, so that few kernels read and write
  what is as long as the edges, in the backward pass too. The parameters are other
  modules'.
  """

  def __call__(
    self, x: jax.Array, w: jax.Array, radial: jax.Array, gate: jax.Array
  ) -> jax.Array:
    """Maps [e, in], by weights [in, out] and [rbf, out], to [e, out]."""
    return _gated(x, w, radial, gate)


class RadialFilter(hk.Module):
  """Product with a linear function of a radial embedding, whose weight is another's."""

  def __call__(self, x: jax.Array, radial: jax.Array, w: jax.Array) -> jax.Array:
    """Maps [e, width], [e, rbf] and the weight [rbf, width] to [e, width]."""
    return fusion.filtered(x, radial, w)


class SymmetricSum(hk.Module):
  """Sum of two activated dense layers over √2, the second of the reverse edge."""

  def __call__(
    self,
    x: jax.Array,
    forward: jax.Array,
    backward: jax.Array,
    reverse: jax.Array,
  ) -> jax.Array:
    """Computes it as one function, for the reason given in `GatedDense`.

    Args:
      x: [E, in].
      forward: [in, channels] weight.
      backward: [in, channels] weight of the reverse edge.
      reverse: [E] int32, the edge with swapped ends.

    Returns:
      [E, channels].
    """
    if compilation.uses_own_kernels() and kernels.suits_symmetric(x, forward.shape[1]):
      return kernels.symmetric()(x, forward, backward, reverse)
    return fusion.barrier(_symmetric(x, forward, backward, reverse))


class Residual(hk.Module):
  """Two activated dense layers with a skip connection, (x + f(x)) / √2."""

  def __init__(self, *, dropout: float = 0.0, name: str | None = None):
    super().__init__(name=name)
    self._dropout = dropout

  def __call__(
    self, x: jax.Array, *, scale: float = 1.0, factor: float = base_layers.SQRT_HALF
  ) -> jax.Array:
    """Maps [..., channels] to the same shape.

    Args:
      x: [..., channels], divided by `scale`.
      scale: what the layer's input was divided by; one with dropout.
      factor: what the sum is multiplied by.

    Returns:
      (x + f(x)) * factor, divided by `scale`.
    """
    channels = x.shape[-1]
    if self._dropout:
      y = x
      for i in range(2):
        y = Dense(
          channels, activation=True, dropout=self._dropout, name=f"dense_mlp_{i}"
        )(y)
      return skip(x, y)
    weights = [
      Dense(channels, name=f"dense_mlp_{i}").weight(channels, x.dtype) for i in range(2)
    ]
    if compilation.uses_own_kernels() and kernels.suits_residual(x):
      return kernels.residual(scale, factor)(x, *weights)
    return fusion.barrier(_residual(scale, factor)(x, *weights))


def residual_stack(
  x: jax.Array,
  count: int,
  name: str,
  *,
  dropout: float = 0.0,
  first: int = 0,
  scale_first: bool = True,
) -> jax.Array:
  """Applies `count` residual layers named `name_0`, `name_1` and so on.

  All divisions by √2 are taken together, so that the cotangents of what the layers add
  up are the same array and need not be written once more for each layer.

  Args:
    x: [..., channels].
    count: number of layers.
    name: begins their names.
    dropout: rate.
    first: number of the first layer.
    scale_first: divide before the layers, rather than behind them. It costs nothing
      where an elementwise operation stands beside.

  Returns:
    As `x`.
  """
  names = [f"{name}_{first + i}" for i in range(count)]
  if dropout:
    for name in names:
      x = Residual(dropout=dropout, name=name)(x)
    return x
  top = count if scale_first else 0
  scales = [2 ** ((top - i) / 2) for i in range(count + 1)]
  x = x * (1 / scales[0])
  for name, scale in zip(names, scales, strict=False):
    x = Residual(name=name)(x, scale=scale, factor=1.0)
  return x * scales[-1]


def skip(x: jax.Array, y: jax.Array) -> jax.Array:
  """Variance-preserving sum (x + y) / √2."""
  return fusion.barrier((x + y) * base_layers.SQRT_HALF)


class EdgeEmbedding(hk.Module):
  """New edge features from both atoms and the edge itself."""

  def __init__(self, channels: int, *, dropout: float = 0.0, name: str):
    super().__init__(name=name)
    self._channels = channels
    self._dropout = dropout

  def __call__(
    self, h: jax.Array, edge_features: jax.Array, batch: batch_lib.Batch
  ) -> jax.Array:
    """act(W [h_s, h_t, features]).

    The two atom parts are multiplied per atom and gathered, which costs less than
    multiplying gathered rows.

    Args:
      h: [N, atom].
      edge_features: [E, any].
      batch: packed structures.

    Returns:
      [E, channels].
    """
    atoms = h.shape[-1]
    inputs = 2 * atoms + edge_features.shape[-1]
    dense = SplitDense(self._channels, (atoms, atoms), inputs)
    source, target, edge = dense(h, h, edge_features)
    graph = batch.graphs.main
    source = indexing.take_rows(source, graph.senders)
    target = indexing.take_rows(target, graph.receivers, indices_are_sorted=True)
    x = base_layers.scaled_silu(source + target + edge)
    if self._dropout:
      x = hk.dropout(hk.next_rng_key(), self._dropout, x)
    return x


class SplitDense(Dense):
  """A dense layer on a concatenation, with the product taken part by part."""

  def __init__(self, channels: int, splits: tuple[int, int], inputs: int):
    super().__init__(channels, name="dense")
    self._splits = splits
    self._inputs = inputs

  def __call__(self, *parts: jax.Array) -> tuple[jax.Array, ...]:
    """Maps parts [..., n_i] to their contributions [..., channels]."""
    w = self.weight(self._inputs, parts[0].dtype)
    first, second = self._splits
    pieces = (w[:first], w[first : first + second], w[first + second :])
    return tuple(part @ piece for part, piece in zip(parts, pieces, strict=True))
