"""One ordered pass over a split."""

from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import graph_workers
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.pipeline import normalise
from jmp_hk.runtime import prefetch
from jmp_hk.targets import config as tasks_lib


class EvaluationStream:
  """Iterable over `PipelineBatch`; every iteration is one pass over the split.

  Every structure comes exactly once. Microbatches that have nothing left contribute
  microbatches of padding. Structures are packed a little out of order; `info.draws`
  says which structure of the split each one is.

  Where several processes evaluate together, each passes its own microbatches. Their numbers
  of batches may differ: a process that has finished goes on with `empty()` until all
  have.
  """

  def __init__(
    self,
    dataset: datasets_lib.Dataset,
    tasks: Sequence[tasks_lib.TaskConfig],
    budget: batch_lib.Budget,
    num_microbatches: int = 1,
    local_microbatches: Sequence[int] | None = None,
    limit: int = 0,
    with_labels: bool = True,
    num_workers: int = 0,
    pool_size: int = 64,
    prefetch_batches: int = 2,
    dtype: np.dtype = np.float32,
  ):
    """Reads nothing yet.

    Args:
      dataset: the split.
      tasks: all tasks of the model, which say what labels a batch has.
      budget: of a microbatch.
      num_microbatches: microbatches of one step over all processes.
      local_microbatches: microbatches that this process serves; all if None.
      limit: structures to take, evenly over the split; 0 takes all.
      with_labels: read and normalise labels; without, all labels are zero.
      num_workers: processes that build graphs.
      pool_size: structures per microbatch that wait for a batch they fit into.
      prefetch_batches: packed batches that are made ahead.
      dtype: of positions, cells and labels.
    """
    self._dataset, self._budget = dataset, budget
    self._num_microbatches = num_microbatches
    self._microbatches = tuple(
      range(num_microbatches) if local_microbatches is None else local_microbatches
    )
    self._with_labels = with_labels
    self._num_workers, self._prefetch = num_workers, prefetch_batches
    self._stride = max(1, dataset.num_structures // limit) if limit else 1
    every = -(-dataset.num_structures // self._stride)
    self.num_structures = min(every, limit) if limit else every
    self._settings = microbatches_lib.MicrobatchSettings(
      budget, normalise.target_specs(tasks), dtype, pool_size
    )

  def empty(self) -> batches_lib.PipelineBatch:
    """A batch of padding alone."""
    nothing = microbatches_lib.pack_examples([], self._settings)
    return batches_lib.stack([nothing] * len(self._microbatches), self._budget)

  def __iter__(self) -> Iterator[batches_lib.PipelineBatch]:
    builder = graph_workers.Builder(self._num_workers)
    batches = self._run(builder)
    prefetcher = None
    if self._prefetch:
      prefetcher = batches = prefetch.Prefetcher(batches, self._prefetch)
    try:
      yield from batches
    finally:
      if prefetcher is not None:
        prefetcher.close()
      builder.close()

  def _run(self, builder: graph_workers.Builder) -> Iterator[batches_lib.PipelineBatch]:
    router = microbatches_lib.Router(
      self._examples(), self._num_microbatches, lambda draw: True, self._microbatches
    )
    microbatches = [
      microbatches_lib.MicrobatchStream(
        index,
        self._num_microbatches,
        router,
        builder,
        self._settings,
        microbatches_lib.MicrobatchState(index),
      )
      for index in self._microbatches
    ]
    ahead = 1 + -(-2 * self._num_workers // len(microbatches))
    nothing = microbatches_lib.pack_examples([], self._settings)
    while True:
      subs = [microbatch.next_batch(ahead) for microbatch in microbatches]
      if all(sub is None for sub in subs):
        return
      yield batches_lib.stack(
        [nothing if sub is None else sub for sub in subs], self._budget
      )

  def _examples(self) -> Iterator[microbatches_lib.Example]:
    """The structures of the split; microbatches take turns."""
    dataset = self._dataset
    structures = dataset.source.ordered(self._stride)
    for position, structure in enumerate(structures):
      if position >= self.num_structures:
        return
      targets = {}
      if self._with_labels:
        targets = normalise.normalise(structure, dataset.info, dataset.targets)
      yield microbatches_lib.Example(
        position, structure, dataset.task, dataset.info.graph, targets
      )
