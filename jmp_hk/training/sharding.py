"""Devices as a one-axis mesh; batches split over it, state copied to all of it."""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import json
import logging
from typing import Any
from typing import TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.runtime import prefetch

logger = logging.getLogger(__name__)

TreeT = TypeVar("TreeT")  # A pytree of arrays.

AXIS = "data"
_AHEAD = 2  # Batches that wait on the devices.


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

  def make_mesh(self, each: int) -> jax.sharding.Mesh:
    """A mesh over as many devices of each process."""
    return make_mesh(
      [
        device
        for process in range(self.num_processes)
        for device in jax.local_devices(process_index=process)[:each]
      ]
    )


def local_devices(num_devices: int = 0) -> list[jax.Device]:
  """Devices of this process that computations of its own may use.

  Args:
    num_devices: how many; zero takes all, and where jax has been told of a default
      device (`jax.default_device`) that one alone.

  Raises:
    DevicesError: there are fewer.
  """
  found = jax.local_devices()
  _check_enough(len(found), num_devices)
  chosen = jax.config.jax_default_device
  if not num_devices and isinstance(chosen, jax.Device):
    return [chosen]
  return found[: num_devices or None]


def share_of_process(num_devices: int) -> int:
  """How many of a run's devices a process has; zero stands for all of them."""
  return num_devices // jax.process_count()


def _check_enough(count: int, num_devices: int) -> None:
  """Checks that as many devices are there as are wanted."""
  if num_devices > count:
    raise DevicesError(
      f"There are {count} devices, fewer than num_devices={num_devices}: lower it, or "
      "leave it out to use all."
    )


def _alternatives(numbers: Sequence[int]) -> str:
  """Numbers as a list of choices."""
  *others, last = map(str, numbers)
  return f"{', '.join(others)} or {last}" if others else last


def open_mesh(
  batch_size: int, num_microbatches: int, num_devices: int = 0
) -> jax.sharding.Mesh:
  """A mesh over the devices that a run uses, all with the same number of microbatches.

  Args:
    batch_size: structures of a step.
    num_microbatches: microbatches of a step.
    num_devices: devices to use over all processes; zero uses all.

  Raises:
    DevicesError: that is impossible.
  """
  machine = Machine.present(num_devices)
  each = machine.used_each(num_microbatches)
  if each < machine.devices_each:
    logger.info(
      "%d of %d devices are used: a step has %d structures in %d microbatches, as many "
      "for each device. Validations use all.",
      machine.num_processes * each,
      machine.num_processes * machine.devices_each,
      batch_size,
      num_microbatches,
    )
  return machine.make_mesh(each)


def open_evaluation_mesh(num_devices: int = 0) -> jax.sharding.Mesh:
  """A mesh over all devices that a run may use, however few its steps take.

  Args:
    num_devices: devices to use over all processes; zero uses all.

  Raises:
    DevicesError: that is impossible.
  """
  machine = Machine.present(num_devices)
  return machine.make_mesh(machine.devices_each)


def count_devices(num_microbatches: int, num_devices: int = 0) -> int:
  """Number of devices of `open_mesh`, over all processes; arguments likewise."""
  machine = Machine.present(num_devices)
  return machine.num_processes * machine.used_each(num_microbatches)


def make_mesh(
  devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> jax.sharding.Mesh:
  """A mesh of one axis over the given devices, by default all of all processes."""
  return jax.sharding.Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Every device holds everything."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def by_microbatch(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The leading axis (microbatches) is split over the devices."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))


def local_microbatches(
  mesh: jax.sharding.Mesh, num_microbatches: int
) -> tuple[int, ...]:
  """Numbers of the microbatches that this process has to supply.

  Args:
    mesh: the devices, whose number divides that of the microbatches.
    num_microbatches: microbatches of one step over all processes.

  Raises:
    DevicesError: it does not.
  """
  each, rest = divmod(num_microbatches, mesh.size)
  if rest:
    raise DevicesError(
      f"{num_microbatches} microbatches cannot be shared evenly by {mesh.size} "
      "devices; `open_mesh` chooses devices that can."
    )
  return tuple(
    position * each + microbatch
    for position, device in enumerate(mesh.devices.flat)
    if device.process_index == jax.process_index()
    for microbatch in range(each)
  )


def put_batch(batch: TreeT, mesh: jax.sharding.Mesh) -> TreeT:
  """Moves this process's microbatches to its devices, as part of the global batch.

  Args:
    batch: NumPy leaves [local microbatches, ...].
    mesh: the devices.

  Returns:
    Global arrays [microbatches, ...], split by microbatch.
  """
  sharding = by_microbatch(mesh)
  if jax.process_count() == 1:
    return jax.device_put(batch, sharding)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )


def to_devices(
  batches: Iterable[batches_lib.PipelineBatch], mesh: jax.sharding.Mesh
) -> prefetch.Prefetcher[batches_lib.PipelineBatch]:
  """Iterates over batches on the devices; a thread keeps some of them ready.

  Args:
    batches: batches on the host.
    mesh: the devices.

  Returns:
    An iterator that is a context manager, which ends the thread.
  """

  def put(item: batches_lib.PipelineBatch) -> batches_lib.PipelineBatch:
    return dataclasses.replace(item, batch=put_batch(item.batch, mesh))

  return prefetch.Prefetcher(batches, _AHEAD, put)


def put_replicated(tree: TreeT, mesh: jax.sharding.Mesh) -> TreeT:
  """Copies host values to every device; never an alias, so they may be donated."""
  sharding = replicated(mesh)
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding, may_alias=False)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
  )


def copy_replicated(tree: TreeT, mesh: jax.sharding.Mesh) -> TreeT:
  """Copies what every device of one mesh has to every device of another one.

  Args:
    tree: arrays that are replicated on a mesh with devices of this process.
    mesh: the other mesh; arrays may share memory where it has the same devices.
  """
  sharding = replicated(mesh)

  def copy(x: jax.Array) -> jax.Array:
    mine = x.addressable_data(0)
    copies = [jax.device_put(mine, device) for device in mesh.local_devices]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, copies)

  return jax.tree.map(copy, tree)


def from_first_process(tree: TreeT) -> TreeT:
  """The values that process 0 has, in every process."""
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(tree)


def gather_json(value: Any) -> list[Any]:
  """A JSON value from every process, in the order of the processes."""
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(len(data)))
  padded = np.zeros(int(lengths.max()), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
  return [json.loads(row[:n].tobytes()) for row, n in zip(rows, lengths, strict=True)]
