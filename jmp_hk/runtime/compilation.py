"""Compilation of functions: at a known moment, and no more often than necessary."""

from collections.abc import Callable
import functools
import time
from typing import Any

import jax

from jmp_hk.runtime import allocator

# Arguments and results of a compiled function are any pytrees of arrays.
Signature = list[tuple[str, str]]


class RecompileError(RuntimeError):
  """A step function was called with other shapes, dtypes or placements."""


def compile_for(jitted: jax.stages.Wrapped, *args: Any) -> jax.stages.Compiled:
  """Compiles a function for given arguments, and closes the heap's gaps.

  Args:
    jitted: a function from `jax.jit`.
    *args: its arguments, or their shapes.

  Returns:
    The executable.
  """
  compiled = jitted.lower(*args).compile()
  allocator.close_gaps()
  return compiled


class CompiledOnce:
  """A function that is compiled at its first call and never again.

  Attributes:
    compile_seconds: time that tracing and compilation took; None before the first call.
    compiled: the executable, for the analysis of its cost and memory; None before the
      first call.
  """

  def __init__(
    self, function: Callable[..., Any], name: str, **jit_options: Any
  ) -> None:
    """Wraps a function.

    Args:
      function: the function.
      name: name of the program in messages and profiles.
      **jit_options: options of `jax.jit`.
    """

    @functools.wraps(function)
    def named(*args: Any) -> Any:
      return function(*args)

    named.__name__ = named.__qualname__ = name
    self._jitted = jax.jit(named, **jit_options)
    self._name = name
    self._signature: Signature = []
    self.compiled: jax.stages.Compiled | None = None
    self.compile_seconds: float | None = None

  @property
  def num_compilations(self) -> int:
    """0 before the first call, then 1."""
    return int(self.compiled is not None)

  def lower(
    self, *args: Any, platforms: tuple[str, ...] | None = None
  ) -> jax.stages.Lowered:
    """Traces the function, without compiling it.

    Args:
      *args: its arguments, or their shapes.
      platforms: what the program is for, e.g. ("cuda",), whatever this machine has;
        None stands for this machine.
    """
    return self._jitted.trace(*args).lower(lowering_platforms=platforms)

  def __call__(self, *args: Any) -> Any:
    """Runs the function.

    Raises:
      RecompileError: an argument differs in shape, dtype or placement from that of the
        first call; the message names the first that does.
    """
    if self.compiled is None:
      start = time.perf_counter()
      self._signature = _signature(args)
      self.compiled = compile_for(self._jitted, *args)
      self.compile_seconds = time.perf_counter() - start
    try:
      return self.compiled(*args)
    except (TypeError, ValueError) as error:
      change = _first_change(self._signature, _signature(args))
      if change is None and "sharding" not in str(error):
        raise
      raise RecompileError(
        f"The {self._name} would have to be compiled again: {change or error}. All "
        "batches of a run must be packed to one budget with the same microbatches."
      ) from error


def _signature(args: Any) -> Signature:
  """Path, dtype and shape of every array in the arguments."""
  leaves = jax.tree_util.tree_leaves_with_path(args)
  return [
    (jax.tree_util.keystr(path), f"{x.dtype}{list(x.shape)}") for path, x in leaves
  ]


def _first_change(old: Signature, new: Signature) -> str | None:
  """The first difference between two signatures, as a clause; None if there is none."""
  before = dict(old)
  for name, kind in new:
    if name not in before:
      return f"argument {name} is new"
    if before[name] != kind:
      return f"argument {name} is {kind}, it was {before[name]}"
  missing = set(before) - {name for name, _ in new}
  return f"arguments {sorted(missing)} are gone" if missing else None
