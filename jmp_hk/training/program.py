"""The functions that a training run computes, compiled for its devices."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping

import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import evaluation
from jmp_hk.training import metric_table
from jmp_hk.training import objective
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step as step_lib


class Program:
  """Training step, evaluation step and fresh state of a run; holds no weights.

  Attributes:
    model: the model.
    mesh: the devices.
    shapes: shapes of the model's parameters and scale factors.
    optimizer: the optimiser.
    schedule: base learning rate by step.
    train_step: (state, batch) → (state, metrics), see `step.make_train_step`.
    eval_step: (params, scales, batch) → sums of metrics, see `evaluation.evaluate`.
    described: what the metrics of its datasets are, see `metric_table.describe`.
  """

  def __init__(
    self,
    config: config_lib.TrainerConfig,
    infos: Mapping[str, dataset_info.DatasetInfo],
    example: batch_lib.Batch,
    mesh: jax.sharding.Mesh | None = None,
  ) -> None:
    """Builds the functions; compiles and computes nothing yet.

    Args:
      config: configuration of the run.
      infos: constants of the dataset of each task by name.
      example: a microbatch of the run, for shapes.
      mesh: the devices; by default all of all processes.
    """
    train = config.train
    self.mesh = mesh or sharding.make_mesh()
    self.model = model_lib.build_model(config.model)
    self.shapes: model_lib.Variables = jax.eval_shape(
      self.model.init, jax.random.PRNGKey(0), example
    )
    self.optimizer = optimizer_lib.make_optimizer(train.optimizer, self.shapes.params)
    self.schedule = optimizer_lib.make_schedule(train.optimizer.schedule)
    self.train_step = step_lib.make_train_step(
      objective.make_objective(self.model, config.loss, infos),
      self.optimizer,
      train,
      self.mesh,
    )
    self.eval_step = evaluation.make_eval_step(
      objective.make_validation_sums(self.model, infos), self.mesh
    )
    self._linear_fit_step = evaluation.make_eval_step(
      objective.make_linear_fit_sums(self.model, infos), self.mesh, "linear_fit"
    )
    known = [task for task in config.model.tasks if task.name in infos]
    self.described = metric_table.describe(known, infos)
    self._use_ema = train.ema_decay > 0

  def init_state(
    self, variables: model_lib.Variables, key: jax.Array | np.ndarray
  ) -> state_lib.TrainState:
    """State at step 0, on the devices.

    Args:
      variables: initial parameters and scale factors.
      key: [2] uint32, random key of the run.
    """
    return state_lib.create_on_mesh(
      variables.params,
      variables.scales,
      self.optimizer,
      key,
      self.mesh,
      use_ema=self._use_ema,
    )

  def state_shapes(self) -> state_lib.TrainState:
    """Shapes of the state, without computing anything."""
    create = lambda params, scales, key: state_lib.create(
      params, scales, self.optimizer, key, use_ema=self._use_ema
    )
    return jax.eval_shape(create, *self.shapes, jax.random.PRNGKey(0))

  def evaluate(
    self,
    state: state_lib.TrainState,
    batches: Iterable[batches_lib.PipelineBatch],
    empty: Callable[[], batches_lib.PipelineBatch],
  ) -> dict[str, float]:
    """Metrics of a state's averaged weights, see `evaluation.evaluate`."""
    variables = model_lib.Variables(state.evaluation_params, state.scales)
    return evaluation.evaluate(self.eval_step, variables, batches, self.mesh, empty)

  def evaluate_linear_fit(
    self,
    batches: Iterable[batches_lib.PipelineBatch],
    empty: Callable[[], batches_lib.PipelineBatch],
  ) -> dict[str, float]:
    """Metrics of the per-element linear fit with zero forces; arguments as above."""
    nothing = model_lib.Variables({}, {})
    return evaluation.evaluate(
      self._linear_fit_step, nothing, batches, self.mesh, empty
    )
