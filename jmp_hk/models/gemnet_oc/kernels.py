"""Layers on edges as kernels of our own, for NVIDIA's cards.

XLA writes what stands between the products of a layer to memory and reads it again,
once for every elementwise operation, and each array is as long as the edges. Here a
product applies the activation to what it reads, and activation and skip connection to
what it is about to write; in the backward pass likewise.

- A residual layer moves 19 arrays of its size instead of 25.
- Both projections of an edge and its reverse move 7 instead of 15, and keep none, since
  their inputs are narrow and what they activate is soon computed again.

What XLA compiles stays the default, see `compilation.uses_own_kernels`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pallas_triton
import jax.numpy as jnp

from jmp_hk.models import layers as base_layers

# A kernel computes this many rows of a result at a time, in steps of so many terms.
_ROWS = 128
_DEPTH = 64
_COLUMNS = (256, 128)  # The first that divides the width.
_STAGES = 2  # Steps that are loaded ahead, as many as fit into an H100's shared memory.
_MOST_WEIGHTS = 8192  # Entries of a weight that a kernel reads at a time.
_NARROW = (16, 32, 64, 128)  # Widths of the inputs of projections.

# Products in each kernel, all with as many rows and with the shape of its last operand.
NUM_PRODUCTS = {
  "residual_forward": 1,
  "residual_backward": 1,
  "symmetric_forward": 2,
  "symmetric_backward": 4,
}

Shape = tuple[int, int]


class _Tile(NamedTuple):
  """The part of a product that one kernel computes.

  Attributes:
    rows: which rows of the result.
    columns: which columns of it.
    width: number of terms.
  """

  rows: pl.Slice
  columns: pl.Slice
  width: int


def suits_residual(x: jax.Array) -> bool:
  """Whether there is a kernel for a residual layer: bfloat16, wide and long enough."""
  return _suits(x) and not x.shape[1] % _COLUMNS[-1]


def suits_symmetric(x: jax.Array, channels: int) -> bool:
  """Whether there is one for projections of narrow inputs to so many channels."""
  return _suits(x) and x.shape[1] in _NARROW and not channels % _COLUMNS[-1]


def _suits(x: jax.Array) -> bool:
  return x.ndim == 2 and x.dtype == jnp.bfloat16 and len(x) >= _ROWS


@functools.cache
def residual(
  scale: float, factor: float, *, interpret: bool = False
) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
  """A residual layer of x, where the array given is x / scale.

  Args:
    scale: what the layer's input was divided by.
    factor: what the sum is multiplied by.
    interpret: run the kernels step by step on any platform, for tests.

  Returns:
    A function of it [rows, channels] and both weights [channels, channels], which
    returns (x + f(x)) * factor / scale. It can be differentiated once.
  """

  def forward(x, first, second):
    before = x @ first
    out, middle = _residual_forward(before, x, second, scale, factor, interpret)
    return out, (x, before, middle, first, second)

  def backward(kept, cotangent):
    x, before, middle, first, second = kept
    to_first, activated, to_second = _residual_backward(
      before, middle, cotangent, second, scale, factor, interpret
    )
    to_x = cotangent * jnp.asarray(factor, x.dtype) + to_first @ first.T
    return to_x, x.T @ to_first, activated.T @ to_second

  layer = jax.custom_vjp(lambda *args: forward(*args)[0])
  layer.defvjp(forward, backward)
  return layer


def _residual_forward(before, x, second, scale, factor, interpret):
  """The layer from its first product on: its result, and its second product."""

  def kernel(before_ref, x_ref, w_ref, out_ref, middle_ref):
    tile = _tile(before_ref)

    def left(terms):
      y = base_layers.scaled_silu(scale * _wide(before_ref[tile.rows, terms]))
      return y.astype(x.dtype)

    middle = _product(left, lambda terms: w_ref[terms, tile.columns], tile)
    y = (1 / scale) * base_layers.scaled_silu(middle)
    out = (_wide(x_ref[tile.rows, tile.columns]) + y) * factor
    out_ref[tile.rows, tile.columns] = out.astype(x.dtype)
    middle_ref[tile.rows, tile.columns] = middle.astype(x.dtype)

  call = _call(kernel, "residual_forward", 2 * [x.shape], _grid(x.shape), interpret)
  return call(before, x, second)


def _residual_backward(before, middle, cotangent, second, scale, factor, interpret):
  """Cotangent of the first product, what was activated of it, and that of the second.

  The last two are what the second weight's gradient is the product of.
  """

  def kernel(
    before_ref, middle_ref, cotangent_ref, w_ref, to_first_ref, y_ref, to_second_ref
  ):
    tile = _tile(before_ref)

    def to_second(columns):
      given = (factor / scale) * _wide(cotangent_ref[tile.rows, columns])
      slope = _slope(_wide(middle_ref[tile.rows, columns]))
      return (given * slope).astype(before.dtype)

    # The weight is read transposed.
    to_y = _product(to_second, lambda terms: w_ref[tile.columns, terms].T, tile)
    z = scale * _wide(before_ref[tile.rows, tile.columns])
    to_first = (scale * _slope(z) * to_y).astype(before.dtype)
    to_first_ref[tile.rows, tile.columns] = to_first
    y = base_layers.scaled_silu(z).astype(before.dtype)
    y_ref[tile.rows, tile.columns] = y
    to_second_ref[tile.rows, tile.columns] = to_second(tile.columns)

  shape = before.shape
  call = _call(kernel, "residual_backward", 3 * [shape], _grid(shape), interpret)
  return call(before, middle, cotangent, second)


@functools.cache
def symmetric(
  *, interpret: bool = False
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]:
  """Sum of two activated projections over √2, the second of the reverse edge.

  Args:
    interpret: see `residual`.

  Returns:
    A function of x [E, in], both weights [in, channels] and the reverse edges [E],
    which returns [E, channels]. It can be differentiated once.
  """

  def forward(x, of_edge, of_reverse, reverse):
    out = _symmetric_forward(reverse, x, of_edge, of_reverse, interpret)
    return out, (x, of_edge, of_reverse, reverse)

  def backward(kept, cotangent):
    x, of_edge, of_reverse, reverse = kept
    to_x, to_first, to_second = _symmetric_backward(
      reverse, x, cotangent, of_edge, of_reverse, interpret
    )
    return to_x, x.T @ to_first, x.T @ to_second, None

  layer = jax.custom_vjp(lambda *args: forward(*args)[0])
  layer.defvjp(forward, backward)
  return layer


def _symmetric_forward(reverse, x, of_edge, of_reverse, interpret):
  """The sum, all terms of a product at once."""

  def kernel(reverse_ref, x_ref, first_ref, second_ref, out_ref):
    tile = _tile(out_ref)
    ours = pl.dot(x_ref[tile.rows, :], first_ref[:, tile.columns])
    theirs = x_ref[reverse_ref[tile.rows], :]
    theirs = pl.dot(theirs, second_ref[:, tile.columns])
    out = base_layers.scaled_silu(ours) + base_layers.scaled_silu(theirs)
    out_ref[tile.rows, tile.columns] = (base_layers.SQRT_HALF * out).astype(x.dtype)

  shape = len(x), of_edge.shape[1]
  call = _call(kernel, "symmetric_forward", [shape], _grid(shape), interpret)
  return call(reverse, x, of_edge, of_reverse)[0]


def _symmetric_backward(reverse, x, cotangent, of_edge, of_reverse, interpret):
  """Cotangents of x and of both products, a few columns of these at a time."""
  # More would not fit into the shared memory beside the weights of wide inputs.
  width = min(_COLUMNS[-1], _MOST_WEIGHTS // x.shape[1])

  def kernel(
    reverse_ref, x_ref, cotangent_ref, first_ref, second_ref, to_x_ref, *to_products
  ):
    rows = _rows(len(x))
    ours = x_ref[rows, :]
    # What an edge gives to its reverse, its reverse gives to it.
    sources = rows, reverse_ref[rows]

    def add(step, total):
      columns = pl.Slice(step * width, width)
      weights = first_ref[:, columns], second_ref[:, columns]
      for source, w, ref in zip(sources, weights, to_products, strict=True):
        given = base_layers.SQRT_HALF * _wide(cotangent_ref[source, columns])
        given = (given * _slope(pl.dot(ours, w))).astype(x.dtype)
        ref[rows, columns] = given
        total += pl.dot(given, w.T)
      return total

    total = jnp.zeros((_ROWS, x.shape[1]), jnp.float32)
    steps = cotangent.shape[1] // width
    to_x_ref[rows, :] = jax.lax.fori_loop(0, steps, add, total).astype(x.dtype)

  shapes = x.shape, cotangent.shape, cotangent.shape
  grid = 1, pl.cdiv(len(x), _ROWS)
  call = _call(kernel, "symmetric_backward", shapes, grid, interpret)
  return call(reverse, x, cotangent, of_edge, of_reverse)


def _call(kernel, name: str, results: Sequence[Shape], grid: Shape, interpret: bool):
  """A function that runs a kernel on a grid and returns arrays of bfloat16."""
  return pl.pallas_call(
    kernel,
    grid=grid,
    out_shape=[jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in results],
    compiler_params=pallas_triton.CompilerParams(num_warps=8, num_stages=_STAGES),
    interpret=interpret,
    name=name,
  )


def _grid(shape: Shape) -> Shape:
  """Tiles of the same rows run side by side, so that these are read once."""
  rows, width = shape
  return width // _columns(width), pl.cdiv(rows, _ROWS)


def _columns(width: int) -> int:
  return next(columns for columns in _COLUMNS if not width % columns)


def _tile(ref) -> _Tile:
  """The tile of a result that the running kernel computes."""
  rows, width = ref.shape
  columns = _columns(width)
  return _Tile(
    rows=_rows(rows),
    columns=pl.Slice(pl.program_id(0) * columns, columns),
    width=width,
  )


def _rows(count: int) -> pl.Slice:
  """The rows of the running kernel.

  The last ones are computed together with some that another kernel computes too. Both
  write the same.
  """
  return pl.Slice(jnp.minimum(pl.program_id(1) * _ROWS, count - _ROWS), _ROWS)


def _product(left, right, tile: _Tile) -> jax.Array:
  """The product of two matrices that are given by slices of terms, in float32."""

  def add(step, total):
    terms = pl.ds(step * _DEPTH, _DEPTH)
    return total + pl.dot(left(terms), right(terms))

  zero = jnp.zeros((tile.rows.size, tile.columns.size), jnp.float32)
  return jax.lax.fori_loop(0, tile.width // _DEPTH, add, zero)


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32)


def _slope(z: jax.Array) -> jax.Array:
  """The derivative of the activation."""
  return jax.jvp(base_layers.scaled_silu, (z,), (jnp.ones_like(z),))[1]
