"""Moves batches from the data pipeline to the devices ahead of their use."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax

from jmp_hk.runtime import prefetch
from jmp_hk.training import sharding


class HostBatch(NamedTuple):
  """What the data pipeline yields for one step.

  Attributes:
    batch: this process's microbatches, a pytree of NumPy arrays
      [local microbatches, ...].
    record_ids: identifiers of the structures in it, for messages.
    resume: JSON values that make the pipeline go on after this batch.
    utilisation: used part of each field of the budget, by name.
  """

  batch: Any
  record_ids: Sequence[str]
  resume: Mapping[str, Any]
  utilisation: Mapping[str, float]


def to_devices(
  source: Iterable[HostBatch], mesh: jax.sharding.Mesh, depth: int = 2
) -> prefetch.Prefetcher[HostBatch]:
  """Iterates over batches on the devices; a thread keeps some of them ready.

  Args:
    source: batches on the host.
    mesh: the devices.
    depth: largest number of batches that wait on the devices.

  Returns:
    An iterator that is a context manager, which ends the thread.
  """

  def put(item: HostBatch) -> HostBatch:
    return item._replace(batch=sharding.put_batch(item.batch, mesh))

  return prefetch.Prefetcher(source, depth, put)
