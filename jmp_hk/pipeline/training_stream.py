"""The endless, deterministic, resumable stream of training batches."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import json
from typing import Any

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import graph_workers
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.pipeline import mixture
from jmp_hk.pipeline import random_streams
from jmp_hk.runtime import prefetch
from jmp_hk.targets import labels

State = Mapping[str, Any]


class StateError(ValueError):
  """A stored state does not belong to this stream."""


class TrainingStream:
  """Iterator over `PipelineBatch`; use as a context manager or call `close`.

  Every microbatch is the same however the microbatches of a step are spread over
  devices and processes, with any number of workers, and whether or not the stream was
  interrupted.
  """

  def __init__(
    self,
    datasets: Sequence[datasets_lib.Dataset],
    spec: microbatches_lib.BatchSpec,
    config: config_lib.PipelineConfig = config_lib.PipelineConfig(),
    *,
    seed: int = 0,
    local_microbatches: Sequence[int] | None = None,
    state: State | None = None,
  ):
    """Starts workers and reading.

    Args:
      datasets: the mixture.
      spec: what batches look like.
      config: how structures are read, mixed and prepared.
      seed: seed of order, mixture and edge dropout.
      local_microbatches: numbers of the microbatches that this process serves; all if
        None.
      state: state to continue from, with (at least) the local microbatches.

    Raises:
      StateError: the state is that of another stream.
      ValueError: a local microbatch does not exist, or weights are missing.
    """
    everything = range(spec.num_microbatches)
    local = everything if local_microbatches is None else local_microbatches
    if not local or not set(local) <= set(everything):
      raise ValueError(
        f"The local microbatches {list(local)} are not among the "
        f"{spec.num_microbatches} of a step."
      )
    self._datasets, self._spec, self._config = datasets, spec, config
    self._seed = seed
    self._chances = mixture.probabilities(datasets, config.temperature)
    self.epoch_length = mixture.epoch_length(datasets, self._chances)
    self._states = self._read_state(state, local)
    self._workers = graph_workers.GraphWorkers(config.num_workers)
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

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Stops thread and workers."""
    if self._prefetcher is not None:
      self._prefetcher.close()
    self._workers.close()

  def _run(self) -> Iterator[batches_lib.PipelineBatch]:
    num_microbatches = self._spec.num_microbatches
    states = self._states
    router = microbatches_lib.Router(
      examples=self._examples(min(state.first for state in states.values())),
      num_microbatches=num_microbatches,
      wanted=lambda draw: states[draw % num_microbatches].needs(draw),
      local=tuple(states),
    )
    streams = {
      index: microbatches_lib.MicrobatchStream(
        self._spec,
        router,
        self._workers,
        state,
        index=index,
        pool_size=self._config.pool_size,
        seed=self._seed,
      )
      for index, state in states.items()
    }
    ahead = self._workers.chunks_ahead(len(streams))
    while True:
      found = [stream.next_batch(ahead) for stream in streams.values()]
      after = {index: stream.state for index, stream in streams.items()}
      yield batches_lib.stack(
        [microbatch for microbatch in found if microbatch is not None],
        self._spec.budget,
        epoch=min(state.next for state in after.values()) / self.epoch_length,
        state=self._write_state(after),
      )

  def _examples(self, start: int) -> Iterator[microbatches_lib.Example]:
    """All draws from `start` on; labels only of those that a local microbatch takes."""
    config = self._config
    schedule = mixture.Schedule(self._seed, self._chances)
    taken = schedule.counts_before(start)
    structures = {}
    draw = start
    while True:
      index = schedule.dataset_of(draw)
      dataset = self._datasets[index]
      if index not in structures:
        structures[index] = dataset.source.shuffled(
          config,
          random_streams.stream_seed(self._seed, dataset.name),
          int(taken[index]),
        )
      structure = next(structures[index])
      state = self._states.get(draw % self._spec.num_microbatches)
      if state is not None and state.needs(draw):
        yield microbatches_lib.Example(
          draw=draw,
          structure=structure,
          task=dataset.task,
          graph=dataset.info.graph,
          targets=labels.normalise_labels(
            structure, dataset.info, self._spec.tasks[dataset.task]
          ),
        )
      draw += 1

  def _fingerprint(self) -> str:
    """Changes with everything that decides what a draw is and where it goes."""
    config = self._config
    identity = [
      self._seed,
      self._spec.num_microbatches,
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
        "temperature, seed, number of microbatches or shuffle settings have changed. "
        "Start in a new --workdir, or use the flags that are stored in this one."
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
