"""Evaluates weights on whole datasets, on all devices."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses

import chex
import haiku as hk
import jax
from jax.experimental import multihost_utils
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.runtime import compilation
from jmp_hk.training import metrics as metrics_lib
from jmp_hk.training import objective as objective_lib
from jmp_hk.training import sharding

_AHEAD = 2  # Batches that the host may run ahead of the devices.


def make_eval_step(
  microbatch_sums: objective_lib.MicrobatchSums,
  mesh: jax.sharding.Mesh,
  name: str = "eval_step",
) -> compilation.CompiledOnce:
  """Builds (params, scales, batch) → sums over all microbatches of all devices.

  Args:
    microbatch_sums: gives the sums of one microbatch.
    mesh: the devices.
    name: name of the step in messages and profiles.
  """

  def local(
    params: hk.Params, scales: hk.State, microbatches: batch_lib.Batch
  ) -> metrics_lib.Sums:
    chex.assert_equal_shape_prefix(jax.tree.leaves(microbatches), 1)
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
  everywhere = sharding.replicated(mesh)
  return compilation.CompiledOnce(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(spec(), spec(), spec(sharding.AXIS)),
      out_specs=spec(),
      check_vma=False,
    ),
    name,
    in_shardings=(everywhere, everywhere, sharding.by_microbatch(mesh)),
    out_shardings=everywhere,
  )


def evaluate(
  eval_step: compilation.CompiledOnce,
  variables: model_lib.Variables,
  batches: Iterable[batches_lib.PipelineBatch],
  mesh: jax.sharding.Mesh,
  empty: Callable[[], batches_lib.PipelineBatch],
) -> dict[str, float]:
  """Metrics over all batches, in physical units.

  Args:
    eval_step: evaluation step from `make_eval_step`.
    variables: weights, usually the averaged ones, and scale factors.
    batches: this process's microbatches, with every structure once.
    mesh: the devices.
    empty: makes a batch of padding. Processes that have finished go on with it until
      all have.

  Returns:
    See `metrics.summarise`.
  """
  results: list[metrics_lib.Sums] = []
  with sharding.to_devices(batches, mesh) as prefetched:
    for item in _until_all_end(prefetched, mesh, empty):
      results.append(eval_step(*variables, item.batch))
      if len(results) > _AHEAD:
        jax.block_until_ready(results[-1 - _AHEAD])
  return metrics_lib.summarise(jax.device_get(results))


def _until_all_end(
  batches: Iterator[batches_lib.PipelineBatch],
  mesh: jax.sharding.Mesh,
  empty: Callable[[], batches_lib.PipelineBatch],
) -> Iterator[batches_lib.PipelineBatch]:
  """Yields as many batches in every process."""
  if jax.process_count() == 1:
    yield from batches
    return
  padding = empty()
  padding = dataclasses.replace(padding, batch=sharding.put_batch(padding.batch, mesh))
  while True:
    item = next(batches, None)
    going = multihost_utils.process_allgather(np.array(item is not None))
    if not going.any():
      return
    yield padding if item is None else item
