"""The endless, deterministic, resumable stream of training batches."""

from collections.abc import Iterator
from collections.abc import Sequence
import functools
import hashlib
import json
import logging

from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import exact
from jmp_hk.pipeline import exact_lane
from jmp_hk.pipeline import lanes as lanes_lib
from jmp_hk.pipeline import loader as loader_lib
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.pipeline import mixture

logger = logging.getLogger(__name__)

State = microbatches_lib.State
_States = dict[int, list[State | None]]  # Of each stream, by local microbatch.


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
    plan: exact.ExactPlan | None = None,
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
      plan: structures of every step, for which `spec` has the budgets; None fills the
        budget.
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
    self._datasets, self._spec, self._config = tuple(datasets), spec, config
    self._seed, self._plan = seed, plan
    self._chances = mixture.probabilities(datasets, config.temperature)
    self.epoch_length = mixture.epoch_length(datasets, self._chances)
    self._lanes = {index: self._lanes_of(index) for index in local}
    self._step, self._states = self._read_state(state)
    num_lanes = len(self._lanes) * config.streams_per_microbatch
    if config.num_workers > num_lanes:
      logger.info(
        "%d of %d workers are used, one for each stream of each microbatch of this "
        "process; a new run may have more streams (streams_per_microbatch).",
        num_lanes,
        config.num_workers,
      )
    self._loader = loader_lib.open_lanes(
      tuple(self._lanes.values()),
      spec,
      config,
      states=tuple(self._states.values()),
      first_step=self._step,
    )

  def __iter__(self) -> Iterator[batches_lib.PipelineBatch]:
    return self

  def __next__(self) -> batches_lib.PipelineBatch:
    step = next(self._loader)
    stream = self._step % self._config.streams_per_microbatch
    for states, facts in zip(self._states.values(), step.microbatches, strict=True):
      states[stream] = facts.state
    self._step += 1
    epoch = min(
      lane.epoch(state)
      for index, lanes in self._lanes.items()
      for lane, state in zip(lanes, self._states[index], strict=True)
    )
    return batches_lib.describe(step, self._spec, epoch, self._write_state())

  def __enter__(self) -> "TrainingStream":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Stops thread and workers."""
    self._loader.close()

  @property
  def worker_seconds(self) -> float:
    """Processor time that worker processes have used."""
    return self._loader.worker_seconds

  @property
  def worker_ids(self) -> list[int]:
    """Numbers of the worker processes."""
    return self._loader.worker_ids

  def _lanes_of(self, index: int) -> tuple[lanes_lib.Lane, ...]:
    """The lanes that take turns in making microbatch number `index` of a step.

    Without a plan, draw t of the stream belongs to microbatch t % num_microbatches.
    """
    num_microbatches = self._spec.num_microbatches
    streams = self._config.streams_per_microbatch
    preparation = microbatches_lib.Preparation(self._datasets, self._spec, self._seed)
    if self._plan is not None:
      return tuple(
        exact_lane.ExactLane(preparation, self._plan, index, stream, streams)
        for stream in range(streams)
      )
    drawn = mixture.Mixture(self._datasets, tuple(self._chances.tolist()), self._seed)
    return tuple(
      lanes_lib.PackedLane(
        preparation,
        drawn,
        first=index + num_microbatches * stream,
        stride=num_microbatches * streams,
        pool_size=self._config.pool_size,
        epoch_length=self.epoch_length,
      )
      for stream in range(streams)
    )

  @functools.cached_property
  def _fingerprint(self) -> str:
    """Changes with everything that decides what a draw is and where it goes."""
    config = self._config
    identity = [
      self._seed,
      self._spec.num_microbatches,
      config.streams_per_microbatch,
      [(d.name, d.split, d.num_structures, d.source.identity) for d in self._datasets],
      self._chances.tolist(),
      self._plan and self._plan.identity,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

  def _write_state(self) -> State:
    return {
      "stream": self._fingerprint,
      "step": self._step,
      "microbatches": {
        str(index): list(states) for index, states in self._states.items()
      },
    }

  def _read_state(self, state: State | None) -> tuple[int, _States]:
    """Number of the first step, and states of the lanes of each microbatch."""
    if not state:
      nothing = [None] * self._config.streams_per_microbatch
      return 0, {index: list(nothing) for index in self._lanes}
    if state["stream"] != self._fingerprint:
      raise StateError(
        "The checkpoint was made with another data stream: datasets, weights, "
        "temperature, seed, size of batches, number of microbatches or of their "
        "streams have changed. Start in a new --workdir, or use the flags that are "
        "stored in this one."
      )
    stored = state["microbatches"]
    missing = [index for index in self._lanes if str(index) not in stored]
    if missing:
      raise StateError(
        f"The checkpoint lacks the data positions of microbatches {missing}; it has "
        f"{sorted(stored)}."
      )
    return state["step"], {index: list(stored[str(index)]) for index in self._lanes}


def merge_states(states: Sequence[State]) -> State:
  """One state of all microbatches from those of several processes.

  Raises:
    StateError: they are of different streams.
  """
  if len({(state["stream"], state["step"]) for state in states}) != 1:
    raise StateError("The processes' states belong to different streams or steps.")
  microbatches = {}
  for state in states:
    microbatches.update(state["microbatches"])
  return {**states[0], "microbatches": microbatches}
