"""One ordered pass over a split."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses

import jax
import numpy as np

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import lanes as lanes_lib
from jmp_hk.pipeline import loader as loader_lib
from jmp_hk.pipeline import microbatches as microbatches_lib

_FEW = 512  # Structures that are packed in this process.
_POOLS_PER_STREAM = 4


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
    self._spec, self._config = spec, config
    self._local = tuple(
      range(spec.num_microbatches) if local_microbatches is None else local_microbatches
    )
    self._preparation = microbatches_lib.Preparation(
      (dataset,), spec, with_labels=with_labels
    )
    self._indices = datasets_lib.evenly_spaced(dataset.num_structures, limit)
    self.num_structures = len(self._indices)

  def empty(self) -> batches_lib.PipelineBatch:
    """A batch of padding alone."""
    batch, facts = self._spec.pack([])
    count = len(self._local)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * count), batch)
    return batches_lib.describe(loader_lib.Step(stacked, (facts,) * count), self._spec)

  def __iter__(self) -> Iterator[batches_lib.PipelineBatch]:
    """Starts a pass over the split."""
    config = self._config
    if self.num_structures < _FEW:  # Starting processes would take longer.
      config = dataclasses.replace(config, num_workers=0)
    loader = loader_lib.open_lanes(self._lanes(), self._spec, config)
    try:
      for step in loader:
        yield batches_lib.describe(step, self._spec)
    finally:
      loader.close()

  def _lanes(self) -> lanes_lib.Lanes:
    """The lanes of each local microbatch; few where few structures are left for each.

    The last batch of every lane is partly padding.
    """
    num_microbatches, pool_size = self._spec.num_microbatches, self._config.pool_size
    streams = self.num_structures // (_POOLS_PER_STREAM * pool_size * num_microbatches)
    streams = min(max(1, streams), self._config.streams_per_microbatch)
    return [
      [
        lanes_lib.EvaluationLane(
          self._preparation,
          self._indices,
          first=index + num_microbatches * stream,
          stride=num_microbatches * streams,
          pool_size=pool_size,
        )
        for stream in range(streams)
      ]
      for index in self._local
    ]
