"""The real training step on random weights, ready to be timed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import shared_gradients
from jmp_hk.runtime import compilation
from jmp_hk.training import config as train_config
from jmp_hk.training import losses
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step as step_lib

_EMA_DECAY = 0.99


class Training:
  """AdamW with a moving average of weights, as the runners train.

  Attributes:
    shapes: shapes of parameters and scale factors.
    step: the compiled step.
    state: what it updates.
  """

  def __init__(self, config: model_lib.ModelConfig, example: batch_lib.Batch):
    """Builds the step and draws weights; compiles nothing yet.

    Args:
      config: of the model.
      example: any batch.
    """
    self._config = config
    self._model = model_lib.build_model(config)
    self._mesh = sharding.make_mesh(jax.local_devices()[:1])
    self.shapes: model_lib.Variables = jax.eval_shape(
      self._model.init, jax.random.PRNGKey(0), example
    )
    settings = train_config.OptimizerConfig()
    self._optimizer = optimizer_lib.make_optimizer(settings, self.shapes.params)
    self.step: compilation.CompiledOnce = step_lib.make_train_step(
      self._objective(),
      self._optimizer,
      self._mesh,
      ema_decay=_EMA_DECAY,
      schedule=optimizer_lib.make_schedule(settings.schedule),
    )
    self.state: state_lib.TrainState | None = None

  def start(self) -> None:
    """Makes the state."""
    params, scales = random_variables(self.shapes)
    self.state = state_lib.create_on_mesh(
      params,
      scales,
      self._optimizer,
      np.array([0, 0], np.uint32),
      self._mesh,
      use_ema=True,
    )

  def put(self, microbatches: Sequence[batch_lib.Batch]) -> Any:
    """Moves the microbatches of a step to the device."""
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *microbatches)
    return sharding.put_batch(stacked, self._mesh)

  def run(self, microbatches: Any) -> dict[str, jax.Array]:
    """Takes one step on what `put` gave; returns its metrics."""
    self.state, metrics = self.step(self.state, microbatches)
    return metrics

  def compile_only(
    self, microbatches: Sequence[batch_lib.Batch], fast: bool = False
  ) -> jax.stages.Compiled:
    """Compiles the step for the shapes of its microbatches without making a state.

    Args:
      microbatches: of any step of the budget.
      fast: leave LLVM's optimisations out, which do not change memory.
    """
    make = lambda p, s, k: state_lib.create(p, s, self._optimizer, k, use_ema=True)
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    state = jax.eval_shape(make, *self.shapes, key)
    stacked = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (len(microbatches), *np.shape(x)), np.asarray(x).dtype
      ),
      microbatches[0],
    )
    options = {"xla_backend_optimization_level": 0} if fast else None
    return self.step.lower(state, stacked).compile(options)

  def _objective(self) -> step_lib.Objective:
    config = self._config
    return step_lib.Objective(
      predict=lambda params, scales, key, microbatch: self._model.apply(
        model_lib.Variables(params, scales), key, microbatch, is_training=True
      ),
      terms=lambda microbatch, predictions: losses.loss_terms(
        losses.LossConfig(), config.tasks, microbatch, predictions
      ),
      process_gradients=lambda gradients: shared_gradients.divide_shared_gradients(
        gradients, config.backbone
      ),
    )


def random_variables(shapes: model_lib.Variables) -> model_lib.Variables:
  """Weights of the variance that the initialisers give; scale factors of one.

  The initialisers' orthogonal matrices take minutes for the large model, and speed
  does not depend on the values.
  """
  rng = np.random.default_rng(0)

  def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
    fan_in = max(int(np.prod(shape.shape[:-1])), 1)
    values = rng.standard_normal(shape.shape, np.float32)
    return (values / np.sqrt(fan_in)).astype(shape.dtype)

  params = jax.tree.map(draw, shapes.params)
  scales = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes.scales)
  return model_lib.Variables(params, scales)
