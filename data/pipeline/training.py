"""The endless, deterministic, resumable stream of training batches."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data.pipeline import batches as batches_lib
from data.pipeline import builder as builder_lib
from data.pipeline import config as config_lib
from data.pipeline import datasets as datasets_lib
from data.pipeline import lanes as lanes_lib
from data.pipeline import mixture
from data.pipeline import normalise
from data.pipeline import prefetch
from data.pipeline import source as source_lib
from jmp_hk import tasks as tasks_lib
from jmp_hk.graphs import batch as batch_lib

State = Mapping[str, Any]


class StateError(ValueError):
  """A stored state does not belong to this stream."""


class TrainingStream:
  """Iterator over `PipelineBatch`; use as a context manager or call `close`.

  The same lanes give the same sub-batches however they are spread over devices and
  processes, with any number of workers, and whether or not the stream was interrupted.
  """

  def __init__(
      self,
      datasets: Sequence[datasets_lib.Dataset],
      tasks: Sequence[tasks_lib.TaskConfig],
      budget: batch_lib.Budget,
      config: config_lib.PipelineConfig,
      local_lanes: Sequence[int] | None = None,
      state: State | None = None,
      dtype: np.dtype = np.float32,
  ):
    """Starts workers and reading.

    Args:
      datasets: the mixture.
      tasks: all tasks of the model, which say what labels a batch has.
      budget: of a sub-batch.
      config: settings.
      local_lanes: lanes that this process serves; all if None.
      state: to continue from, with (at least) the local lanes.
      dtype: of positions, cells and labels.

    Raises:
      StateError: the state is of another stream.
      ValueError: lanes or tasks make no sense.
    """
    lanes = range(config.num_lanes) if local_lanes is None else local_lanes
    if not lanes or not set(lanes) <= set(range(config.num_lanes)):
      raise ValueError(f"Lanes {list(lanes)} are none of {config.num_lanes}.")
    self._datasets, self._budget, self._config = datasets, budget, config
    self._chances = mixture.probabilities(datasets, config.temperature)
    self.epoch_length = mixture.epoch_length(datasets, self._chances)
    self._states = self._read_state(state, lanes)
    self._settings = lanes_lib.LaneSettings(
        budget=budget,
        specs=normalise.target_specs(tasks),
        dtype=dtype,
        pool_size=config.pool_size,
        edge_dropout=config.edge_dropout,
        seed=config.seed,
    )
    self._builder = builder_lib.Builder(config.num_workers)
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
    num_lanes = self._config.num_lanes
    states = self._states
    router = lanes_lib.Router(
        examples=self._examples(min(state.first for state in states.values())),
        num_lanes=num_lanes,
        wanted=lambda draw: states[draw % num_lanes].needs(draw),
        local=tuple(states),
    )
    lanes = {
        index: lanes_lib.Lane(
            index, num_lanes, router, self._builder, self._settings, state
        )
        for index, state in states.items()
    }
    ahead = 1 + -(-2 * self._config.num_workers // len(lanes))
    while True:
      subs = [lane.next_batch(ahead) for lane in lanes.values()]
      after = {index: lane.state for index, lane in lanes.items()}
      yield batches_lib.stack(
          subs,
          self._budget,
          epoch=min(state.next for state in after.values()) / self.epoch_length,
          state=self._write_state(after),
      )

  def _examples(self, start: int) -> Iterator[lanes_lib.Example]:
    """All draws from `start` on; labels only of those that a local lane takes."""
    config = self._config
    schedule = mixture.Schedule(config.seed, self._chances)
    taken = schedule.counts_before(start)
    structures = {}
    draw = start
    while True:
      index = schedule.dataset_of(draw)
      dataset = self._datasets[index]
      if index not in structures:
        structures[index] = source_lib.Source(
            dataset,
            source_lib.stream_seed(config.seed, dataset.name),
            config.shuffle_buffer,
            config.shards_per_group,
        ).shuffled(int(taken[index]))
      structure = next(structures[index])
      state = self._states.get(draw % config.num_lanes)
      if state is not None and state.needs(draw):
        yield lanes_lib.Example(
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
        config.seed, config.num_lanes, config.shuffle_buffer, config.shards_per_group,
        [(d.name, d.split, d.num_structures, len(d.shards)) for d in self._datasets],
        self._chances.tolist(),
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

  def _write_state(self, states: Mapping[int, lanes_lib.LaneState]) -> State:
    return {
        "stream": self._fingerprint(),
        "lanes": {
            str(index): {"next": state.next, "pool": list(state.pool)}
            for index, state in states.items()
        },
    }

  def _read_state(
      self, state: State | None, lanes: Sequence[int]
  ) -> dict[int, lanes_lib.LaneState]:
    if not state:
      return {lane: lanes_lib.LaneState(next=lane) for lane in lanes}
    if state["stream"] != self._fingerprint():
      raise StateError(
          "The checkpoint was made with another data stream: datasets, weights, "
          "temperature, seed, num_lanes or shuffle settings have changed. Start in a "
          "new --workdir, or use the flags that are stored in this one."
      )
    missing = [lane for lane in lanes if str(lane) not in state["lanes"]]
    if missing:
      raise StateError(
          f"The checkpoint lacks the data positions of lanes {missing}; it has "
          f"{sorted(state['lanes'])}."
      )
    stored = {lane: state["lanes"][str(lane)] for lane in lanes}
    return {
        lane: lanes_lib.LaneState(entry["next"], tuple(entry["pool"]))
        for lane, entry in stored.items()
    }


def merge_states(states: Sequence[State]) -> State:
  """One state of all lanes from those of several processes.

  Raises:
    StateError: they are of different streams.
  """
  if len({state["stream"] for state in states}) != 1:
    raise StateError("The processes' states belong to different streams.")
  lanes = {}
  for state in states:
    lanes.update(state["lanes"])
  return {"stream": states[0]["stream"], "lanes": lanes}
