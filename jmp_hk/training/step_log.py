"""Metrics of the steps since the last line of the log."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.targets import arithmetic
from jmp_hk.training import sharding
from jmp_hk.training import step as step_lib

_FIRST_STEPS = 20
_EARLY = (
  "So early, the learning rate is too high (learning_rate, or a warm-up that is too "
  "short: warmup_steps, warmup_epochs), the labels of these records have another unit "
  "than was declared (energy_unit, forces_unit), or bfloat16 does not suffice "
  "(precision=float32)."
)
_LATE = "Look at these records, or lower the learning rate (learning_rate)."
_AHEAD = 2  # Steps that the host may run ahead of the devices.
# Of these the last value is told, not the mean.
_LAST_COUNTS = ("learning_rate", "structures")


class NonFiniteLossError(FloatingPointError):
  """A loss or gradient was not finite; names the structures of the batch."""


class StepLog:
  """Collects what steps return, without waiting for the devices until it is asked."""

  def __init__(self) -> None:
    """Starts empty."""
    self._metrics: list[Mapping[str, Any]] = []
    self._infos: list[batches_lib.BatchInfo] = []

  def __len__(self) -> int:
    return len(self._metrics)

  @property
  def position(self) -> Mapping[str, object]:
    """Position of the training data after the last step."""
    return self._infos[-1].state

  @property
  def num_structures(self) -> int:
    """Structures of all steps, over all processes; waits for the devices."""
    return sum(int(metrics["structures"]) for metrics in self._fetch())

  def steps(self, step: int) -> list[dict[str, Any]]:
    """The steps as JSON values, from which `restore` makes them again.

    Args:
      step: number of the last step.

    Raises:
      NonFiniteLossError: a step's loss or gradient was not finite.
    """
    fetched = self._fetch()
    self._check_finite(fetched, step)
    return [
      {
        "metrics": {name: float(value) for name, value in metrics.items()},
        "utilisation": dict(info.utilisation),
      }
      for metrics, info in zip(fetched, self._infos, strict=True)
    ]

  def restore(self, steps: Sequence[Mapping[str, Any]]) -> None:
    """Takes steps that a checkpoint holds."""
    for step in steps:
      self._metrics.append(step["metrics"])
      self._infos.append(
        batches_lib.BatchInfo(
          record_ids=(),
          draws=(),
          num_structures=0,
          num_atoms=0,
          utilisation=step["utilisation"],
        )
      )

  def add(self, metrics: Mapping[str, jax.Array], info: batches_lib.BatchInfo) -> None:
    """Takes a step that was just dispatched; waits for the step before the last.

    Args:
      metrics: scalars on the devices, see `step.make_train_step`.
      info: facts about the step's batch.
    """
    self._metrics.append(metrics)
    self._infos.append(info)
    if len(self._metrics) > _AHEAD:
      jax.block_until_ready(self._metrics[-1 - _AHEAD])

  def summarise(self, step: int) -> dict[str, float]:
    """Means over the steps; in a run of several processes all of them call it.

    Args:
      step: number of the last step.

    Returns:
      Metrics by name: "structures" of the last step; "dataset/metric" for each error;
      "epoch", the epochs of the data so far, where that is known; and
      "utilisation/field" for each field of the budget.

    Raises:
      NonFiniteLossError: a step's loss or gradient was not finite.
    """
    fetched = self._fetch()
    self._check_finite(fetched, step)
    values: dict[str, float] = {}
    for name in fetched[-1]:
      column = [float(metrics[name]) for metrics in fetched]
      if name.startswith(step_lib.ERROR_SUM):
        # Errors are averaged over structures or atoms rather than over steps.
        error = name.removeprefix(step_lib.ERROR_SUM)
        count = sum(metrics[step_lib.ERROR_COUNT + error] for metrics in fetched)
        if count:
          mean = sum(column) / float(count)
          values[error] = mean**0.5 if error.endswith(arithmetic.ROOT) else mean
      elif name in _LAST_COUNTS:
        values[name] = np.asarray(fetched[-1][name]).item()
      elif name != "finite" and not name.startswith(step_lib.ERROR_COUNT):
        values[name] = float(np.mean(column))
    return values | self._facts()

  def _facts(self) -> dict[str, float]:
    """What the hosts know of the batches, each of its own part of them."""
    used = {
      name: float(np.mean([info.utilisation[name] for info in self._infos]))
      for name in self._infos[-1].utilisation
    }
    parts = sharding.gather_json({"epoch": self._infos[-1].epoch, "used": used})
    epoch = min(part["epoch"] for part in parts)
    return ({"epoch": epoch} if epoch else {}) | {
      f"utilisation/{name}": float(np.mean([part["used"][name] for part in parts]))
      for name in used
    }

  def clear(self) -> None:
    """Forgets the steps."""
    self._metrics, self._infos = [], []

  def _fetch(self) -> Sequence[Mapping[str, Any]]:
    """The metrics of the steps on the host."""
    self._metrics = jax.device_get(self._metrics)
    return self._metrics

  def _check_finite(
    self, fetched: Sequence[Mapping[str, np.ndarray]], step: int
  ) -> None:
    """Raises for the first step whose loss or gradient was not finite."""
    for index, (metrics, info) in enumerate(zip(fetched, self._infos, strict=True)):
      if not metrics["finite"]:
        number = step - len(fetched) + index + 1
        names = [name for microbatch in info.record_ids for name in microbatch]
        raise NonFiniteLossError(
          f"Step {number}: the loss is {metrics['loss']} and "
          f"the gradient norm {metrics['gradient_norm']}. The batch held "
          f"{', '.join(names)}. No update was made with it; the last checkpoint was "
          f"made before. {_EARLY if number <= _FIRST_STEPS else _LATE}"
        )
