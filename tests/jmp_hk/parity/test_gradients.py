"""Losses, gradients, AdamW steps and scale fitting of the original are reproduced."""

import functools
import json
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jmp_hk.interop import torch_names
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import scale_factor
from jmp_hk.training import config as training_config
from jmp_hk.training import losses
from jmp_hk.training import optimizer as optimizer_lib
from tests import compiling
from tests import shared_files
from tests.jmp_hk.parity import golden_case

_ADAMW = training_config.OptimizerConfig(
  schedule=training_config.ScheduleConfig(
    learning_rate=3e-4, warmup_steps=0, final_factor=1.0
  )
)


def _loss_batch(golden, padding, dtype=np.float64):
  structures = golden_case.structures(golden)
  task = golden["in/task"]
  first = np.concatenate([[0], np.cumsum(golden["in/natoms"])])
  targets = [
    {
      "energy": golden["target/y"][i, t],
      "forces": golden["target/force"][first[i] : first[i + 1], :, t],
    }
    for i, t in enumerate(task)
  ]
  return golden_case.make_batch(
    structures, task, targets=targets, padding=padding, dtype=dtype
  )


def _loss_function(kind):
  config = golden_case.pretrain_config(kind)
  model = model_lib.build_model(config)

  def loss(params, scales, batch):
    predictions = model.apply(model_lib.Variables(params, scales), None, batch)
    terms = losses.loss_terms(losses.LossConfig(), config.tasks, batch, predictions)
    return losses.mean_loss(terms), terms

  return config, loss


@functools.cache
def _gradient_program(kind):
  """A jitted function of parameters, scales and a batch, in float64.

  It gives the loss, its terms, the gradients before and after their division, and the
  norm of the latter.
  """
  config, loss = _loss_function(kind)

  @jax.jit
  def run(params, scales, batch):
    (value, terms), gradients = jax.value_and_grad(loss, has_aux=True)(
      params, scales, batch
    )
    divided = config.backbone.process_gradients(gradients)
    return value, terms, gradients, divided, optax.global_norm(divided)

  return run


def _torch_gradients(gradients, names):
  return torch_names.export_state_dict(
    jax.device_get(gradients), {}, [str(name) for name in names]
  )


def _assert_close(actual, expected, tolerance, message=""):
  np.testing.assert_allclose(
    actual, expected, rtol=tolerance, atol=tolerance * 1e-3, err_msg=message
  )


class GradientParityTest(parameterized.TestCase):
  # Padding of 1 is the least that there can be.
  @parameterized.parameters(("tiny", 29), ("tinyd", 29), ("base", 29), ("tinyd", 1))
  def test_loss_and_every_parameter_gradient(self, kind, padding):
    golden = golden_case.load(f"{kind}_loss")
    with jax.enable_x64():
      batch = _loss_batch(golden, padding)
      value, terms, gradients, divided, norm = _gradient_program(kind)(
        *golden_case.variables(kind), batch
      )
      _assert_close(value, golden["loss"], 1e-9)
      for name, key in (("energy", "energy_loss"), ("forces", "force_loss")):
        _assert_close(terms[name][0] / terms[name][1], golden[key], 1e-9)
      _assert_close(norm, golden["grad/total_norm_after_division"], 1e-9)
    raw = _torch_gradients(gradients, golden["grad/names"])
    after = _torch_gradients(divided, golden["grad/names"])
    for i, name in enumerate(map(str, golden["grad/names"])):
      norm = np.linalg.norm(raw[name])
      _assert_close(norm, golden["grad/norm_raw"][i], 1e-9, name)
      _assert_close(
        np.linalg.norm(after[name]), golden["grad/norm_after_division"][i], 1e-9, name
      )
      seed = zlib.crc32(f"probe:{name}".encode())
      probe = np.random.RandomState(seed).standard_normal(raw[name].shape)
      difference = abs((raw[name] * probe).sum() - golden["grad/probe_dot"][i])
      self.assertLess(difference, 1e-8 * max(norm * np.sqrt(probe.size), 1e-6), name)
      if f"grad/raw/{name}" in golden:
        scale = np.abs(golden[f"grad/raw/{name}"]).max()
        error = np.abs(raw[name] - golden[f"grad/raw/{name}"]).max()
        self.assertLess(error, 1e-9 * max(scale, 1e-9), name)

  @parameterized.parameters("tinyd", "base")
  def test_loss_in_float32(self, kind):
    golden = golden_case.load(f"{kind}_loss")
    _, loss = _loss_function(kind)
    batch = _loss_batch(golden, 7, np.float32)
    params, scales = golden_case.variables(kind, np.float32)
    value, _ = compiling.optimising_jit(loss)(params, scales, batch)
    _assert_close(value, golden["loss"], 1e-4)

  def test_five_adamw_steps(self):
    # Adam divides by |g| + 1e-8, so where |g| is about 1e-8 the rounding of the first
    # gradient (1e-15) moves a weight visibly, and this loss is steep. The first step
    # therefore takes the reference's own gradient, to which ours is equal to 1e-9.
    golden, start = golden_case.load("tiny_train5"), golden_case.load("tiny_loss")
    backbone = golden_case.BACKBONES["tiny"]
    start_params, _ = golden_case.variables("tiny")
    optimizer = optimizer_lib.make_optimizer(_ADAMW, start_params)
    with jax.enable_x64():
      batch = _loss_batch(start, 29)  # As above, where the same program is compiled.
      params, scales = golden_case.variables("tiny")
      state = optimizer.init(params)
      first = {
        name.removeprefix("grad/raw/"): value
        for name, value in start.items()
        if name.startswith("grad/raw/")
      }
      first, _ = torch_names.import_state_dict(first)

      @jax.jit
      def update(params, state, gradients):
        gradients = backbone.process_gradients(gradients)
        norm = optax.global_norm(gradients)
        updates, state = optimizer.update(gradients, state, params, lr_multiplier=1.0)
        return optax.apply_updates(params, updates), state, norm

      for i in range(5):
        value, _, ours, _, _ = _gradient_program("tiny")(params, scales, batch)
        params, state, norm = update(params, state, ours if i else first)
        _assert_close(value, golden["loss"][i], 1e-9, f"loss {i}")
        _assert_close(norm, golden["grad_norm_before_clip"][i], 1e-9, f"norm {i}")
      tensors = _torch_gradients(params, golden["param/names"])
      for name, expected in zip(
        map(str, golden["param/names"]), golden["param/final_norm"], strict=True
      ):
        _assert_close(np.linalg.norm(tensors[name]), expected, 1e-9, name)

  def test_scale_factors_are_fitted_as_published(self):
    reference = json.loads(
      shared_files.golden_file("tinyd_fit_scales.json").read_text()
    )
    model = model_lib.build_model(golden_case.pretrain_config("tinyd"))
    slab, mol = golden_case.load("tinyd_slab"), golden_case.load("tinyd_mol")
    with jax.enable_x64():
      batch = golden_case.make_batch(
        golden_case.structures(slab) + golden_case.structures(mol),
        [0, 2, 2, 2],
        padding=3,
      )
      variables = golden_case.variables("tinyd")
      variables = variables._replace(
        scales=jax.tree.map(jnp.zeros_like, variables.scales)
      )
      scales = model.fit_state(variables, [batch]).scales
    ours = {
      torch_names.to_torch(module, "scale_factor"): float(leaf["scale_factor"])
      for module, leaf in scales.items()
    }
    self.assertEqual(
      [
        torch_names.to_torch(m, "scale_factor").removesuffix(".scale_factor")
        for m in scale_factor.fitting_order(list(scales))
      ],
      [entry["name"] for entry in reference],
    )
    for entry in reference:
      _assert_close(
        ours[f"{entry['name']}.scale_factor"], entry["value"], 1e-5, entry["name"]
      )


if __name__ == "__main__":
  absltest.main()
