"""One training run from its config: builds the parts and runs the loop.

Importing this imports TensorFlow; runners do so after they have checked their flags.
"""

import pathlib

from absl import logging
import jax
import numpy as np

from experiments import feeds
from experiments import initial
from experiments import summary
from experiments.command_line import config as config_lib
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters
from jmp_hk.models.gemnet_oc import scale_fitting
from jmp_hk.models.gemnet_oc import shared_gradients
from jmp_hk.runtime import processes
from jmp_hk.training import evaluation
from jmp_hk.training import loop
from jmp_hk.training import losses
from jmp_hk.training import metrics as metrics_lib
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import plot
from jmp_hk.training import profiling
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step as step_lib
from jmp_hk.training import writers as writers_lib


def run(config: config_lib.RunConfig, workdir: pathlib.Path) -> dict[str, float]:
  """Trains, continuing from the newest checkpoint of `workdir` if there is one.

  Args:
    config: of the run.
    workdir: all outputs go there.

  Returns:
    The last validation metrics; empty where nothing is validated.
  """
  mesh = sharding.make_mesh()
  microbatches = sharding.local_microbatches(mesh, config.train.num_microbatches)
  data = feeds.open_data(config, microbatches, workdir)
  session = Session(config, data, mesh, workdir)
  checkpointer = checkpointer_lib.Checkpointer(
    workdir / model_directory.CHECKPOINTS,
    model_directory.describe(
      config.model, data.infos, data.budget, initial.origin(config.initial)
    ),
    keep_last=config.train.keep_last,
    keep_best=config.train.keep_best,
  )
  state, host = session.start(checkpointer)
  is_first = processes.is_first()
  writers = writers_lib.open_writers(workdir, int(state.step)) if is_first else ()
  try:
    with processes.ends_together():
      loop.train(config.train, session.parts(checkpointer, writers), state, host)
  finally:
    checkpointer.close()
    for writer in writers:
      writer.close()
  linear_fit = session.linear_fit()  # By all processes together.
  if not is_first:
    return {}
  plot.plot_run(workdir)
  return summary.summarise(workdir, linear_fit)


class Session:
  """The parts of one run."""

  def __init__(
    self,
    config: config_lib.RunConfig,
    data: feeds.Data,
    mesh: jax.sharding.Mesh,
    workdir: pathlib.Path,
  ) -> None:
    """Builds the functions; computes nothing yet.

    Args:
      config: of the run.
      data: that it reads.
      mesh: devices that it uses.
      workdir: of the run.
    """
    self._config = config
    self._data = data
    self._mesh = mesh
    self._workdir = workdir
    self._model = model_lib.build_model(config.model)
    self._example = feeds.first_microbatch(data.empty_batch().batch)
    shapes = jax.eval_shape(self._model.init, jax.random.PRNGKey(0), self._example)
    self._shapes: model_lib.Variables = shapes
    self._optimizer = optimizer_lib.make_optimizer(
      config.train.optimizer, shapes.params
    )
    self._schedule = optimizer_lib.make_schedule(config.train.optimizer.schedule)
    logging.info(
      "%d parameters, %d microbatches on %d devices, microbatches of %s.",
      parameters.count(shapes.params),
      config.train.num_microbatches,
      mesh.size,
      data.budget,
    )

  def start(
    self, checkpointer: checkpointer_lib.Checkpointer
  ) -> tuple[state_lib.TrainState, loop.HostState]:
    """The newest checkpoint, or a fresh state with fitted scale factors."""
    train = self._config.train
    init_key, run_key = jax.random.split(jax.random.PRNGKey(train.seed))
    if checkpointer.latest_step is not None:
      create = lambda p, s, k: state_lib.create(
        p, s, self._optimizer, k, use_ema=train.ema_decay > 0
      )
      target = jax.eval_shape(create, *self._shapes, run_key)
      logging.info("Continuing after step %d.", checkpointer.latest_step)
      return loop.restore(checkpointer, target, self._mesh)
    # Other hardware may round otherwise; all processes start from the same bits.
    params, scales = sharding.from_first_process(self._initialise(init_key))
    state = state_lib.create_on_mesh(
      params,
      scales,
      self._optimizer,
      np.asarray(run_key),
      self._mesh,
      use_ema=train.ema_decay > 0,
    )
    return state, loop.HostState()

  def parts(
    self,
    checkpointer: checkpointer_lib.Checkpointer,
    writers: tuple[writers_lib.MetricWriter, ...],
  ) -> loop.Parts:
    """What the train loop works with."""
    train_step = self._train_step()
    if self._config.train.profile_steps:
      train_step = profiling.ProfiledStep(
        train_step,
        self._config.train.profile_steps,
        self._workdir / profiling.DIRECTORY,
      )
    return loop.Parts(
      mesh=self._mesh,
      train_step=train_step,
      evaluate=self._evaluator() if self._data.validation else None,
      batches=self._data.training_batches,
      schedule=self._schedule,
      checkpointer=checkpointer,
      writers=writers,
      merge_positions=feeds.merge_positions,
    )

  def linear_fit(self) -> dict[str, float]:
    """Validation metrics of the per-element linear fit alone, with zero forces."""
    if not self._data.validation:
      return {}

    def microbatch_sums(params, scales, microbatch):
      del params, scales
      zeros = metrics_lib.zero_predictions(self._data.tasks, microbatch)
      return metrics_lib.batch_sums(
        self._data.tasks, self._data.infos, microbatch, zeros
      )

    step = evaluation.make_eval_step(microbatch_sums, self._mesh, "linear_fit")
    return self._evaluate(step, (), ())

  def _initialise(self, key: jax.Array) -> model_lib.Variables:
    """Draws parameters and fits the scale factors, or loads the backbone with them."""
    variables = jax.jit(self._model.init)(key, self._example)
    if self._config.initial:
      return initial.load(self._config.initial, variables, self._workdir)
    count = self._config.train.num_scale_batches
    if not count:
      return variables
    scales = scale_fitting.fit_scales(
      self._model,
      variables,
      self._data.first_batches(count),
      on_factor=lambda name, value: logging.info("Fitted %s = %.4g.", name, value),
    )
    return variables._replace(scales=scales)

  def _train_step(self) -> step_lib.compilation.CompiledOnce:
    config = self._config
    variables = model_lib.Variables
    objective = step_lib.Objective(
      predict=lambda params, scales, key, microbatch: self._model.apply(
        variables(params, scales), key, microbatch, is_training=True
      ),
      terms=lambda microbatch, predictions: losses.loss_terms(
        config.loss, config.model.tasks, microbatch, predictions
      ),
      process_gradients=lambda gradients: shared_gradients.divide_shared_gradients(
        gradients, config.model.backbone
      ),
    )
    return step_lib.make_train_step(
      objective,
      self._optimizer,
      self._mesh,
      ema_decay=config.train.ema_decay,
      schedule=self._schedule,
      trainable=optimizer_lib.trainable(config.train.optimizer, self._shapes.params),
    )

  def _evaluator(self):
    """State → validation metrics, with the averaged weights."""

    def microbatch_sums(params, scales, microbatch):
      predictions = self._model.apply(
        model_lib.Variables(params, scales), None, microbatch
      )
      return metrics_lib.batch_sums(
        self._data.tasks, self._data.infos, microbatch, predictions
      )

    step = evaluation.make_eval_step(microbatch_sums, self._mesh)
    return lambda state: self._evaluate(step, state.evaluation_params, state.scales)

  def _evaluate(self, step, params, scales) -> dict[str, float]:
    return evaluation.evaluate(
      step,
      params,
      scales,
      self._data.validation_batches(),
      self._mesh,
      empty=self._data.empty_batch,
    )
