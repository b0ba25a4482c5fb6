"""The training loop: steps, and what happens between them."""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import logging
from typing import Any

import jax
import numpy as np
import tqdm

from jmp_hk import serialization
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.runtime import console
from jmp_hk.runtime import processes
from jmp_hk.training import batch_sources
from jmp_hk.training import config as config_lib
from jmp_hk.training import metric_table
from jmp_hk.training import profiling
from jmp_hk.training import program as program_lib
from jmp_hk.training import progress as progress_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step_log
from jmp_hk.training import stopping
from jmp_hk.training import writers as writers_lib

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outputs:
  """Where a run writes.

  Attributes:
    checkpointer: saves the state.
    writers: take metrics; empty in all processes but the first.
    profile: records some steps, or None.
    records: metrics that earlier starts of the run have written.
  """

  checkpointer: checkpointer_lib.Checkpointer
  writers: Sequence[writers_lib.MetricWriter] = ()
  profile: profiling.Profiler | None = None
  records: Sequence[Mapping[str, Any]] = ()

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Writes metrics, see `writers.MetricWriter`."""
    for writer in self.writers:
      writer.write(step, kind, values)


class Loop:
  """Trains until the last step or until early stopping.

  Attributes:
    state: the state after the last step, on the devices.
    host: what belongs to it outside the devices.
  """

  def __init__(
    self,
    config: config_lib.TrainConfig,
    program: program_lib.Program,
    batches: batch_sources.BatchSource,
    outputs: Outputs,
    state: state_lib.TrainState,
    host: state_lib.HostState,
  ) -> None:
    """Takes what the loop works with.

    Args:
      config: the run.
      program: training and evaluation step.
      batches: training and validation data.
      outputs: where metrics and checkpoints go.
      state: state to start from; its buffers are donated to the first step.
      host: what belongs to it outside the devices.
    """
    self.state = state
    self.host = host
    self._config = config
    self._program = program
    self._batches = batches
    self._outputs = outputs
    self._step = int(state.step)
    self._progress = progress_lib.Progress(self._step, config.num_steps, host.seconds)
    self._log = step_log.StepLog()
    self._bar: tqdm.tqdm | None = None
    self._validations = metric_table.ValidationLog(
      program.described, config.primary_metric, outputs.records
    )

  def run(self) -> None:
    """Trains. The last state is saved when this returns.

    Raises:
      NonFiniteLossError: names the step and the records; the last checkpoint stays.
      RecompileError: the batches changed their shapes.
      RuntimeError: the training data ended before the last step.
    """
    if self._is_finished():
      return
    source = self._batches.training(self.host.data)
    with contextlib.ExitStack() as stack:
      batches = stack.enter_context(sharding.to_devices(source, self._program.mesh))
      bar = self._bar = stack.enter_context(
        console.bar(
          self._config.num_steps,
          "step",
          "Training",
          initial=self._step,
          is_shown=processes.is_first(),
        )
      )
      self._progress.resume()
      for item in batches:
        self._take_step(item)
        bar.update()
        self._after_step()
        if self._is_finished():
          break
    self._outputs.checkpointer.wait()
    if self._step < self._config.num_steps and not self._stop_reason():
      raise RuntimeError(f"The training data ended after step {self._step}.")

  def _take_step(self, item: batches_lib.PipelineBatch) -> None:
    """Dispatches one step."""
    train_step = self._program.train_step
    is_first = train_step.compiled is None
    if is_first:
      logger.info("Compiling the training step, which may take minutes.")
    self.state, metrics = train_step(self.state, item.batch)
    self._step += 1
    if is_first:
      logger.info("Compiled in %.0f s.", train_step.compile_seconds)
      jax.block_until_ready(metrics)
      self._progress.update(self._step, 0, counts=False)
    self._log.add(metrics, item.info)
    if self._outputs.profile is not None:
      self._outputs.profile.after_step(self.state)

  def _after_step(self) -> None:
    """Logs, validates and saves where it is time to."""
    config, step = self._config, self._step
    is_last = step == config.num_steps
    validates = self._batches.has_validation and (
      is_last or (config.evaluate_every > 0 and step % config.evaluate_every == 0)
    )
    saves = validates or is_last or step % config.checkpoint_every == 0
    # A checkpoint never holds half an interval, so that a restarted run logs the same.
    if saves or step % config.log_every == 0:
      self._flush()
    metrics = self._validate() if validates else None
    if saves:
      self._save(metrics)
      self._progress.resume()

  def _flush(self) -> None:
    """Fetches the metrics of the interval, checks and writes them."""
    values = self._log.summarise(self._step)
    structures = self._log.num_structures * jax.process_count()
    self._progress.update(self._step, structures)
    errors = metric_table.training_errors(self._program.described, values)
    logger.info("%s", self._progress.line(values, errors))
    if self._bar is not None:
      self._bar.set_postfix_str(", ".join(errors), refresh=False)
    timing = {"seconds": self._progress.seconds, **self._progress.rates()}
    self._outputs.write(self._step, "train", values | timing)
    self.host = dataclasses.replace(
      self.host, data=self._log.position, seconds=self._progress.seconds
    )
    self._log.clear()

  def _validate(self) -> dict[str, float]:
    """Validates, and lets plateau and early stopping know."""
    metrics = self._program.evaluate(
      self.state, self._batches.validation(), self._batches.padding
    )
    self._outputs.write(
      self._step, "val", metrics | {"seconds": self._progress.seconds}
    )
    logger.info("%s", self._validations.tell(self._step, metrics))
    primary = metrics.get(self._config.primary_metric)
    if primary is None:
      raise ValueError(
        f"There is no validation metric {self._config.primary_metric!r}, only "
        f"{', '.join(sorted(metrics))}."
      )
    self._update_plateau(primary)
    stopped = stopping.update_early_stopping(
      self._config.early_stopping, self.host.early_stopping, self._step, primary
    )
    self.host = dataclasses.replace(self.host, early_stopping=stopped)
    return metrics

  def _update_plateau(self, value: float) -> None:
    """Takes a validation metric into account in the learning rate."""
    if self._config.plateau is None:
      return
    plateau = stopping.update_plateau(
      self._config.plateau, jax.device_get(self.state.plateau), self._step, value
    )
    plateau = jax.tree.map(np.array, plateau)
    plateau = sharding.put_replicated(plateau, self._program.mesh)
    self.state = dataclasses.replace(self.state, plateau=plateau)

  def _save(self, metrics: Mapping[str, float] | None) -> None:
    """Saves a checkpoint; with metrics where the step was validated."""
    primary = metrics[self._config.primary_metric] if metrics else None
    host = serialization.to_json(self.host)
    if jax.process_count() > 1:
      positions = sharding.gather_json(host["data"])
      host["data"] = self._batches.merge_positions(positions)
    self._outputs.checkpointer.save(self.state, host, metrics, primary)

  def _stop_reason(self) -> str | None:
    """Why early stopping ends the run now, or None."""
    if self._config.early_stopping is None:
      return None
    scale = float(jax.device_get(self.state.plateau.scale))
    rate = float(np.asarray(self._program.schedule(self._step))) * scale
    return stopping.stop_reason(
      self._config.early_stopping, self.host.early_stopping, rate
    )

  def _is_finished(self) -> bool:
    if self._step >= self._config.num_steps:
      return True
    # Only a validation changes the answer, and after one nothing is in flight.
    reason = None if len(self._log) else self._stop_reason()
    if reason:
      logger.info("Stopped after step %d: %s", self._step, reason)
    return reason is not None
