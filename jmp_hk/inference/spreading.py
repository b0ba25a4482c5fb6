"""Spreads batches of one budget over the devices of a process: one batch on each."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Generic
from typing import TypeVar

import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.runtime import devices as devices_lib
from jmp_hk.training import sharding

TreeT = TypeVar("TreeT")  # A pytree of arrays.

_WORTH_COMPILING = 4  # Batches of each device that a compilation has to save.


def choose_count(
  num_batches: int, num_devices: int, compiled: Sequence[int] = ()
) -> int:
  """How many devices share some batches of one budget.

  That is one for each batch while there are devices, rounded up to a power of two, so
  that few programs are ever compiled. A program that exists for more devices is used as
  it is, and so is one for fewer where there are few batches, because compilation takes
  longer than they do.

  Args:
    num_batches: how many batches there are, at least one.
    num_devices: how many devices there are.
    compiled: numbers of devices for which there is a program already.
  """
  wanted = min(num_devices, 1 << (num_batches - 1).bit_length())
  known = [count for count in compiled if count <= num_devices]
  enough = [count for count in known if count >= wanted]
  if enough:
    return min(enough)
  if known and num_batches <= _WORTH_COMPILING * max(known):
    return max(known)
  return wanted


class DeviceCopies(Generic[TreeT]):
  """Arrays that are copied to each device once, when they are first needed there."""

  def __init__(self, tree: TreeT) -> None:
    """Takes the arrays; copies nothing yet."""
    self._tree = tree
    self._copies: dict[devices_lib.Device, TreeT] = {}
    self._together: dict[tuple[devices_lib.Device, ...], TreeT] = {}

  def on(self, devices: Sequence[devices_lib.Device]) -> TreeT:
    """The arrays, complete on each of some devices."""
    key = tuple(devices)
    if key not in self._together:
      everywhere = sharding.replicated(sharding.make_mesh(devices))
      for device in set(key) - set(self._copies):
        self._copies[device] = jax.device_put(self._tree, device)
      self._together[key] = jax.tree.map(
        lambda *parts: jax.make_array_from_single_device_arrays(
          parts[0].shape, everywhere, list(parts)
        ),
        *(self._copies[device] for device in key),
      )
    return self._together[key]


def put(
  batches: Sequence[batch_lib.Batch], devices: Sequence[devices_lib.Device]
) -> batch_lib.Batch:
  """Moves batches of one budget to the devices; leaves are [devices, …] then."""
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
  return jax.device_put(stacked, sharding.by_microbatch(sharding.make_mesh(devices)))


def on_each_device(
  function: Callable[[Any, batch_lib.Batch], TreeT],
  devices: Sequence[devices_lib.Device],
) -> jax.stages.Wrapped:
  """A function of one batch as a function of a batch on each device.

  Args:
    function: (variables, batch) → a pytree of arrays with at least one axis.
    devices: the devices.

  Returns:
    (variables on all devices, batches of `put`) → the arrays of all devices one after
    another, which `split` takes apart.
  """

  def local(variables: Any, batch: batch_lib.Batch) -> TreeT:
    return function(variables, jax.tree.map(lambda leaf: leaf[0], batch))

  spec = jax.sharding.PartitionSpec
  return jax.jit(
    jax.shard_map(
      local,
      mesh=sharding.make_mesh(devices),
      in_specs=(spec(), spec(sharding.AXIS)),
      out_specs=spec(sharding.AXIS),
      check_vma=False,
    )
  )


def split(outputs: TreeT, devices: Sequence[devices_lib.Device]) -> list[TreeT]:
  """What each device has computed, from the outputs of a function on each of them."""
  leaves, structure = jax.tree.flatten(outputs)
  parts = [{x.device: x.data for x in leaf.addressable_shards} for leaf in leaves]
  return [structure.unflatten([part[device] for part in parts]) for device in devices]
