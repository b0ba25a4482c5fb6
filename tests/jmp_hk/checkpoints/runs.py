"""A small run on disk, whose weights are drawn and never computed with."""

import pathlib

import jax
import numpy as np

from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import model as model_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from tests.jmp_hk.training import small

# Steps with checkpoints, and the metric that ranks them: the first is the best.
SCORES = {1: 0.5, 2: None, 3: 0.7}
BEST, NEWEST = 1, 3


def fresh_state() -> state_lib.TrainState:
  """State of a small model with drawn weights."""
  model = model_lib.build_model(small.MODEL)
  shapes = jax.eval_shape(
    model.init, jax.random.PRNGKey(0), small.microbatch(small.batch(0))
  )
  rng = np.random.default_rng(0)
  params, scales = jax.tree.map(
    lambda s: (0.1 * rng.normal(size=s.shape)).astype(s.dtype), tuple(shapes)
  )
  optimizer = optimizer_lib.make_optimizer(config_lib.OptimizerConfig(), params)
  return state_lib.create_on_mesh(
    params,
    scales,
    optimizer,
    jax.random.PRNGKey(0),
    sharding.make_mesh(),
    use_ema=True,
  )


def state_at(state: state_lib.TrainState, step: int) -> state_lib.TrainState:
  """The state of a step: weights, average and moments differ between steps."""
  changed = jax.tree.map(lambda x: np.asarray(x) + np.asarray(step, x.dtype), state.ema)
  return state.replace(step=np.int32(step), ema=changed)


def host_at(step: int) -> dict[str, object]:
  """Host values of a step."""
  return {"position": {"draws": [step, step + 1]}, "seconds": 1.5 * step}


def open_checkpoints(workdir: pathlib.Path, keep: int = 3):
  """The checkpoints of the run."""
  return checkpointer_lib.Checkpointer(
    workdir / model_directory.CHECKPOINTS,
    model_directory.describe(small.MODEL, small.INFOS, small.budget()),
    keep_last=keep,
  )


def make(workdir: pathlib.Path, state: state_lib.TrainState) -> None:
  """Saves the checkpoints of all steps."""
  saver = open_checkpoints(workdir)
  for step, score in SCORES.items():
    saver.save(state_at(state, step), host_at(step), {"loss": 0.1 * step}, score)
  saver.close()
