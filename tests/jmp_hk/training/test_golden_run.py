"""The training step reproduces the published five steps and trains the real model."""

import dataclasses

import chex
import jax
import numpy as np

from jmp_hk.models import model as model_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import program as program_lib
from jmp_hk.training import sharding
from tests.jmp_hk.models.gemnet_oc import small_model
from tests.jmp_hk.parity import golden_case
from tests.jmp_hk.training import small


def _train(config, variables, batches, learning_rate=3e-4):
  """Losses and gradient norms with a constant learning rate."""
  settings = config_lib.OptimizerConfig(
    schedule=config_lib.ScheduleConfig(learning_rate, 0, 1.0, 100, 1.0)
  )
  example = small.microbatch(batches[0])
  program = program_lib.Program(
    config_lib.TrainerConfig(
      model=config,
      train=config_lib.TrainConfig(
        len(batches), batch_size=1, optimizer=settings, ema_decay=0.9
      ),
    ),
    infos={},
    example=example,
    mesh=sharding.make_mesh(jax.devices()[:1]),
  )
  state = program.init_state(variables, jax.random.PRNGKey(0))
  history = []
  for batch in batches:
    batch = sharding.put_batch(batch, program.mesh)
    state, metrics = program.train_step(state, batch)
    history.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
  assert program.train_step.num_compilations == 1
  return np.array(history), state


def test_five_published_steps():
  golden = golden_case.load("tiny_train5")
  start = golden_case.load("tiny_loss")
  task = start["in/task"]
  first = np.concatenate([[0], np.cumsum(start["in/natoms"])])
  targets = [
    {
      "energy": start["target/y"][i, t],
      "forces": start["target/force"][first[i] : first[i + 1], :, t],
    }
    for i, t in enumerate(task)
  ]
  with jax.enable_x64():
    batch = golden_case.make_batch(
      golden_case.structures(start), task, targets=targets, padding=3
    )
    batch = jax.tree.map(lambda x: np.asarray(x)[None], batch)
    history, _ = _train(
      golden_case.pretrain_config("tiny"), golden_case.variables("tiny"), [batch] * 5
    )
  chex.assert_trees_all_close(history[:, 0], golden["loss"], rtol=1e-8)
  chex.assert_trees_all_close(history[:, 1], golden["grad_norm_before_clip"], rtol=1e-7)


def test_the_real_model_learns_with_dropout_on_two_microbatches():
  backbone = dataclasses.replace(small.BACKBONE, dropout=0.05)
  config = dataclasses.replace(small.MODEL, backbone=backbone)
  model = model_lib.build_model(config)
  batch = small.batch(0, 2)
  variables = small_model.variables(model, small.microbatch(batch), dtype=np.float32)
  history, state = _train(config, variables, [batch] * 80, learning_rate=1e-2)
  # The first steps alone bring the size of the predictions down.
  assert history[-5:, 0].mean() < 0.95 * history[10, 0]
  chex.assert_tree_all_finite(state.ema)
