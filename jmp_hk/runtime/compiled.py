"""A jitted function that compiles exactly once, and says so when it would not."""

from collections.abc import Callable
import time
from typing import Any

import jax

from jmp_hk.runtime import compilation


class RecompileError(RuntimeError):
  """A step function was called with other shapes, dtypes or placements."""


class CompiledOnce:
  """Compiles a function at its first call and refuses to do it again.

  Attributes:
    compile_seconds: time of tracing and compilation, None before the first call.
    compiled: the compiled executable (for cost and memory analysis), or None.
  """

  def __init__(
    self, function: Callable[..., Any], name: str, **jit_options: Any
  ) -> None:
    """Wraps a function.

    Args:
      function: what is to be compiled.
      name: what it is called in messages and profiles.
      **jit_options: passed to `jax.jit`.
    """
    function.__name__ = function.__qualname__ = name
    self._jitted = jax.jit(function, **jit_options)
    self._name = name
    self._signature: list[tuple[str, str]] = []
    self.compiled: jax.stages.Compiled | None = None
    self.compile_seconds: float | None = None

  @property
  def num_compilations(self) -> int:
    """0 before the first call, then 1."""
    return int(self.compiled is not None)

  def lower(self, *args: Any) -> jax.stages.Lowered:
    """Traces the function for arguments or their shapes, for analysis alone."""
    return self._jitted.lower(*args)

  def __call__(self, *args: Any) -> Any:
    """Runs the function.

    Raises:
      RecompileError: the arguments differ in shape, dtype or placement from those
        of the first call; names the first that does.
    """
    if self.compiled is None:
      start = time.perf_counter()
      self._signature = _signature(args)
      self.compiled = compilation.compile_for(self._jitted, *args)
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


def _signature(args: Any) -> list[tuple[str, str]]:
  leaves = jax.tree_util.tree_leaves_with_path(args)
  return [
    (jax.tree_util.keystr(path), f"{x.dtype}{list(x.shape)}") for path, x in leaves
  ]


def _first_change(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> str | None:
  before = dict(old)
  for name, kind in new:
    if name not in before:
      return f"argument {name} is new"
    if before[name] != kind:
      return f"argument {name} is {kind}, it was {before[name]}"
  missing = set(before) - {name for name, _ in new}
  return f"arguments {sorted(missing)} are gone" if missing else None
