"""The training loop: steps, and what happens between them."""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import logging
import time
from typing import Any
from typing import NoReturn

import jax
from jax.experimental import multihost_utils
import numpy as np
import tqdm

from jmp_hk import serialization
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.runtime import console
from jmp_hk.runtime import interruption
from jmp_hk.runtime import processes
from jmp_hk.training import batch_sources
from jmp_hk.training import config as config_lib
from jmp_hk.training import evaluation
from jmp_hk.training import metric_table
from jmp_hk.training import preflight
from jmp_hk.training import profiling
from jmp_hk.training import program as program_lib
from jmp_hk.training import progress as progress_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step_log
from jmp_hk.training import stopping
from jmp_hk.training import summary
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
  """Trains until the last step, until early stopping or until a signal.

  A signal that comes after the first step of a start lets that step end, and a
  checkpoint is saved. In runs of several processes they agree on it at the next line of
  training metrics.

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
    signals: interruption.Signals,
  ) -> None:
    """Takes what the loop works with.

    Args:
      config: the run.
      program: training and evaluation step.
      batches: training and validation data.
      outputs: where metrics and checkpoints go.
      state: state to start from; its buffers are donated to the first step.
      host: what belongs to it outside the devices.
      signals: the signals that have come.
    """
    self.state = state
    self.host = host
    self._config = config
    self._program = program
    self._batches = batches
    self._outputs = outputs
    self._signals = signals
    self._step = int(state.step)
    self._progress = progress_lib.Progress(self._step, config.num_steps, host.seconds)
    self._log = step_log.StepLog()
    self._log.restore(host.interval)
    # Structures of the interval that the progress knows of.
    self._counted = self._log.num_structures
    self._is_first = True  # No step has been taken since the start.
    self._saved_at = time.monotonic()
    self._bar: tqdm.tqdm | None = None
    self._validations = metric_table.ValidationLog(
      program.described, config.primary_metric, outputs.records
    )

  def run(self) -> None:
    """Trains. The last state is saved when this returns.

    Raises:
      Interrupted, Terminated: a signal came; the last state is saved.
      NonFiniteLossError: names the step and the records; the last checkpoint stays.
      RecompileError: the batches changed their shapes.
      RuntimeError: the training data ended before the last step.
    """
    try:
      self._run()
    finally:
      self._signals.is_deferred = False

  def _run(self) -> None:
    if self.host.is_unvalidated:
      self._catch_up()
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
        self._signals.is_deferred = True  # From now on there is something to save.
        self._after_step()
        if self._is_finished():
          break
      else:
        raise RuntimeError(f"The training data ended after step {self._step}.")
    self._outputs.checkpointer.wait()
    if self._signals.received and jax.process_count() == 1:
      self._stop(self._signals.received)

  def _take_step(self, item: batches_lib.PipelineBatch) -> None:
    """Dispatches one step."""
    train_step = self._program.train_step
    known = train_step.num_compilations

    def announce() -> None:
      if not self._is_first:
        self._count()
      logger.info("%s", summary.compilation(self._program, item.batch))

    self.state, metrics = train_step(self.state, item.batch, before_compiling=announce)
    self._step += 1
    self._log.add(metrics, item.info)
    if train_step.num_compilations > known:
      logger.info("Compiled in %.0f s.", train_step.compile_seconds)
      self._counted = self._log.num_structures  # Waits for the step.
      self._progress.update(self._step, 0, counts=False)
    if self._is_first:
      preflight.check_memory(train_step.compiled, item.batch, self._program.budgets)
      self._saved_at = time.monotonic()
      self._is_first = False
    if self._outputs.profile is not None:
      self._outputs.profile.after_step(self.state)

  def _after_step(self) -> None:
    """Logs, validates and saves where it is time to; stops at a signal."""
    config, step = self._config, self._step
    is_last = step == config.num_steps
    validates = self._batches.has_validation and (
      is_last or (config.evaluate_every > 0 and step % config.evaluate_every == 0)
    )
    saves = validates or is_last or step % config.checkpoint_every == 0
    logs = saves or step % config.log_every == 0
    number, is_due = self._requests(logs)
    if logs:
      self._flush()
    elif number or is_due:
      self._keep_interval()
    metrics = None
    if validates and not number:
      metrics, number = self._validate()
    if saves or is_due or number:
      self._save(metrics, is_unvalidated=validates and metrics is None)
      self._progress.resume()
    if number:
      self._stop(number)

  def _requests(self, logs: bool) -> tuple[int, bool]:
    """What comes from outside, in agreement with the other processes.

    Args:
      logs: whether the step has a line of training metrics, where processes talk.

    Returns:
      Number of the signal to obey, or 0; whether the last checkpoint is too old.
    """
    minutes, number = self._config.checkpoint_minutes, self._signals.received
    is_due = minutes > 0 and time.monotonic() - self._saved_at >= 60 * minutes
    if jax.process_count() == 1:
      return number, is_due
    if not logs:
      return 0, False
    everybody = multihost_utils.process_allgather(np.array([number, is_due], np.int32))
    return int(everybody[:, 0].max()), bool(everybody[0, 1])  # One clock decides.

  def _flush(self) -> None:
    """Fetches the metrics of the interval, checks and writes them."""
    values = self._log.summarise(self._step)
    self._count()
    errors = metric_table.training_errors(self._program.described, values)
    logger.info("%s", self._progress.line(values, errors))
    if self._bar is not None:
      self._bar.set_postfix_str(", ".join(errors), refresh=False)
    timing = {"seconds": self._progress.seconds, **self._progress.rates()}
    self._outputs.write(self._step, "train", values | timing)
    self.host = dataclasses.replace(
      self.host,
      data=self._log.position,
      seconds=self._progress.seconds,
      interval=(),
    )
    self._log.clear()
    self._counted = 0

  def _keep_interval(self) -> None:
    """Checks the metrics of an interval that goes on, and keeps them for a checkpoint.

    So a continued run writes the same lines as one that was never stopped.
    """
    steps = self._log.steps(self._step)
    self._count()
    self.host = dataclasses.replace(
      self.host,
      data=self._log.position,
      seconds=self._progress.seconds,
      interval=steps,
    )

  def _count(self) -> None:
    """Lets the progress know of the steps since it was last told of some."""
    structures = self._log.num_structures
    self._progress.update(self._step, structures - self._counted)
    self._counted = structures

  def _validate(self) -> tuple[dict[str, float] | None, int]:
    """Validates, and lets plateau and early stopping know.

    Returns:
      The metrics and 0; where a signal came, None and its number.
    """
    try:
      metrics, raw = self._program.validate(
        self.state,
        self._batches.validation(),
        self._batches.padding,
        lambda: self._signals.received if self._signals.is_deferred else 0,
      )
    except evaluation.StoppedError as error:
      return None, error.number
    seconds = {"seconds": self._progress.seconds}
    self._outputs.write(self._step, "val", metrics | seconds)
    primary = metrics.get(self._config.primary_metric)
    if primary is None:
      raise ValueError(
        f"There is no validation metric {self._config.primary_metric!r}, only "
        f"{', '.join(sorted(metrics))}."
      )
    if raw is not None:
      self._outputs.write(self._step, "val_raw", raw | seconds)
    more = {"raw weights": raw} if raw is not None else None
    logger.info("%s", self._validations.tell(self._step, metrics, more))
    if raw is not None and raw[self._config.primary_metric] < primary:
      logger.info(
        "The raw weights are better than the averaged ones; --noema and "
        "`jmp_hk.load(…, ema=False)` take them."
      )
    self._update_plateau(primary)
    stopped = stopping.update_early_stopping(
      self._config.early_stopping, self.host.early_stopping, self._step, primary
    )
    self.host = dataclasses.replace(self.host, early_stopping=stopped)
    return metrics, 0

  def _catch_up(self) -> None:
    """Makes up for a validation that a signal prevented."""
    metrics, _ = self._validate()
    if metrics is not None:
      primary = metrics[self._config.primary_metric]
      self._outputs.checkpointer.add_metrics(self._step, metrics, primary)
    self.host = dataclasses.replace(self.host, is_unvalidated=False)

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

  def _save(
    self, metrics: Mapping[str, float] | None, *, is_unvalidated: bool = False
  ) -> None:
    """Saves a checkpoint; with metrics where the step was validated."""
    self.host = dataclasses.replace(self.host, is_unvalidated=is_unvalidated)
    primary = metrics[self._config.primary_metric] if metrics else None
    host = serialization.to_json(self.host)
    if jax.process_count() > 1:
      positions = sharding.gather_json(host["data"])
      host["data"] = self._batches.merge_positions(positions)
    self._outputs.checkpointer.save(self.state, host, metrics, primary)
    self._saved_at = time.monotonic()

  def _stop(self, number: int) -> NoReturn:
    """Ends the run for a signal; all processes come here at the same step."""
    self._outputs.checkpointer.wait()
    message = (
      f"Stopped by {interruption.name(number)} after step {self._step}; checkpoint "
      f"saved in {self._outputs.checkpointer.path(self._step)}; the same command "
      "continues."
    )
    logger.info("%s", message)
    raise interruption.stop(number, message)

  def _is_finished(self) -> bool:
    if self._step >= self._config.num_steps:
      return True
    # Only a validation changes the answer, and after one nothing is in flight.
    reason = None
    if not len(self._log):
      reason = self._program.stop_reason(self.state, self.host)
    if reason:
      logger.info("Stopped after step %d: %s", self._step, reason)
    return reason is not None
