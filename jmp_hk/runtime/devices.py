"""Which devices there are, and how many of them a computation uses."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax

Device = Any  # A `jax.Device`, which is a variable to type checkers.


class DevicesError(ValueError):
  """A step cannot be shared out over the devices; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Machine:
  """The devices that a run may use.

  Attributes:
    num_processes: processes of the run.
    devices_each: devices of each process.
  """

  num_processes: int
  devices_each: int

  @classmethod
  def present(cls, num_devices: int = 0) -> "Machine":
    """What there is: as many devices of every process.

    Args:
      num_devices: devices to use over all processes; zero uses all.

    Raises:
      DevicesError: there are fewer devices, or more processes.
    """
    count = jax.process_count()
    each = min(len(jax.local_devices(process_index=i)) for i in range(count))
    _check_enough(count * each, num_devices)
    if 0 < num_devices < count:
      raise DevicesError(
        f"Each of the {count} processes uses at least one device, but num_devices is "
        f"{num_devices}: start fewer processes."
      )
    return cls(count, num_devices // count if num_devices else each)

  def follow(self, batch_size: int) -> int:
    """Number of microbatches of a step: one for each device, none without structures.

    Args:
      batch_size: structures of a step.

    Raises:
      DevicesError: there are more processes than structures.
    """
    if batch_size < self.num_processes:
      raise DevicesError(
        f"A batch of {batch_size} cannot be shared by {self.num_processes} processes: "
        "start fewer processes, or raise batch_size."
      )
    return self.num_processes * min(self.devices_each, batch_size // self.num_processes)

  def used_each(self, num_microbatches: int) -> int:
    """Devices of a process that are used: the most that get equally much to do.

    Args:
      num_microbatches: microbatches of a step.

    Raises:
      DevicesError: the processes cannot have the same number of them.
    """
    if num_microbatches % self.num_processes:
      possible = [
        n for n in range(1, num_microbatches + 1) if num_microbatches % n == 0
      ]
      raise DevicesError(
        f"The {num_microbatches} microbatches of a step cannot be shared evenly by "
        f"{self.num_processes} processes: start {_alternatives(possible)} processes. "
        "A run keeps the number of its microbatches; a new one gets it from "
        "num_microbatches, or from its devices."
      )
    share = num_microbatches // self.num_processes
    return max(n for n in range(1, self.devices_each + 1) if share % n == 0)

  def devices(self, each: int) -> list[Device]:
    """As many devices of each process, process by process."""
    return [
      device
      for process in range(self.num_processes)
      for device in jax.local_devices(process_index=process)[:each]
    ]


def local_devices(num_devices: int = 0) -> list[Device]:
  """Devices of this process that computations of its own may use.

  Args:
    num_devices: how many; zero takes all, and where jax has been told of a default
      device (`jax.default_device`) that one alone.

  Raises:
    DevicesError: there are fewer.
  """
  found = jax.local_devices()
  _check_enough(len(found), num_devices)
  chosen = getattr(jax.config, "jax_default_device", None)
  if not num_devices and isinstance(chosen, jax.Device):
    return [chosen]
  return found[: num_devices or None]


def share_of_process(num_devices: int) -> int:
  """How many of a run's devices a process has; zero stands for all of them."""
  return num_devices // jax.process_count()


def _check_enough(count: int, num_devices: int) -> None:
  """Checks that as many devices are there as are wanted."""
  if num_devices < 0:
    raise DevicesError(f"num_devices={num_devices} must not be negative; 0 uses all.")
  if num_devices > count:
    raise DevicesError(
      f"There are {count} devices, fewer than num_devices={num_devices}: lower it, or "
      "leave it out to use all."
    )


def _alternatives(numbers: Sequence[int]) -> str:
  """Numbers as a list of choices."""
  *others, last = map(str, numbers)
  return f"{', '.join(others)} or {last}" if others else last
