"""What the streams yield: stacked microbatches and facts about them."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import loader as loader_lib
from jmp_hk.pipeline import microbatches


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
    bucket: which of the budgets the microbatches are packed to.
    epoch: how many epochs of the mixture lie before the next draw.
    state: JSON values from which the stream continues after this batch.
  """

  record_ids: tuple[tuple[str, ...], ...]
  draws: tuple[tuple[int, ...], ...]
  num_structures: int
  num_atoms: int
  utilisation: Mapping[str, float]
  bucket: int = 0
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


def describe(
  step: loader_lib.Step,
  spec: microbatches.BatchSpec,
  epoch: float = 0.0,
  state: Mapping[str, Any] | None = None,
) -> PipelineBatch:
  """The batch of a step with facts about it.

  Args:
    step: the step.
    spec: what batches look like.
    epoch: see `BatchInfo`.
    state: likewise.
  """
  parts = step.microbatches
  bucket = parts[0].bucket
  budget = spec.budgets[bucket]
  return PipelineBatch(
    batch=step.batch,
    info=BatchInfo(
      record_ids=tuple(part.record_ids for part in parts),
      draws=tuple(part.draws for part in parts),
      num_structures=sum(part.sizes.num_graphs for part in parts),
      num_atoms=sum(part.sizes.num_atoms for part in parts),
      utilisation=budget_lib.used_parts([part.sizes for part in parts], budget),
      bucket=bucket,
      epoch=epoch,
      state=state or {},
    ),
  )
