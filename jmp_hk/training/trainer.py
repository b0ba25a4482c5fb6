"""Trains a model: a class that notebooks, runners and `jmp_hk.fine_tune` use alike."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import logging
import os
import pathlib
from typing import Any

import jax
import numpy as np

from jmp_hk import files
from jmp_hk import serialization
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.runtime import configuration
from jmp_hk.runtime import devices as devices_lib
from jmp_hk.runtime import interruption
from jmp_hk.runtime import processes
from jmp_hk.training import batch_sources
from jmp_hk.training import config as config_lib
from jmp_hk.training import initial as initial_lib
from jmp_hk.training import loop as loop_lib
from jmp_hk.training import metrics as metrics_lib
from jmp_hk.training import objective
from jmp_hk.training import plot
from jmp_hk.training import preflight
from jmp_hk.training import profiling
from jmp_hk.training import program as program_lib
from jmp_hk.training import run_directory
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import summary
from jmp_hk.training import writers as writers_lib

logger = logging.getLogger(__name__)


class Trainer:
  """One training run; everything that it writes lies in its directory.

  Where the directory holds a run already, that run is continued from its newest
  checkpoint. A terminal or notebook shows a progress bar. Lines with errors, and tables
  of validations, go to the loggers below `jmp_hk`; in a notebook
  `logging.basicConfig(level=logging.INFO)` shows them.

  Example:
    >>> trainer = Trainer(config, [training], [validation], "runs/mine")
    >>> metrics = trainer.run()
    >>> model = trainer.predictor()

  Attributes:
    config: configuration of the run; `train.num_microbatches` is never zero.
    workdir: its directory.
  """

  def __init__(
    self,
    config: config_lib.TrainerConfig,
    training: Sequence[datasets_lib.Dataset],
    validation: Sequence[datasets_lib.Dataset],
    workdir: str | os.PathLike[str],
    *,
    initial: initial_lib.InitialModel | None = None,
    batches: batch_sources.BatchSource | None = None,
  ) -> None:
    """Chooses the budget of batches and builds the model; computes nothing yet.

    Args:
      config: configuration of the run.
      training: the datasets to train on, one for each task of the model.
      validation: datasets of some of these tasks to validate on.
      workdir: directory of the run.
      initial: trained model that the run starts from; by default the one that
        `config.initial` names.
      batches: batches that are ready, in place of those of datasets.

    Raises:
      DevicesError: a step cannot be shared out over the devices.
      OtherRunError: the directory holds a run with other settings.
      PreflightError: the run would fail later on, see `preflight`.
      ValueError: the datasets do not fit the model.
    """
    configuration.configure()
    self.workdir = pathlib.Path(workdir)
    self.config = config = run_directory.complete(config, self.workdir)
    run_directory.check_config({"trainer": config}, self.workdir)
    preflight.check(config, (*training, *validation), self.workdir)
    train = config.train
    mesh = evaluation_mesh = sharding.open_mesh(
      train.batch_size, train.num_microbatches, train.num_devices
    )
    if batches is None:
      evaluation_mesh = sharding.open_evaluation_mesh(train.num_devices)
    self._batches = batches or batch_sources.open_datasets(
      config, training, validation, self.workdir, mesh, evaluation_mesh
    )
    self._example = objective.first_microbatch(self._batches.padding().batch)
    self._program = program_lib.Program(
      config,
      self._batches.infos,
      self._example,
      mesh,
      self._batches.budgets,
      evaluation_mesh,
    )
    self._check_outputs()
    self._initial = initial
    self._origin: Mapping[str, Any] = {}  # Of the weights that the run starts from.
    self._state: state_lib.TrainState | None = None
    self._host = state_lib.HostState()
    if processes.is_first():
      files.remove_unfinished(self.workdir)
      run_directory.store_config({"trainer": config}, self.workdir)
    summary.tell_start(config, self._program)
    summary.tell_graphs(config, training)

  @classmethod
  def from_batches(
    cls,
    config: config_lib.TrainerConfig,
    batches: batch_sources.BatchSource,
    workdir: str | os.PathLike[str],
  ) -> Trainer:
    """A trainer that needs no datasets.

    Args:
      config: configuration of the run; `budget` and `pipeline` are not used.
      batches: the batches, e.g. `batch_sources.ReadyBatches`.
      workdir: directory of the run.
    """
    return cls(config, (), (), workdir, batches=batches)

  @property
  def state(self) -> state_lib.TrainState:
    """Weights, optimiser and all else that steps change, on the devices.

    Before `run` it is that of the newest checkpoint, or the fresh one.
    """
    if self._state is None:
      self._state, self._host = self._start()
    return self._state

  def run(self) -> dict[str, float]:
    """Trains, continuing from the newest checkpoint of the directory if there is one.

    Returns:
      The last validation metrics; empty where nothing is validated, and in all
      processes but the first.

    Raises:
      Interrupted: SIGINT came, a `KeyboardInterrupt`. The step was finished and a
        checkpoint saved, as the message says; the next run continues.
      Terminated: SIGTERM came, a `SystemExit` with exit code 143; likewise.
      NonFiniteLossError: a loss or gradient was not finite; names the structures.
      PretrainedError: the initial model does not fit; names the parameters.
    """
    with interruption.caught() as signals:
      try:
        return self._run(signals)
      except interruption.STOPS as error:
        if error.message or jax.process_count() > 1:
          raise
        message = self._where_stopped(interruption.name(error.number))
        logger.info("%s", message)
        raise type(error)(message) from None

  def _run(self, signals: interruption.Signals) -> dict[str, float]:
    """`run`, with the signals that have come."""
    state = self.state  # It is restored before metrics after it are cut off.
    if reason := self._reason_to_finish():
      logger.info("Nothing to do: %s", reason)
      stored = None
      if jax.process_count() == 1:  # Others might not see the file yet.
        stored = run_directory.stored_results(self.workdir, int(state.step))
      return self._finish() if stored is None else stored
    is_first = processes.is_first()
    described = self._program.described
    units = {name: metric.unit for name, metric in described.items()}
    writers = ()
    if is_first:
      writers = writers_lib.open_writers(
        self.workdir, int(state.step), units, is_unvalidated=self._host.is_unvalidated
      )
    records = writers_lib.read_metrics(self.workdir / writers_lib.METRICS_FILE)
    profiler = profiling.Profiler(
      self.config.train.profile_steps, self.workdir / profiling.DIRECTORY
    )
    self._state = None  # Steps donate it; after an error it is read from disk again.
    with contextlib.ExitStack() as stack:
      checkpointer = self._open_checkpointer()
      for output in (checkpointer, *writers, profiler):
        stack.callback(output.close)
      stack.enter_context(processes.ends_together())
      loop = loop_lib.Loop(
        self.config.train,
        self._program,
        self._batches,
        loop_lib.Outputs(checkpointer, writers, profiler, records),
        state,
        self._host,
        signals,
      )
      loop.run()
    self._state, self._host = loop.state, loop.host
    return self._finish()

  def evaluate(
    self, datasets: Sequence[datasets_lib.Dataset] | None = None
  ) -> dict[str, float]:
    """Metrics of the present weights, averaged ones if there are.

    Args:
      datasets: datasets of tasks of the model; by default the validation data.

    Returns:
      "dataset/metric" → value, in physical units; see `metrics.summarise`.
    """
    if datasets is None:
      batches = self._batches.validation()
    else:
      batches = self._batches.evaluation(datasets)
    return self._program.evaluate(self.state, batches, self._batches.padding)

  def evaluate_linear_fit(self) -> dict[str, float]:
    """Validation metrics of the per-element linear fit alone, with zero forces."""
    return self._program.evaluate_linear_fit(
      self._batches.validation(), self._batches.padding
    )

  def predictor(self) -> predictor_lib.Predictor:
    """The present model; `jmp_hk.load(workdir)` gives that of the best checkpoint."""
    variables = model_lib.Variables(self.state.evaluation_params, self.state.scales)
    return predictor_lib.Predictor(
      self.config.model,
      self._batches.infos,
      jax.device_get(variables),
      origin=self._origin,
      precision=self.config.model.precision,
      num_devices=devices_lib.share_of_process(self.config.train.num_devices),
    )

  def _check_outputs(self) -> None:
    """Checks that checkpoints find room, and that validation gives its metric."""
    train = self.config.train
    if processes.is_first():
      preflight.check_disk(train, self._program.state_shapes(), self.workdir)
    if self._batches.has_validation:
      names = metrics_lib.names(
        self.config.model.tasks, self._batches.infos, self._example
      )
      preflight.check_metric(train, names)

  def _start(self) -> tuple[state_lib.TrainState, state_lib.HostState]:
    """The newest checkpoint, or a fresh state."""
    train, program = self.config.train, self._program
    with contextlib.closing(self._open_checkpointer()) as checkpointer:
      if checkpointer.latest_step is not None:
        values, host = checkpointer.restore(program.state_shapes())
        step = int(values.step)
        logger.info("Continuing after step %d.", step)
        self._origin = model_directory.read_origin(checkpointer.path(step))
        state = sharding.put_replicated(values, program.mesh)
        return state, serialization.from_json(state_lib.HostState, host)
    init_key, run_key = jax.random.split(jax.random.PRNGKey(train.seed))
    variables = initial_lib.draw(program.model, init_key, self._example)
    initial = self._initial
    if initial is None and self.config.initial is not None:
      initial = initial_lib.load(self.config.initial)
    if initial is not None:
      self._origin = initial.origin
      variables = initial_lib.take_over(
        initial, variables, self.config.model, self._batches.infos, self.workdir
      )
    if initial is None or initial_lib.lacks_branch(initial, self.config.model):
      variables = initial_lib.fit_scales(
        program.model, variables, self._batches, train.num_scale_batches, self.workdir
      )
    # Other hardware may round otherwise; all processes start from the same bits.
    variables = model_lib.Variables(*sharding.from_first_process(variables))
    return program.init_state(variables, np.asarray(run_key)), state_lib.HostState()

  def _reason_to_finish(self) -> str | None:
    """Why there is nothing left to train, or None."""
    if self._host.is_unvalidated:
      return None
    return self._program.finish_reason(self.state, self._host)

  def _where_stopped(self, signal: str) -> str:
    """What a signal ended where no step was under way, as a sentence."""
    steps = checkpointer_lib.complete_steps(self.workdir / model_directory.CHECKPOINTS)
    if not steps:
      return (
        f"Stopped by {signal} before the first step; there is nothing to save. The "
        "same command starts again."
      )
    return (
      f"Stopped by {signal} where no step was under way; the newest checkpoint is that "
      f"of step {steps[-1]} in {self.workdir}; the same command continues."
    )

  def _open_checkpointer(self) -> checkpointer_lib.Checkpointer:
    return checkpointer_lib.Checkpointer(
      self.workdir / model_directory.CHECKPOINTS,
      model_directory.describe(
        self.config.model,
        self._batches.infos,
        self._program.budgets[-1],
        self._origin,
      ),
      keep_last=self.config.train.keep_last,
      keep_best=self.config.train.keep_best,
    )

  def _finish(self) -> dict[str, float]:
    """Writes curves and results; by all processes together."""
    linear_fit = self.evaluate_linear_fit() if self._batches.has_validation else {}
    if not processes.is_first():
      return {}
    plot.plot_run(self.workdir)
    metrics = run_directory.save_results(self.workdir, linear_fit)
    summary.tell_end(self.config, self.workdir, self._program, linear_fit)
    return metrics
