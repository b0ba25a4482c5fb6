"""Evaluates weights on whole data sets, on all devices."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import chex
import jax
from jax.experimental import multihost_utils
import numpy as np

from jmp_hk.runtime import compiled
from jmp_hk.training import feed
from jmp_hk.training import metrics as metrics_lib
from jmp_hk.training import sharding

# (params, scales, one microbatch) → "dataset/metric" → (sum, count).
MicrobatchSums = Callable[[Any, Any, Any], metrics_lib.Sums]

_AHEAD = 2  # Batches that the host may run ahead of the devices.


def make_eval_step(
  microbatch_sums: MicrobatchSums, mesh: jax.sharding.Mesh, name: str = "eval_step"
) -> compiled.CompiledOnce:
  """Builds (params, scales, batch [microbatches, ...]) → sums over all microbatches of all devices.

  Args:
    microbatch_sums: sums of one microbatch.
    mesh: the devices.
    name: of the step in messages and profiles.
  """

  def local(params: Any, scales: Any, microbatches: Any) -> metrics_lib.Sums:
    num_microbatches = jax.tree.leaves(microbatches)[0].shape[0]
    if num_microbatches == 1:
      sums = microbatch_sums(params, scales, jax.tree.map(lambda x: x[0], microbatches))
    else:
      by_microbatch = jax.lax.map(
        lambda microbatch: microbatch_sums(params, scales, microbatch), microbatches
      )
      sums = jax.tree.map(lambda x: x.sum(axis=0), by_microbatch)
    return jax.lax.psum(sums, sharding.AXIS)

  spec = jax.sharding.PartitionSpec
  evaluate = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(spec(), spec(), spec(sharding.AXIS)),
    out_specs=spec(),
    check_vma=False,
  )

  def eval_step(params: Any, scales: Any, batch: Any) -> metrics_lib.Sums:
    return evaluate(params, scales, batch)

  everywhere = sharding.replicated(mesh)
  return compiled.CompiledOnce(
    eval_step,
    name,
    in_shardings=(everywhere, everywhere, sharding.by_microbatch(mesh)),
    out_shardings=everywhere,
  )


def evaluate(
  eval_step: compiled.CompiledOnce,
  params: chex.ArrayTree,
  scales: chex.ArrayTree,
  batches: Iterable[feed.HostBatch],
  mesh: jax.sharding.Mesh,
  empty: Callable[[], feed.HostBatch] | None = None,
) -> dict[str, float]:
  """Metrics over all batches, in physical units.

  Args:
    eval_step: from `make_eval_step`.
    params: weights, usually the averaged ones.
    scales: scale factors.
    batches: every structure once; this process's microbatches.
    mesh: the devices.
    empty: makes a batch of padding. Processes that have finished go on with it until
      all have; needed where there are several.

  Returns:
    See `metrics.summarise`.
  """
  results: list[metrics_lib.Sums] = []
  with feed.Prefetcher(batches, mesh) as prefetched:
    for item in _until_all_end(prefetched, mesh, empty):
      results.append(eval_step(params, scales, item.batch))
      if len(results) > _AHEAD:
        jax.block_until_ready(results[-1 - _AHEAD])
  return metrics_lib.summarise(jax.device_get(results))


def _until_all_end(
  batches: Iterator[feed.HostBatch],
  mesh: jax.sharding.Mesh,
  empty: Callable[[], feed.HostBatch] | None,
) -> Iterator[feed.HostBatch]:
  """Yields as many batches in every process."""
  if jax.process_count() == 1:
    yield from batches
    return
  padding = empty()
  padding = padding._replace(batch=sharding.put_batch(padding.batch, mesh))
  while True:
    item = next(batches, None)
    going = multihost_utils.process_allgather(np.array(item is not None))
    if not going.any():
      return
    yield padding if item is None else item
