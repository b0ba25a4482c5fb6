"""The train loop that pre-training and fine-tuning share."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import logging
import jax
import numpy as np
import optax

from jmp_hk import serialization
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.runtime import compilation
from jmp_hk.training import config as config_lib
from jmp_hk.training import feed
from jmp_hk.training import progress as progress_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import stopping
from jmp_hk.training import writers as writers_lib

_AHEAD = 2  # Steps that the host may run ahead of the devices.
_MAIN_EDGES = "num_main"  # The budget field whose utilisation is shown.
_SUMMARISED_BY_LAST = ("learning_rate", "finite")

Resume = Mapping[str, Any] | None


class NonFiniteLossError(FloatingPointError):
  """A loss or gradient was not finite; names the structures of the batch."""


@dataclasses.dataclass(frozen=True)
class Parts:
  """What the loop works with.

  Attributes:
    mesh: the devices.
    train_step: from `step.make_train_step`.
    evaluate: state → validation metrics, or None where there is no validation data.
    batches: opens the training data at a position (None: the start).
    schedule: base learning rate, for early stopping.
    checkpointer: writes and restores checkpoints.
    writers: where metrics go; empty on all processes but the first.
    merge_positions: one position of the training data from those of all processes;
      needed where there are several.
  """

  mesh: jax.sharding.Mesh
  train_step: compilation.CompiledOnce
  evaluate: Callable[[state_lib.TrainState], dict[str, float]] | None
  batches: Callable[[Resume], Iterator[feed.HostBatch]]
  schedule: optax.Schedule
  checkpointer: checkpointer_lib.Checkpointer
  writers: Sequence[writers_lib.MetricWriter]
  merge_positions: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]] | None = (
    None
  )


@dataclasses.dataclass(frozen=True)
class HostState:
  """State of a run outside the devices; JSON in every checkpoint.

  Attributes:
    data: position of the data pipeline, None at the start.
    early_stopping: what early stopping remembers, the best metric among it.
    seconds: training time so far, without compilation and evaluations.
  """

  data: Resume = None
  early_stopping: stopping.EarlyStoppingState = stopping.EarlyStoppingState()
  seconds: float = 0.0


def train(
  config: config_lib.TrainConfig,
  parts: Parts,
  state: state_lib.TrainState,
  host: HostState = HostState(),
) -> tuple[state_lib.TrainState, HostState]:
  """Trains until the last step or until early stopping.

  Args:
    config: the run.
    parts: what it works with.
    state: on the devices; donated.
    host: what belongs to it.

  Returns:
    The last state. It has been saved.

  Raises:
    NonFiniteLossError: names the step and the records; the last checkpoint stays.
    RecompileError: the pipeline changed its shapes.
  """
  return _Run(config, parts, state, host).train()


def restore(
  checkpointer: checkpointer_lib.Checkpointer,
  fresh: state_lib.TrainState,
  mesh: jax.sharding.Mesh,
) -> tuple[state_lib.TrainState, HostState]:
  """The newest checkpoint on the devices.

  Args:
    checkpointer: where to look.
    fresh: a state of the right structure.
    mesh: the devices, which may be others than those that saved it.

  Raises:
    ValueError: its weights do not match `fresh`.
  """
  values, host = checkpointer.restore(fresh)
  state = sharding.put_replicated(values, mesh)
  return state, serialization.from_json(HostState, host)


class _Run:
  """One call of `train`."""

  def __init__(
    self,
    config: config_lib.TrainConfig,
    parts: Parts,
    state: state_lib.TrainState,
    host: HostState,
  ) -> None:
    self._config = config
    self._parts = parts
    self._state = state
    self._host = host
    self._step = int(state.step)
    self._progress = progress_lib.Progress(self._step, config.num_steps, host.seconds)
    # Metrics on the devices and records of the steps since the last flush.
    self._metrics: list[Mapping[str, jax.Array]] = []
    self._batches: list[feed.HostBatch] = []

  def train(self) -> tuple[state_lib.TrainState, HostState]:
    if self._finished():
      return self._state, self._host
    source = self._parts.batches(self._host.data)
    with feed.to_devices(source, self._parts.mesh) as batches:
      self._progress.resume()
      for item in batches:
        self._take_step(item)
        self._after_step()
        if self._finished():
          break
    self._parts.checkpointer.wait()
    if self._step < self._config.num_steps and not self._stop_reason():
      raise RuntimeError(f"The training data ended after step {self._step}.")
    return self._state, self._host

  def _take_step(self, item: feed.HostBatch) -> None:
    """Dispatches one step; waits for the step before the last."""
    first = self._parts.train_step.compiled is None
    self._state, metrics = self._parts.train_step(self._state, item.batch)
    self._step += 1
    self._metrics.append(metrics)
    self._batches.append(item._replace(batch=None))
    if first:
      logging.info("Compiled in %.1f s.", self._parts.train_step.compile_seconds)
      jax.block_until_ready(metrics)
      self._progress.update(self._step, 0, counts=False)
    if len(self._metrics) > _AHEAD:
      jax.block_until_ready(self._metrics[-1 - _AHEAD])

  def _after_step(self) -> None:
    """Logs, evaluates and saves where it is time to."""
    config, step = self._config, self._step
    is_last = step == config.num_steps
    evaluates = self._parts.evaluate is not None and (
      is_last or (config.evaluate_every and step % config.evaluate_every == 0)
    )
    saves = evaluates or is_last or step % config.checkpoint_every == 0
    # A checkpoint never holds half an interval, so that a restarted run logs the same.
    if saves or step % config.log_every == 0:
      self._flush()
    metrics = self._evaluate() if evaluates else None
    if saves:
      self._save(metrics)
    if evaluates or saves:
      self._progress.resume()

  def _flush(self) -> None:
    """Fetches the metrics of the interval, checks and writes them."""
    if not self._metrics:
      return
    fetched = jax.device_get(self._metrics)
    self._check_finite(fetched)
    values = {
      name: float(fetched[-1][name])
      if name in _SUMMARISED_BY_LAST
      else float(np.mean([metrics[name] for metrics in fetched], dtype=np.float64))
      for name in fetched[-1]
      if name != "finite"
    }
    structures = sum(len(item.record_ids) for item in self._batches)
    self._progress.update(self._step, structures * jax.process_count())
    used = {
      f"utilisation/{name}": float(
        np.mean([i.utilisation[name] for i in self._batches])
      )
      for name in self._batches[-1].utilisation
    }
    logging.info(
      "%s", self._progress.line(values, used.get(f"utilisation/{_MAIN_EDGES}", 1.0))
    )
    timing = {"seconds": self._progress.seconds, **self._progress.rates()}
    self._write("train", values | used | timing)
    self._host = dataclasses.replace(
      self._host, data=self._batches[-1].resume, seconds=self._progress.seconds
    )
    self._metrics, self._batches = [], []

  def _check_finite(self, fetched: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Raises for the first step whose loss or gradient was not finite."""
    for index, (metrics, item) in enumerate(zip(fetched, self._batches)):
      if not metrics["finite"]:
        step = self._step - len(fetched) + index + 1
        raise NonFiniteLossError(
          f"Step {step}: the loss is {metrics['loss']} and the gradient norm "
          f"{metrics['gradient_norm']}. The batch held {', '.join(item.record_ids)}. "
          "No update was made with it; the last checkpoint was made before. Look at "
          "these records, or lower the learning rate."
        )

  def _evaluate(self) -> dict[str, float]:
    """Evaluates, and lets plateau and early stopping know."""
    config = self._config
    metrics = self._parts.evaluate(self._state)
    self._write("val", metrics | {"seconds": self._progress.seconds})
    logging.info(
      "step %d validation: %s",
      self._step,
      ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items())),
    )
    primary = metrics.get(config.primary_metric)
    if primary is None:
      raise ValueError(
        f"There is no validation metric {config.primary_metric!r}, only "
        f"{', '.join(sorted(metrics))}."
      )
    self._update_plateau(primary)
    state = stopping.update_early_stopping(
      config.early_stopping, self._host.early_stopping, self._step, primary
    )
    self._host = dataclasses.replace(self._host, early_stopping=state)
    return metrics

  def _update_plateau(self, value: float) -> None:
    if self._config.plateau is None:
      return
    plateau = stopping.update_plateau(
      self._config.plateau, jax.device_get(self._state.plateau), self._step, value
    )
    plateau = sharding.put_replicated(jax.tree.map(np.array, plateau), self._parts.mesh)
    self._state = self._state.replace(plateau=plateau)

  def _save(self, metrics: dict[str, float] | None) -> None:
    primary = metrics[self._config.primary_metric] if metrics else None
    host = serialization.to_json(self._host)
    if jax.process_count() > 1:
      positions = sharding.gather_json(host["data"])
      host["data"] = self._parts.merge_positions(positions)
    self._parts.checkpointer.save(self._state, host, metrics, primary)

  def _stop_reason(self) -> str | None:
    if self._config.early_stopping is None:
      return None
    scale = float(jax.device_get(self._state.plateau.scale))
    rate = float(self._parts.schedule(self._step)) * scale
    return stopping.stop_reason(
      self._config.early_stopping, self._host.early_stopping, rate
    )

  def _finished(self) -> bool:
    if self._step >= self._config.num_steps:
      return True
    # Only an evaluation changes the answer, and there nothing is in flight.
    reason = None if self._metrics else self._stop_reason()
    if reason:
      logging.info("Stopped after step %d: %s", self._step, reason)
    return reason is not None

  def _write(self, kind: str, values: Mapping[str, float]) -> None:
    for writer in self._parts.writers:
      writer.write(self._step, kind, values)
