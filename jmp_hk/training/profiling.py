"""Records some steps with jax's profiler."""

import logging
import pathlib

import chex
import jax

logger = logging.getLogger(__name__)

DIRECTORY = "profile"
_WARM_UP = 4  # Steps that are left out; the first of them compiles.


class Profiler:
  """Records some early steps of a run; changes nothing else.

  Look at the result with TensorBoard's profile plugin or XProf.
  """

  def __init__(self, num_steps: int, directory: pathlib.Path) -> None:
    """Records nothing yet.

    Args:
      num_steps: number of steps to record, after compilation and warm-up.
      directory: where the trace goes.
    """
    self._num_steps = num_steps
    self._directory = directory
    self._taken = 0
    self._is_recording = False

  def after_step(self, result: chex.ArrayTree) -> None:
    """Starts and ends the recording; to be called after every step.

    Args:
      result: arrays that the step computes.
    """
    self._taken += 1
    if self._taken == _WARM_UP and self._num_steps:
      jax.block_until_ready(result)
      jax.profiler.start_trace(str(self._directory))
      self._is_recording = True
    elif self._taken == _WARM_UP + self._num_steps:
      jax.block_until_ready(result)
      self.close()

  def close(self) -> None:
    """Ends a recording that is under way."""
    if self._is_recording:
      jax.profiler.stop_trace()
      logger.info("Recorded a profile in %s.", self._directory)
    self._is_recording = False
