"""Records some steps with jax's profiler."""

import pathlib
from typing import Any

from absl import logging
import jax

from jmp_hk.runtime import compilation

DIRECTORY = "profile"
_WARM_UP = 3  # Steps after compilation that are left out.


class ProfiledStep:
  """A compiled step of which some early calls are recorded; otherwise the same.

  Look at the result with TensorBoard's profile plugin or XProf.
  """

  def __init__(
    self, step: compilation.CompiledOnce, num_steps: int, directory: pathlib.Path
  ) -> None:
    """Wraps a step.

    Args:
      step: to be recorded.
      num_steps: how many calls, after compilation and warm-up.
      directory: where the trace goes.
    """
    self._step = step
    self._first = 1 + _WARM_UP
    self._last = self._first + num_steps - 1
    self._directory = directory
    self._calls = 0

  def __getattr__(self, name: str) -> Any:
    return getattr(self._step, name)

  def __call__(self, *args: Any) -> Any:
    """Runs the step; errors are those of `CompiledOnce`."""
    if self._calls == self._first:
      jax.block_until_ready(args)
      jax.profiler.start_trace(str(self._directory))
    result = self._step(*args)
    if self._calls == self._last:
      jax.block_until_ready(result)
      jax.profiler.stop_trace()
      logging.info("Recorded a profile in %s.", self._directory)
    self._calls += 1
    return result
