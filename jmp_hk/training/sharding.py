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
from jmp_hk.runtime import devices as devices_lib
from jmp_hk.runtime import prefetch

logger = logging.getLogger(__name__)

TreeT = TypeVar("TreeT")  # A pytree of arrays.

AXIS = "data"
_AHEAD = 2  # Batches that wait on the devices.


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
  machine = devices_lib.Machine.present(num_devices)
  each = machine.used_each(num_microbatches)
  if each < machine.devices_each:
    logger.info(
      "%d of %d devices are used: a step has %d structures in %d microbatches, as many "
      "for each device.",
      machine.num_processes * each,
      machine.num_processes * machine.devices_each,
      batch_size,
      num_microbatches,
    )
  return make_mesh(machine.devices(each))


def open_evaluation_mesh(num_devices: int = 0) -> jax.sharding.Mesh:
  """A mesh over all devices that a run may use, however few its steps take.

  Args:
    num_devices: devices to use over all processes; zero uses all.

  Raises:
    DevicesError: that is impossible.
  """
  machine = devices_lib.Machine.present(num_devices)
  return make_mesh(machine.devices(machine.devices_each))


def count_devices(num_microbatches: int, num_devices: int = 0) -> int:
  """Number of devices of `open_mesh`, over all processes; arguments likewise."""
  machine = devices_lib.Machine.present(num_devices)
  return machine.num_processes * machine.used_each(num_microbatches)


def make_mesh(
  devices: Sequence[devices_lib.Device] | None = None,
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
    raise devices_lib.DevicesError(
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
