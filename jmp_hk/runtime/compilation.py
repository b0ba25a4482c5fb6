"""Compilation of functions: at a known moment, and no more often than necessary."""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import contextvars
import functools
import os
import time
from typing import Any

import jax

from jmp_hk.runtime import allocator
from jmp_hk.runtime import interruption

# Arguments and results of a compiled function are any pytrees of arrays.
Signature = list[tuple[str, str]]


# Set to 1, it puts kernels of our own in the place of some that XLA makes.
KERNELS_VARIABLE = "JMP_HK_KERNELS"

_target = contextvars.ContextVar("target_platform", default="")


@contextlib.contextmanager
def trace_for(platform: str) -> Iterator[None]:
  """Programs that are traced inside are for a platform that may not be here.

  Args:
    platform: as `jax.default_backend` names it, e.g. "gpu".
  """
  token = _target.set(platform)
  try:
    yield
  finally:
    _target.reset(token)


def target_platform() -> str:
  """What programs are being traced for: this process's back end, see `trace_for`."""
  return _target.get() or jax.default_backend()


def targets_cpu() -> bool:
  """Whether programs are being traced for a CPU."""
  return target_platform() == "cpu"


def wants_own_kernels() -> bool:
  """Whether the environment asks for kernels of our own, which only GPUs have.

  They are off by default: none has been timed on a card.
  """
  return os.environ.get(KERNELS_VARIABLE) == "1"


def uses_own_kernels() -> bool:
  """Whether programs are being traced that have them."""
  return wants_own_kernels() and not targets_cpu()


class RecompileError(RuntimeError):
  """A function was called with shapes, dtypes or placements that it is not for."""


def compile_for(jitted: jax.stages.Wrapped, *args: Any) -> jax.stages.Compiled:
  """Compiles a function for given arguments, and closes the heap's gaps.

  Args:
    jitted: a function from `jax.jit`.
    *args: its arguments, or their shapes.

  Returns:
    The executable.

  Raises:
    Interrupted, Terminated: a signal came while it was compiled.
  """
  lowered = jitted.lower(*args)
  with interruption.deferred():
    compiled = lowered.compile()
  allocator.close_gaps()
  return compiled


def memory_bytes(compiled: jax.stages.Compiled, growth: float = 1.0) -> int | None:
  """Memory that a compiled function takes on each device, by XLA's account.

  Args:
    compiled: the function.
    growth: factor on what it needs for its work, as for batches that are larger.

  Returns:
    Bytes of arguments, results and work; None where the back end gives no account.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    return None
  kept = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
  work = round(growth * analysis.temp_size_in_bytes)
  return kept - analysis.alias_size_in_bytes + work


class CompiledFunction:
  """A function that is compiled for few shapes of its arguments, and for no others.

  Attributes:
    compile_seconds: time that tracing and compilation took, the last time; None before
      the first call.
    compiled: the executable of the last call, for the analysis of its cost and memory;
      None before the first call.
  """

  def __init__(
    self,
    function: Callable[..., Any],
    name: str,
    *,
    most: int = 1,
    varying: int = -1,
    **jit_options: Any,
  ) -> None:
    """Wraps a function.

    Args:
      function: the function.
      name: name of the program in messages and profiles.
      most: number of shapes that it is compiled for at most.
      varying: index of the argument whose arrays may have several shapes; those of all
        others always have the same.
      **jit_options: options of `jax.jit`.
    """

    @functools.wraps(function)
    def named(*args: Any) -> Any:
      return function(*args)

    named.__name__ = named.__qualname__ = name
    self._jitted = jax.jit(named, **jit_options)
    self._name, self._most, self._varying = name, most, varying
    self._signature: Signature = []  # Of the last compilation.
    self._executables: dict[Hashable, jax.stages.Compiled] = {}
    self.compiled: jax.stages.Compiled | None = None
    self.compile_seconds: float | None = None

  @property
  def num_compilations(self) -> int:
    """For how many shapes it has been compiled."""
    return len(self._executables)

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

  def __call__(
    self, *args: Any, before_compiling: Callable[[], None] | None = None
  ) -> Any:
    """Runs the function.

    Args:
      *args: its arguments.
      before_compiling: called first if it has to be compiled for them.

    Raises:
      RecompileError: it has been compiled for as many shapes as it may be and these
        are others, or another argument differs in shape, dtype or placement from that
        of earlier calls; the message names the first that does.
    """
    key = self._key(args)
    if key not in self._executables:
      if len(self._executables) == self._most:
        change = _first_change(self._signature, _signature(args))
        raise self._refusal(change or "its arguments have another structure")
      if before_compiling is not None:
        before_compiling()
      start = time.perf_counter()
      self._signature = _signature(args)
      self._executables[key] = compile_for(self._jitted, *args)
      self.compile_seconds = time.perf_counter() - start
    self.compiled = self._executables[key]
    try:
      return self.compiled(*args)
    except (TypeError, ValueError) as error:
      change = _first_change(self._signature, _signature(args))
      if change is None and "sharding" not in str(error):
        raise
      raise self._refusal(change or str(error)) from error

  def _key(self, args: Sequence[Any]) -> Hashable:
    """What tells one executable from another."""
    leaves, structure = jax.tree.flatten(args[self._varying])
    return structure, *((leaf.shape, leaf.dtype) for leaf in leaves)

  def _refusal(self, reason: str) -> RecompileError:
    return RecompileError(
      f"The {self._name} would have to be compiled again: {reason}. Batches of a run "
      "must be packed to its budgets with the same microbatches."
    )


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
