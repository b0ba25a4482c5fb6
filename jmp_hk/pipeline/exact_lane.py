"""Makes the microbatches of a plan of exact batches."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import exact
from jmp_hk.pipeline import lanes
from jmp_hk.pipeline import microbatches
from jmp_hk.pipeline import mixture as mixture_lib


@dataclasses.dataclass(frozen=True)
class ExactLane(lanes.Lane):
  """Makes one microbatch of every S-th step of a plan, endlessly.

  A microbatch for which a step has no structure is padding. Its state holds the number
  of its next step ("next").

  Attributes:
    preparation: reads and builds structures; its budgets are the buckets of the plan.
    plan: says which structures a step has.
    microbatch: number of the microbatch in a step.
    first: number of its first step.
    stride: distance between its steps.
  """

  preparation: microbatches.Preparation
  plan: exact.ExactPlan
  microbatch: int
  first: int
  stride: int

  def open(
    self, state: microbatches.State | None = None
  ) -> Iterator[microbatches.Microbatch]:
    """See `Lane`.

    Raises:
      BudgetError: the structures of a step fit into no bucket.
      InvalidStructureError: graphs of a structure cannot be built.
    """
    number = self._next(state)
    while True:
      step = self.plan.step(number)
      number += self.stride
      items = _items(self.preparation, self.plan, step, self.microbatch)
      yield self.preparation.spec.pack(items, step.bucket, {"next": number})

  def epoch(self, state: microbatches.State | None = None) -> float:
    """See `Lane`."""
    return self.plan.epoch_before(self._next(state))

  def _next(self, state: microbatches.State | None) -> int:
    return state["next"] if state else self.first


def draws(mixture: mixture_lib.Mixture) -> exact.Draws:
  """The draws of exact batches of a mixture."""
  lengths = [dataset.num_structures for dataset in mixture.datasets]
  return exact.Draws(mixture.seed, mixture.orders, lengths, mixture.chances)


def sample(
  datasets: Sequence[datasets_lib.Dataset],
  spec: microbatches.BatchSpec,
  plan: exact.ExactPlan,
  count: int,
) -> list[batch_lib.Batch]:
  """All microbatches of the first steps, of one shape, without edge dropout.

  Args:
    datasets: the mixture.
    spec: what batches look like.
    plan: says which structures a step has.
    count: number of steps.

  Returns:
    The microbatches, step by step.
  """
  preparation = microbatches.Preparation(tuple(datasets), spec)
  steps = [plan.step(number) for number in range(count)]
  bucket = max(step.bucket for step in steps)
  return [
    spec.pack(_items(preparation, plan, step, index), bucket).batch
    for step in steps
    for index in range(spec.num_microbatches)
  ]


def _items(
  preparation: microbatches.Preparation,
  plan: exact.ExactPlan,
  step: exact.StepPlan,
  microbatch: int,
) -> list[microbatches.Item]:
  """The structures of a microbatch, ready to be packed."""
  wanted = [
    microbatches.Draw(number, *plan.find(row))
    for number, row in zip(step.draws[microbatch], step.rows[microbatch], strict=True)
  ]
  items = list(preparation.items(wanted))
  spec = preparation.spec
  if preparation.seed is not None and spec.builder.edge_dropout:
    # The plan knows the sizes without dropout. With it an atom can get more edges: far
    # ones take the place of near ones.
    together = budget_lib.total([item.sizes for item in items], type(spec.budget))
    if not budget_lib.fits(together, spec.budgets[step.bucket]):
      return list(dataclasses.replace(preparation, seed=None).items(wanted))
  return items
