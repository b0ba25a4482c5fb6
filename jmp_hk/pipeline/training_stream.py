"""The endless, deterministic, resumable stream of training batches."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import json
from typing import Any

import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import graph_workers
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.pipeline import mixture
from jmp_hk.pipeline import normalise
from jmp_hk.pipeline import random_streams
from jmp_hk.runtime import prefetch
from jmp_hk.targets import config as tasks_lib

State = Mapping[str, Any]


class StateError(ValueError):
  """A stored state does not belong to this stream."""


class TrainingStream:
  """Iterator over `PipelineBatch`; use as a context manager or call `close`.

  The same microbatches give the same microbatches however they are spread over devices and
  processes, with any number of workers, and whether or not the stream was interrupted.
  """

  def __init__(
    self,
    datasets: Sequence[datasets_lib.Dataset],
    tasks: Sequence[tasks_lib.TaskConfig],
    budget: batch_lib.Budget,
    config: config_lib.PipelineConfig,
    local_microbatches: Sequence[int] | None = None,
    state: State | None = None,
    dtype: np.dtype = np.float32,
  ):
    """Starts workers and reading.

    Args:
      datasets: the mixture.
      tasks: all tasks of the model, which say what labels a batch has.
      budget: of a microbatch.
      config: settings.
      local_microbatches: microbatches that this process serves; all if None.
      state: to continue from, with (at least) the local microbatches.
      dtype: of positions, cells and labels.

    Raises:
      StateError: the state is of another stream.
      ValueError: microbatches or tasks make no sense.
    """
    microbatches = (
      range(config.num_microbatches)
      if local_microbatches is None
      else local_microbatches
    )
    if not microbatches or not set(microbatches) <= set(range(config.num_microbatches)):
      raise ValueError(
        f"Microbatches {list(microbatches)} are none of {config.num_microbatches}."
      )
    self._datasets, self._budget, self._config = datasets, budget, config
    self._chances = mixture.probabilities(datasets, config.temperature)
    self.epoch_length = mixture.epoch_length(datasets, self._chances)
    self._states = self._read_state(state, microbatches)
    self._settings = microbatches_lib.MicrobatchSettings(
      budget=budget,
      specs=normalise.target_specs(tasks),
      dtype=dtype,
      pool_size=config.pool_size,
      edge_dropout=config.edge_dropout,
      seed=config.seed,
    )
    self._builder = graph_workers.Builder(config.num_workers)
    self._batches = self._run()
    self._prefetcher = None
    if config.prefetch_batches:
      self._prefetcher = prefetch.Prefetcher(self._batches, config.prefetch_batches)

  def __iter__(self) -> Iterator[batches_lib.PipelineBatch]:
    return self

  def __next__(self) -> batches_lib.PipelineBatch:
    return next(self._prefetcher or self._batches)

  def __enter__(self) -> "TrainingStream":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Stops thread and workers."""
    if self._prefetcher is not None:
      self._prefetcher.close()
    self._builder.close()

  def _run(self) -> Iterator[batches_lib.PipelineBatch]:
    num_microbatches = self._config.num_microbatches
    states = self._states
    router = microbatches_lib.Router(
      examples=self._examples(min(state.first for state in states.values())),
      num_microbatches=num_microbatches,
      wanted=lambda draw: states[draw % num_microbatches].needs(draw),
      local=tuple(states),
    )
    microbatches = {
      index: microbatches_lib.MicrobatchStream(
        index, num_microbatches, router, self._builder, self._settings, state
      )
      for index, state in states.items()
    }
    ahead = 1 + -(-2 * self._config.num_workers // len(microbatches))
    while True:
      subs = [microbatch.next_batch(ahead) for microbatch in microbatches.values()]
      after = {index: microbatch.state for index, microbatch in microbatches.items()}
      yield batches_lib.stack(
        subs,
        self._budget,
        epoch=min(state.next for state in after.values()) / self.epoch_length,
        state=self._write_state(after),
      )

  def _examples(self, start: int) -> Iterator[microbatches_lib.Example]:
    """All draws from `start` on; labels only of those that a local microbatch takes."""
    config = self._config
    schedule = mixture.Schedule(config.seed, self._chances)
    taken = schedule.counts_before(start)
    structures = {}
    draw = start
    while True:
      index = schedule.dataset_of(draw)
      dataset = self._datasets[index]
      if index not in structures:
        structures[index] = dataset.source.shuffled(
          config,
          random_streams.stream_seed(config.seed, dataset.name),
          int(taken[index]),
        )
      structure = next(structures[index])
      state = self._states.get(draw % config.num_microbatches)
      if state is not None and state.needs(draw):
        yield microbatches_lib.Example(
          draw=draw,
          structure=structure,
          task=dataset.task,
          graph=dataset.info.graph,
          targets=normalise.normalise(structure, dataset.info, dataset.targets),
        )
      draw += 1

  def _fingerprint(self) -> str:
    """Changes with everything that decides what a draw is and where it goes."""
    config = self._config
    identity = [
      config.seed,
      config.num_microbatches,
      config.shuffle_buffer,
      config.shards_per_group,
      [(d.name, d.split, d.num_structures, d.source.identity) for d in self._datasets],
      self._chances.tolist(),
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

  def _write_state(
    self, states: Mapping[int, microbatches_lib.MicrobatchState]
  ) -> State:
    return {
      "stream": self._fingerprint(),
      "microbatches": {
        str(index): {"next": state.next, "pool": list(state.pool)}
        for index, state in states.items()
      },
    }

  def _read_state(
    self, state: State | None, microbatches: Sequence[int]
  ) -> dict[int, microbatches_lib.MicrobatchState]:
    if not state:
      return {
        microbatch: microbatches_lib.MicrobatchState(next=microbatch)
        for microbatch in microbatches
      }
    if state["stream"] != self._fingerprint():
      raise StateError(
        "The checkpoint was made with another data stream: datasets, weights, "
        "temperature, seed, num_microbatches or shuffle settings have changed. Start in a "
        "new --workdir, or use the flags that are stored in this one."
      )
    missing = [
      microbatch
      for microbatch in microbatches
      if str(microbatch) not in state["microbatches"]
    ]
    if missing:
      raise StateError(
        f"The checkpoint lacks the data positions of microbatches {missing}; it has "
        f"{sorted(state['microbatches'])}."
      )
    stored = {
      microbatch: state["microbatches"][str(microbatch)] for microbatch in microbatches
    }
    return {
      microbatch: microbatches_lib.MicrobatchState(entry["next"], tuple(entry["pool"]))
      for microbatch, entry in stored.items()
    }


def merge_states(states: Sequence[State]) -> State:
  """One state of all microbatches from those of several processes.

  Raises:
    StateError: they are of different streams.
  """
  if len({state["stream"] for state in states}) != 1:
    raise StateError("The processes' states belong to different streams.")
  microbatches = {}
  for state in states:
    microbatches.update(state["microbatches"])
  return {"stream": states[0]["stream"], "microbatches": microbatches}
