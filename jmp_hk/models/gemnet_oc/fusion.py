"""What keeps large arrays from being written, read and stored more often than needed.

The functions here compute what their plain counterparts do. They differ in what the
compiler makes of them, by the platform that is traced for (`compilation.trace_for`).
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from jmp_hk.runtime import compilation


def barrier(x: jax.Array) -> jax.Array:
  """Keeps XLA's CPU compiler from recomputing residual chains in every consumer.

  Its fusion pass otherwise duplicates the whole chain into each of them, at a cost
  that grows with depth squared. It needs the compiler flag that
  `jmp_hk.runtime.configuration` sets. Other back ends do not need it.
  """
  return jax.lax.optimization_barrier(x) if compilation.targets_cpu() else x


def saving_products(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Recomputes elementwise operations in the backward pass instead of storing them.

  Only the results of matrix products and the inputs are kept, which halves the memory
  of a chain of dense layers and saves writing what costs little to compute again.

  A barrier keeps the compiler from taking what is computed again for what the forward
  pass has computed. That of `jax.checkpoint` stands before the cotangents too, which
  then have to be written and read once more. On a GPU there is one of our own, before
  what was kept alone.

  Args:
    function: of arrays only; any number of derivatives can be taken, in reverse mode.
  """
  policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  guarded = jax.checkpoint(function, policy=policy)
  # Wrapped, because jax keeps the trace of a function, for whatever platform it was.
  unguarded = jax.checkpoint(
    functools.partial(function), policy=policy, prevent_cse=False
  )
  fused = jax.custom_vjp(unguarded)
  fused.defvjp(
    lambda *args: jax.vjp(unguarded, *args),
    lambda backward, cotangent: jax.lax.optimization_barrier(backward)(cotangent),
  )

  @functools.wraps(function)
  def chosen(*args: jax.Array) -> jax.Array:
    return guarded(*args) if compilation.targets_cpu() else fused(*args)

  return chosen


def filtered(x: jax.Array, radial: jax.Array, w: jax.Array) -> jax.Array:
  """Product with a linear function of few features.

  On a GPU that function is neither written nor kept: the kernel that multiplies by it
  computes it, and computes it again in the backward pass, which takes less time than
  to move an array as long as the edges twice.

  Args:
    x: [e, width].
    radial: [e, rbf].
    w: [rbf, width].

  Returns:
    [e, width], x * (radial @ w).
  """
  if compilation.targets_cpu():
    return x * (radial @ w)
  # Derivatives are traced later, outside of the policy that sets the precision.
  precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
  return _filtered(precision, x, radial, w)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _filtered(precision, x, radial, w):
  return x * _narrow_product(precision, radial, w)


def _filtered_backward(precision, kept, cotangent):
  x, radial, w = kept
  radial, w = jax.lax.optimization_barrier((radial, w))  # As in `saving_products`.
  product = functools.partial(_narrow_product, precision)
  gate, backward = jax.vjp(product, radial, w)
  return cotangent * gate, *backward(cotangent * x)


_filtered.defvjp(
  lambda precision, *args: (_filtered(precision, *args), args), _filtered_backward
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow_product(precision, x, w):
  """A matrix product as elementwise operations, which is none in its derivatives."""
  del precision  # Of the derivatives.
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return (x.astype(wide)[:, :, None] * w.astype(wide)).sum(1).astype(x.dtype)


def _narrow_product_backward(precision, kept, cotangent):
  x, w = kept
  product = functools.partial(jnp.matmul, precision=precision)
  return product(cotangent, w.T), product(x.T, cotangent)


_narrow_product.defvjp(
  lambda precision, *args: (_narrow_product(precision, *args), args),
  _narrow_product_backward,
)


def fan_out(x: jax.Array, count: int) -> tuple[jax.Array, ...]:
  """The same array for several functions, whose cotangents are added up one by one.

  XLA lets a matrix product add an array to its result, but looks at the first operand
  of a sum only, and not if that product adds something already. In the order in which
  jax sums, every second sum becomes a kernel of its own.

  Args:
    x: any array.
    count: number of functions.

  Returns:
    `x`, as often; the last one for the function that is differentiated first.
  """
  return _fan_out(x, count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _fan_out(x, count):
  return (x,) * count


def _add_up(count, kept, cotangents):
  del count, kept
  return (functools.reduce(lambda total, new: new + total, reversed(cotangents)),)


_fan_out.defvjp(lambda x, count: (fan_out(x, count), None), _add_up)
