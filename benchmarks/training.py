"""The real training step on random weights, ready to be timed."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import compilation
from jmp_hk.training import config as train_config
from jmp_hk.training import program as program_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib

# AdamW with a moving average; the number of steps does not change what one computes.
_TRAIN = train_config.TrainConfig(num_steps=1, batch_size=1, ema_decay=0.99)

# Names of platforms of devices, where `jax.default_backend` has another.
_PLATFORMS = {"cuda": "gpu", "rocm": "gpu"}


class Training:
  """A training run on one device, without data and without outputs."""

  def __init__(
    self,
    config: model_lib.ModelConfig,
    example: batch_lib.Batch,
    device: Any | None = None,
  ):
    """Builds the step; compiles nothing and draws no weights yet.

    Args:
      config: configuration of the model.
      example: a microbatch, for shapes.
      device: device of jax where it runs, also one that is not there
        (`jax.experimental.topologies`), for which the step can be compiled; by default
        the first that is.
    """
    # Batches are packed already, so their size does not matter.
    run = train_config.TrainerConfig(config, _TRAIN)
    self._mesh = sharding.make_mesh([device or jax.local_devices()[0]])
    self._program = program_lib.Program(run, {}, example, self._mesh)
    self._state: state_lib.TrainState | None = None

  @property
  def shapes(self) -> model_lib.Variables:
    """Shapes of parameters and scale factors."""
    return self._program.shapes

  @property
  def step(self) -> compilation.CompiledFunction:
    """The compiled step, for its account of time and memory."""
    return self._program.train_step

  def put(self, microbatches: Sequence[batch_lib.Batch]) -> chex.ArrayTree:
    """Stacks the microbatches of a step and moves them to the device."""
    stack = lambda *parts: np.stack(parts)
    return sharding.put_batch(jax.tree.map(stack, *microbatches), self._mesh)

  def run(self, microbatches: chex.ArrayTree) -> dict[str, chex.Array]:
    """Takes one step, from random weights at the first call.

    Args:
      microbatches: what `put` returned.

    Returns:
      Metrics of the step.
    """
    if self._state is None:
      key = jax.random.PRNGKey(0)
      self._state = self._program.init_state(random_variables(self.shapes), key)
    self._state, metrics = self.step(self._state, microbatches)
    return metrics

  def compile_only(
    self,
    microbatches: Sequence[batch_lib.Batch],
    options: Mapping[str, Any] | None = None,
  ) -> jax.stages.Compiled:
    """Compiles the step for the shapes of its microbatches without making a state.

    Args:
      microbatches: microbatches of any step of the budget.
      options: XLA's flags for this compilation, without the dashes.
    """
    stacked = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        (len(microbatches), *np.shape(x)), np.asarray(x).dtype
      ),
      microbatches[0],
    )
    (device,) = self._mesh.devices.flat
    platform = str(device.platform)
    with compilation.trace_for(_PLATFORMS.get(platform, platform)):
      lowered = self.step.lower(self._program.state_shapes(), stacked)
    return lowered.compile(compiler_options=dict(options or {}))


def random_variables(shapes: model_lib.Variables) -> model_lib.Variables:
  """Weights of the variance that the initialisers give; scale factors of one.

  The initialisers' orthogonal matrices take minutes for the large model, and speed
  does not depend on the values.

  Args:
    shapes: shapes of parameters and scale factors.
  """
  rng = np.random.default_rng(0)

  def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
    fan_in = max(int(np.prod(shape.shape[:-1])), 1)
    values = rng.standard_normal(shape.shape, np.float32)
    return (values / np.sqrt(fan_in)).astype(shape.dtype)

  params = jax.tree.map(draw, shapes.params)
  scales = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes.scales)
  return model_lib.Variables(params, scales)
