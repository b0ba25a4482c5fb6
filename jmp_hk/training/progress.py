"""Speed of a run, and the one line that tells it."""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import time

from jmp_hk import text_table
from jmp_hk.runtime import console

_WINDOW = 20  # Log intervals that the speed is averaged over.


class Progress:
  """Measures training speed, leaving out compilation and evaluations."""

  def __init__(self, step: int, num_steps: int, seconds: float = 0.0) -> None:
    """Starts at a step.

    Args:
      step: number of steps taken so far.
      num_steps: number of steps of the whole run.
      seconds: training time so far, of earlier starts of the same run.
    """
    self._step = step
    self._num_steps = num_steps
    self._seconds = seconds
    self._last = time.perf_counter()
    # (steps, structures, seconds) of the last intervals.
    self._intervals: collections.deque[tuple[int, int, float]] = collections.deque(
      maxlen=_WINDOW
    )

  @property
  def seconds(self) -> float:
    """Training time over all starts, without compilation and evaluations."""
    return self._seconds

  def resume(self) -> None:
    """Starts the clock again after something that is no training."""
    self._last = time.perf_counter()

  def update(self, step: int, structures: int, *, counts: bool = True) -> None:
    """Takes an interval into account.

    Args:
      step: number of steps taken now.
      structures: structures of the steps since the last call, over all processes.
      counts: whether the interval is typical (no compilation in it).
    """
    now = time.perf_counter()
    elapsed, self._last = now - self._last, now
    self._seconds += elapsed if counts else 0.0
    if counts and step > self._step:
      self._intervals.append((step - self._step, structures, elapsed))
    self._step = step

  def rates(self) -> dict[str, float]:
    """Steps and structures a second; empty before the first typical interval."""
    seconds = sum(interval[2] for interval in self._intervals)
    if not seconds:
      return {}
    return {
      "steps_per_second": sum(i[0] for i in self._intervals) / seconds,
      "structures_per_second": sum(i[1] for i in self._intervals) / seconds,
    }

  def line(self, metrics: Mapping[str, float], errors: Sequence[str]) -> str:
    """The progress line.

    Args:
      metrics: metrics of the last interval.
      errors: errors of the targets with their units, see
        `metric_table.training_errors`.
    """
    rates = self.rates()
    width = len(str(self._num_steps))
    parts = [f"step {self._step:>{width}}/{self._num_steps}"]
    if "epoch" in metrics:
      parts.append(f"epoch {metrics['epoch']:.2f}")
    parts += [
      f"loss {text_table.number(metrics['loss'], 4)}",
      *errors,
      f"lr {metrics['learning_rate']:.1e}",
    ]
    if rates:
      left = (self._num_steps - self._step) / rates["steps_per_second"]
      parts += [
        f"{text_table.number(rates['structures_per_second'])} structures/s",
        f"ETA {console.duration(left)}",
      ]
    return " | ".join(parts)
