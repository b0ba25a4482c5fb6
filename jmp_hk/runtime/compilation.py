"""Compiles functions, and clears up what the compiler leaves behind."""

from typing import Any

import jax

from jmp_hk.runtime import allocator


def compile_for(jitted: Any, *args: Any) -> jax.stages.Compiled:
  """Compiles a function from `jax.jit` for arguments, and closes the heap's gaps.

  Args:
    jitted: what `jax.jit` gave.
    *args: its arguments, or their shapes.
  """
  compiled = jitted.lower(*args).compile()
  allocator.close_gaps()
  return compiled
