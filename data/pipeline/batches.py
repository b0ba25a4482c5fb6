"""What the streams yield: stacked sub-batches and facts about them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.pipeline import lanes as lanes_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib


@dataclasses.dataclass(frozen=True)
class BatchInfo:
  """Facts about the part of a step's batch that this process serves.

  Attributes:
    record_ids: for each local lane, the record id of each real structure, in the
      order of the sub-batch: `record_ids[i][g]` belongs to `batch.cell[i, g]`.
    draws: likewise, the number of the structure in the stream; in an evaluation its
      number in the split.
    num_structures: real structures in all local lanes.
    num_atoms: likewise, atoms.
    utilisation: used part of each budget field; mean over local lanes.
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
    batch: arrays with a leading axis over the local lanes.
    info: facts for logging, messages and checkpoints.
  """

  batch: batch_lib.Batch
  info: BatchInfo


def stack(
    subs: Sequence[lanes_lib.SubBatch],
    budget: batch_lib.Budget,
    epoch: float = 0.0,
    state: Mapping[str, Any] | None = None,
) -> PipelineBatch:
  """Stacks the sub-batches of the local lanes.

  Args:
    subs: one per local lane.
    budget: that they are packed to.
    epoch: see `BatchInfo`.
    state: likewise.
  """
  stacked = jax.tree.map(
      lambda *leaves: np.stack(leaves), *(sub.batch for sub in subs)
  )
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
              for name in budget_lib.FIELDS
          },
          epoch=epoch,
          state=state or {},
      ),
  )
