"""The training step reproduces the published five steps and trains the real model."""

import dataclasses

import jax
import numpy as np

from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import shared_gradients
from jmp_hk.training import config as config_lib
from jmp_hk.training import losses
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step as step_lib
from tests.jmp_hk.parity import golden_case
from tests.jmp_hk.training import small


def _objective(config: model_lib.ModelConfig) -> step_lib.Objective:
  model = model_lib.build_model(config)
  return step_lib.Objective(
    predict=lambda params, scales, key, microbatch: model.apply(
      model_lib.Variables(params, scales), key, microbatch, is_training=True
    ),
    terms=lambda microbatch, predictions: losses.loss_terms(
      losses.LossConfig(), config.tasks, microbatch, predictions
    ),
    process_gradients=lambda g: shared_gradients.divide_shared_gradients(
      g, config.backbone
    ),
  )


def _train(config, variables, batches, learning_rate=3e-4, microbatches=1):
  """Losses and gradient norms with a constant learning rate."""
  mesh = sharding.make_mesh(jax.devices()[:1])
  settings = config_lib.OptimizerConfig(
    schedule=config_lib.ScheduleConfig(learning_rate, 0, 1.0, 100, 1.0)
  )
  optimizer = optimizer_lib.make_optimizer(settings, variables.params)
  state = state_lib.create_on_mesh(
    variables.params,
    variables.scales,
    optimizer,
    jax.random.PRNGKey(0),
    mesh,
    use_ema=True,
  )
  step = step_lib.make_train_step(
    _objective(config),
    optimizer,
    mesh,
    ema_decay=0.9,
    schedule=optimizer_lib.make_schedule(settings.schedule),
  )
  history = []
  for batch in batches:
    state, metrics = step(state, sharding.put_batch(batch, mesh))
    history.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
  assert step.num_compilations == 1
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
  np.testing.assert_allclose(history[:, 0], golden["loss"], rtol=1e-8)
  np.testing.assert_allclose(history[:, 1], golden["grad_norm_before_clip"], rtol=1e-7)


def test_the_real_model_learns_with_dropout_on_two_microbatches():
  backbone = dataclasses.replace(small.BACKBONE, dropout=0.05)
  config = dataclasses.replace(small.MODEL, backbone=backbone)
  model = model_lib.build_model(config)
  batch = small.batch(0, 2)
  variables = jax.jit(model.init)(jax.random.PRNGKey(1), small.microbatch(batch))
  history, state = _train(config, variables, [batch] * 150, learning_rate=1e-2)
  assert history[-5:, 0].mean() < 0.95 * history[0, 0]
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.ema))
