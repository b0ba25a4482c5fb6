"""One ordered pass over a split."""

from collections.abc import Iterator
from collections.abc import Sequence

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import graph_workers
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.runtime import prefetch
from jmp_hk.targets import labels


class EvaluationStream:
  """Iterable over `PipelineBatch`; every iteration is one pass over the split.

  Every structure comes exactly once. Microbatches for which nothing is left are padding
  alone. Structures are packed a little out of order; `info.draws` says which structure
  of the split each one is.

  Where several processes evaluate together, each asks for its own microbatches. Their
  numbers of batches may differ: a process that has finished goes on with `empty()`
  until all have.
  """

  def __init__(
    self,
    dataset: datasets_lib.Dataset,
    spec: microbatches_lib.BatchSpec,
    config: config_lib.PipelineConfig = config_lib.PipelineConfig(),
    *,
    local_microbatches: Sequence[int] | None = None,
    limit: int = 0,
    with_labels: bool = True,
  ):
    """Reads nothing yet.

    Args:
      dataset: the split.
      spec: what batches look like.
      config: workers, pool and prefetching.
      local_microbatches: numbers of the microbatches that this process serves; all if
        None.
      limit: structures to take, evenly over the split; 0 takes all.
      with_labels: read and normalise labels; without, all labels are zero.
    """
    self._dataset, self._spec, self._config = dataset, spec, config
    self._local = tuple(
      range(spec.num_microbatches) if local_microbatches is None else local_microbatches
    )
    self._with_labels = with_labels
    self._limit = limit
    self.num_structures = len(datasets_lib.evenly_spaced(dataset.num_structures, limit))

  def empty(self) -> batches_lib.PipelineBatch:
    """A batch of padding alone."""
    nothing = self._spec.pack([])
    return batches_lib.stack([nothing] * len(self._local), self._spec.budget)

  def __iter__(self) -> Iterator[batches_lib.PipelineBatch]:
    """Starts a pass over the split."""
    workers = graph_workers.GraphWorkers(self._config.num_workers)
    batches = self._run(workers)
    prefetcher = None
    if self._config.prefetch_batches:
      prefetcher = prefetch.Prefetcher(batches, self._config.prefetch_batches)
    try:
      yield from prefetcher or batches
    finally:
      if prefetcher is not None:
        prefetcher.close()
      workers.close()

  def _run(
    self, workers: graph_workers.GraphWorkers
  ) -> Iterator[batches_lib.PipelineBatch]:
    num_microbatches = self._spec.num_microbatches
    router = microbatches_lib.Router(
      self._examples(), num_microbatches, lambda draw: True, self._local
    )
    streams = [
      microbatches_lib.MicrobatchStream(
        self._spec,
        router,
        workers,
        microbatches_lib.MicrobatchState(index),
        index=index,
        pool_size=self._config.pool_size,
      )
      for index in self._local
    ]
    ahead = workers.chunks_ahead(len(streams))
    nothing = self._spec.pack([])
    while True:
      found = [stream.next_batch(ahead) for stream in streams]
      if all(microbatch is None for microbatch in found):
        return
      yield batches_lib.stack(
        [nothing if microbatch is None else microbatch for microbatch in found],
        self._spec.budget,
      )

  def _examples(self) -> Iterator[microbatches_lib.Example]:
    """The structures of the split; the microbatches of a step take turns."""
    dataset = self._dataset
    for position, structure in enumerate(dataset.evenly(self._limit)):
      targets = {}
      if self._with_labels:
        targets = labels.normalise_labels(
          structure, dataset.info, self._spec.tasks[dataset.task]
        )
      yield microbatches_lib.Example(
        position, structure, dataset.task, dataset.info.graph, targets
      )
