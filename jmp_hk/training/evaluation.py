"""Evaluates weights on whole datasets, on all devices."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
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

_MOST_BUDGETS = 4  # Other datasets than those of the run may need larger ones.
_AHEAD = 2  # Batches that the host may run ahead of the devices.
_COMPARED = 8  # Batches on which averaged and raw weights are compared.
_DIFFERENCE = 0.1  # Part of the score from which both are reported.


def make_eval_step(
  microbatch_sums: objective_lib.MicrobatchSums,
  mesh: jax.sharding.Mesh,
  name: str = "eval_step",
) -> compilation.CompiledFunction:
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
  return compilation.CompiledFunction(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(spec(), spec(), spec(sharding.AXIS)),
      out_specs=spec(),
      check_vma=False,
    ),
    name,
    most=_MOST_BUDGETS,
    in_shardings=(everywhere, everywhere, sharding.by_microbatch(mesh)),
    out_shardings=everywhere,
  )


class StoppedError(Exception):
  """A signal came before an evaluation was over.

  Attributes:
    number: number of the signal.
  """

  def __init__(self, number: int) -> None:
    """Takes the number."""
    super().__init__(f"Signal {number} came before the evaluation was over.")
    self.number = number


def evaluate(
  eval_step: compilation.CompiledFunction,
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
  return compare(eval_step, variables, None, batches, mesh, empty)[0]


def compare(
  eval_step: compilation.CompiledFunction,
  variables: model_lib.Variables,
  raw: model_lib.Variables | None,
  batches: Iterable[batches_lib.PipelineBatch],
  mesh: jax.sharding.Mesh,
  empty: Callable[[], batches_lib.PipelineBatch],
  received: Callable[[], int] = lambda: 0,
) -> tuple[dict[str, float], dict[str, float] | None]:
  """Metrics of averaged weights, and of the raw ones where those differ clearly.

  The first batches are evaluated with both. Where the scores differ by no more than a
  tenth there, the others are evaluated with the averaged weights alone.

  Args:
    eval_step: see `evaluate`, as for the other arguments.
    variables: averaged weights and scale factors.
    raw: the same with raw weights, or None.
    batches: see above.
    mesh: see above.
    empty: see above.
    received: number of the signal that ends the evaluation, or 0.

  Returns:
    The metrics of the averaged weights, and those of the raw ones or None.

  Raises:
    StoppedError: a signal came.
  """
  results: list[metrics_lib.Sums] = []
  others: list[metrics_lib.Sums] = []
  with sharding.to_devices(batches, mesh) as prefetched:
    for item in _until_all_end(prefetched, mesh, empty, received):
      results.append(eval_step(*variables, item.batch))
      if raw is not None:
        others.append(eval_step(*raw, item.batch))
        if len(others) == _COMPARED and not _differ(results, others):
          raw = None
      if len(results) > _AHEAD:
        jax.block_until_ready(results[-1 - _AHEAD])
  is_reported = raw is not None and _differ(results, others)
  metrics = metrics_lib.summarise(jax.device_get(results))
  if not is_reported:
    return metrics, None
  return metrics, metrics_lib.summarise(jax.device_get(others))


def _differ(
  left: Sequence[metrics_lib.Sums], right: Sequence[metrics_lib.Sums]
) -> bool:
  """Whether scores differ by more than a tenth of the lower one, or are not finite."""
  scores = [
    metrics_lib.summarise(jax.device_get(sums)).get(metrics_lib.SCORE, 0.0)
    for sums in (left, right)
  ]
  return not abs(scores[0] - scores[1]) <= _DIFFERENCE * min(scores)


def _until_all_end(
  batches: Iterator[batches_lib.PipelineBatch],
  mesh: jax.sharding.Mesh,
  empty: Callable[[], batches_lib.PipelineBatch],
  received: Callable[[], int],
) -> Iterator[batches_lib.PipelineBatch]:
  """Yields as many batches in every process, until a signal came to one of them."""
  if jax.process_count() == 1:
    for item in batches:
      if number := received():
        raise StoppedError(number)
      yield item
    return
  padding = empty()
  padding = dataclasses.replace(padding, batch=sharding.put_batch(padding.batch, mesh))
  while True:
    item = next(batches, None)
    mine = np.array([item is not None, received()], np.int32)
    going, number = multihost_utils.process_allgather(mine).max(axis=0)
    if number:
      raise StoppedError(int(number))
    if not going:
      return
    yield padding if item is None else item
