"""What the streams yield: stacked microbatches and facts about them."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import microbatches as microbatches_lib


@dataclasses.dataclass(frozen=True)
class BatchInfo:
  """Facts about the part of a step's batch that this process serves.

  Attributes:
    record_ids: for each local microbatch, the record id of each real structure, in the
      order of the microbatch: `record_ids[i][g]` belongs to `batch.cell[i, g]`.
    draws: likewise, the number of the structure in the stream; in an evaluation its
      number in the split.
    num_structures: real structures in all local microbatches.
    num_atoms: likewise, atoms.
    utilisation: used part of each budget field; mean over local microbatches.
    epoch: how many epochs of the mixture lie before the next draw.
    state: JSON values from which the stream continues after this batch.
  """

  record_ids: tuple[tuple[str, ...], ...]
  draws: tuple[tuple[int, ...], ...]
  num_structures: int
  num_atoms: int
  utilisation: Mapping[str, float]
  epoch: float = 0.0
  state: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class PipelineBatch:
  """One step's input of this process.

  Attributes:
    batch: arrays with a leading axis over the local microbatches.
    info: facts for logging, messages and checkpoints.
  """

  batch: batch_lib.Batch
  info: BatchInfo


def stack(
  subs: Sequence[microbatches_lib.Microbatch],
  budget: budget_lib.Budget,
  epoch: float = 0.0,
  state: Mapping[str, Any] | None = None,
) -> PipelineBatch:
  """Stacks the microbatches of the local microbatches.

  Args:
    subs: one per local microbatch.
    budget: that they are packed to.
    epoch: see `BatchInfo`.
    state: likewise.
  """
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(sub.batch for sub in subs))
  used = [budget_lib.utilisation([sub.sizes], budget) for sub in subs]
  return PipelineBatch(
    batch=stacked,
    info=BatchInfo(
      record_ids=tuple(sub.record_ids for sub in subs),
      draws=tuple(sub.draws for sub in subs),
      num_structures=sum(sub.sizes.num_graphs for sub in subs),
      num_atoms=sum(sub.sizes.num_atoms for sub in subs),
      utilisation={
        name: float(np.mean([entry[name] for entry in used]))
        for name in budget_lib.names(type(budget))
      },
      epoch=epoch,
      state=state or {},
    ),
  )
