"""The functions that a training run computes, compiled for its devices."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import haiku as hk
import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
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
from jmp_hk.training import stopping


class Program:
  """Training step, evaluation step and fresh state of a run; holds no weights.

  Attributes:
    model: the model.
    mesh: the devices of training steps.
    evaluation_mesh: the devices of evaluations.
    budgets: budgets of training batches, the largest last; there is one where batches
      come ready.
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
    budgets: Sequence[budget_lib.Budget] = (),
    evaluation_mesh: jax.sharding.Mesh | None = None,
  ) -> None:
    """Builds the functions; compiles and computes nothing yet.

    Args:
      config: configuration of the run.
      infos: constants of the dataset of each task by name.
      example: a microbatch of the run, for shapes.
      mesh: the devices; by default all of all processes.
      budgets: budgets of training batches, the largest last; by default that of the
        example.
      evaluation_mesh: the devices of evaluations; by default those of training.
    """
    train = config.train
    self.budgets = tuple(budgets) or (example.budget,)
    self.mesh = mesh or sharding.make_mesh()
    self.evaluation_mesh = evaluation_mesh or self.mesh
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
      num_budgets=len(self.budgets),
    )
    self.eval_step = evaluation.make_eval_step(
      objective.make_validation_sums(self.model, infos), self.evaluation_mesh
    )
    self._linear_fit_step = evaluation.make_eval_step(
      objective.make_linear_fit_sums(self.model, infos),
      self.evaluation_mesh,
      "linear_fit",
    )
    self._train = train
    known = [task for task in config.model.tasks if task.name in infos]
    self.described = metric_table.describe(known, infos)

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
      use_ema=self._train.ema_decay > 0,
    )

  def state_shapes(self) -> state_lib.TrainState:
    """Shapes of the state, without computing anything."""
    create = lambda params, scales, key: state_lib.create(
      params, scales, self.optimizer, key, use_ema=self._train.ema_decay > 0
    )
    return jax.eval_shape(create, *self.shapes, jax.random.PRNGKey(0))

  def stop_reason(
    self, state: state_lib.TrainState, host: state_lib.HostState
  ) -> str | None:
    """Why early stopping ends the run now, as a sentence, or None.

    Args:
      state: state after the last step.
      host: what belongs to it outside the devices.
    """
    config = self._train.early_stopping
    if config is None:
      return None
    step, scale = jax.device_get((state.step, state.plateau.scale))
    rate = float(np.asarray(self.schedule(int(step)))) * float(scale)
    return stopping.stop_reason(config, host.early_stopping, rate)

  def finish_reason(
    self, state: state_lib.TrainState, host: state_lib.HostState
  ) -> str | None:
    """Why the run is over and how it goes on, or None; arguments as above."""
    step = int(state.step)
    if step >= self._train.num_steps:
      return (
        f"the run has taken {step} of {self._train.num_steps} steps. Raise num_steps "
        "to go on."
      )
    reason = self.stop_reason(state, host)
    if reason is None:
      return None
    return f"{reason} Raise the patience of early stopping to go on."

  def evaluate(
    self,
    state: state_lib.TrainState,
    batches: Iterable[batches_lib.PipelineBatch],
    empty: Callable[[], batches_lib.PipelineBatch],
  ) -> dict[str, float]:
    """Metrics of a state's averaged weights, see `evaluation.evaluate`."""
    return evaluation.evaluate(
      self.eval_step,
      self._for_evaluation(state.evaluation_params, state.scales),
      batches,
      self.evaluation_mesh,
      empty,
    )

  def validate(
    self,
    state: state_lib.TrainState,
    batches: Iterable[batches_lib.PipelineBatch],
    empty: Callable[[], batches_lib.PipelineBatch],
    received: Callable[[], int],
  ) -> tuple[dict[str, float], dict[str, float] | None]:
    """`evaluate`, and the metrics of the raw weights where they differ clearly.

    Args:
      state: the state.
      batches: see `evaluation.compare`, as for the others.
      empty: see there.
      received: see there.
    """
    raw = None
    if state.ema is not None:
      raw = self._for_evaluation(state.params, state.scales)
    return evaluation.compare(
      self.eval_step,
      self._for_evaluation(state.evaluation_params, state.scales),
      raw,
      batches,
      self.evaluation_mesh,
      empty,
      received,
    )

  def evaluate_linear_fit(
    self,
    batches: Iterable[batches_lib.PipelineBatch],
    empty: Callable[[], batches_lib.PipelineBatch],
  ) -> dict[str, float]:
    """Metrics of the per-element linear fit with zero forces; arguments as above."""
    nothing = model_lib.Variables({}, {})
    return evaluation.evaluate(
      self._linear_fit_step, nothing, batches, self.evaluation_mesh, empty
    )

  def _for_evaluation(self, params: hk.Params, scales: hk.State) -> model_lib.Variables:
    """Weights on the devices of evaluations."""
    variables = model_lib.Variables(params, scales)
    if self.evaluation_mesh == self.mesh:
      return variables
    return sharding.copy_replicated(variables, self.evaluation_mesh)
