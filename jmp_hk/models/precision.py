"""What each part of a model is computed in: one policy, stated once.

NVIDIA's cards multiply float32 numbers as TensorFloat-32, with 10 bits after the point
instead of 23, wherever a program does not forbid it. A policy therefore gives every
product of a model a precision. Three parts are told apart: dense layers, messages
(sums over neighbors and angular functions), and everything else, which is always
computed in true float32: geometry, bases, sums over edges and atoms, and what forces
and stress add to them. Derivatives inherit the precision of what they are derived from.

Layers need not know of it: `apply_policy` sets jax's default precision while a model
is traced, and changes it inside the modules that a backbone names. A product that names
no precision itself is in float32, wherever somebody adds it.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import jmp as mixed_precision

Modules = Sequence[type[hk.Module]]


@dataclasses.dataclass(frozen=True)
class Arithmetic:
  """How the products of one part of a model are computed.

  Attributes:
    product: precision of products of float32 numbers. `DEFAULT` is TensorFloat-32 on
      NVIDIA's cards from the A100 on and float32 on CPUs; `HIGHEST` is float32
      everywhere. Nothing else changes with it, and float64 stays float64.
    dtype: narrower data type of operands and results; None keeps theirs.
  """

  product: jax.lax.Precision = jax.lax.Precision.HIGHEST
  dtype: jnp.dtype | None = None


EXACT = Arithmetic()
_TENSORFLOAT32 = Arithmetic(jax.lax.Precision.DEFAULT)
# XLA's kernels for bfloat16 sum in float32, but not all of them know other precisions.
_BFLOAT16 = Arithmetic(jax.lax.Precision.DEFAULT, jnp.dtype(jnp.bfloat16))


@dataclasses.dataclass(frozen=True)
class Policy:
  """The arithmetic of those parts of a model that may be less than exact.

  Attributes:
    dense: dense layers, those of heads among them.
    messages: embeddings of atoms and edges, and their sums over neighbors and angular
      functions.
  """

  dense: Arithmetic = EXACT
  messages: Arithmetic = EXACT

  def cast_embeddings(self, x: jax.Array) -> jax.Array:
    """Initial embeddings in the data type that messages are computed in."""
    return x if self.messages.dtype is None else x.astype(self.messages.dtype)


POLICIES: Mapping[str, Policy] = {
  "float32": Policy(),
  "tensorfloat32": Policy(dense=_TENSORFLOAT32),
  "bfloat16": Policy(dense=_BFLOAT16, messages=_BFLOAT16),
}


# What a trained model can be evaluated in; float64 is float32's policy on wider arrays.
INFERENCE = ("float32", "float64", "tensorfloat32", "bfloat16")


def check_precision(name: str, choices: Sequence[str] = tuple(POLICIES)) -> None:
  """Checks the name of a precision.

  Args:
    name: what was asked for.
    choices: names that can be used, by default those of policies.

  Raises:
    ValueError: it is none of them.
  """
  if name not in choices:
    raise ValueError(f"precision must be one of {tuple(choices)}, got {name!r}.")


@contextlib.contextmanager
def apply_policy(
  policy: Policy, dense: Modules = (), messages: Modules = ()
) -> Iterator[None]:
  """Traces what is inside with the precisions of a policy.

  Whatever jax's default precision is outside makes no difference.

  Args:
    policy: what parts are computed in.
    dense: classes of modules that are dense layers. Subclasses do not count.
    messages: classes of modules that sum messages, likewise. Dense layers inside of
      them are dense layers.
  """
  arithmetic = dict.fromkeys(messages, policy.messages)
  arithmetic |= dict.fromkeys(dense, policy.dense)

  def interceptor(
    next_call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    context: hk.MethodContext,
  ) -> Any:
    own = arithmetic.get(type(context.module))
    if own is None:
      return next_call(*args, **kwargs)
    with _products(own):
      return next_call(*args, **kwargs)

  with contextlib.ExitStack() as stack:
    stack.enter_context(_products(EXACT))
    stack.enter_context(hk.intercept_methods(interceptor))
    if policy.dense.dtype is not None:
      casts = mixed_precision.Policy(
        param_dtype=jnp.float32,
        compute_dtype=policy.dense.dtype,
        output_dtype=policy.dense.dtype,
      )
      for cls in dense:
        stack.enter_context(hk.mixed_precision.push_policy(cls, casts))
    yield


def _products(arithmetic: Arithmetic) -> contextlib.AbstractContextManager[None]:
  """Sets the precision of products that name none."""
  return jax.default_matmul_precision(arithmetic.product.name.lower())
