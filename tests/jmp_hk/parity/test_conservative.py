"""Conservative fine-tuning of the original: energy, forces, second-order gradients."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from jmp_hk.interop import torch_names
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import losses
from tests import compiling
from tests.jmp_hk.parity import golden_case

_TASK = tasks_lib.TaskConfig(
  name="rmd17",
  targets=(
    tasks_lib.TargetConfig("energy", "energy", loss_coefficient=0.0, head_bias=False),
    tasks_lib.TargetConfig("forces", "conservative_forces", loss_coefficient=10.0),
  ),
)


def _model(kind):
  backbone = dataclasses.replace(golden_case.BACKBONES[kind], direct_vectors=False)
  return model_lib.build_model(model_lib.ModelConfig(backbone=backbone, tasks=(_TASK,)))


def _variables(kind, golden, dtype):
  """The pre-trained backbone without its force branch, with the file's new head."""
  force_branch = ("seq_forces", "dense_rbf_F", "scale_rbf_F", "out_mlp_F")
  source = (
    golden_case.tensors(kind) if kind != "base" else (golden_case.formula_tensors(kind))
  )
  tensors = {
    name: value
    for name, value in source.items()
    if not name.startswith("output.") and not any(part in name for part in force_branch)
  }
  for key, value in golden.items():
    if key.startswith("weights/out_energy."):
      layer = key.removeprefix("weights/out_energy.")
      tensors[f"output.out_energy.0.{layer}"] = value
  params, state = torch_names.import_state_dict(tensors)
  return jax.tree.map(
    lambda x: np.asarray(x, dtype), model_lib.Variables(params, state)
  )


def _batch(golden, padding, dtype):
  structures = golden_case.structures(golden)
  starts = np.concatenate([[0], np.cumsum([s.num_atoms for s in structures])])
  targets = [
    {
      "energy": golden["target/y"][i],
      "forces": golden["target/force"][starts[i] : starts[i + 1]],
    }
    for i in range(len(structures))
  ]
  return golden_case.make_batch(
    structures,
    [0] * len(structures),
    targets=targets,
    padding=padding,
    dtype=dtype,
    rmd17=True,
  )


def _torch_name(name: str) -> str:
  """Names of the reference's fine-tuning model in terms of the pre-training one."""
  if name == "embedding.weight":
    return "embedding.atom_embedding.weight"
  return name.replace("out_energy.", "output.out_energy.0.")


class ConservativeParityTest(parameterized.TestCase):
  # Padding of 1 is the least that there can be.
  @parameterized.parameters(("tiny", 17), ("tinyd", 17), ("base", 17), ("tinyd", 1))
  def test_energy_forces_loss_and_gradients_in_float64(self, kind, padding):
    golden = golden_case.load(f"{kind}_conservative_rmd17")
    model = _model(kind)

    def loss(params, scales, batch):
      predictions = model.apply(model_lib.Variables(params, scales), None, batch)
      terms = losses.loss_terms(
        losses.LossConfig(structure_wise=False), (_TASK,), batch, predictions
      )
      return losses.mean_loss(terms), predictions

    with jax.enable_x64():
      batch = _batch(golden, padding, np.float64)
      params, scales = _variables(kind, golden, np.float64)
      (value, predictions), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params, scales, batch
      )
    energy = np.asarray(predictions["energy"])
    forces = np.asarray(predictions["forces"])
    num, atoms = len(golden["out/E"]), len(golden["out/F"])
    np.testing.assert_allclose(energy[:num], golden["out/E"], rtol=1e-8, atol=1e-9)
    scale = np.abs(golden["out/F"]).max()
    self.assertLess(np.abs(forces[:atoms] - golden["out/F"]).max(), 1e-8 * scale)
    np.testing.assert_array_equal(forces[atoms:], 0)
    np.testing.assert_array_equal(energy[num:], 0)
    np.testing.assert_allclose(value, golden["loss"], rtol=1e-8)
    names = {str(name): _torch_name(str(name)) for name in golden["grad/names"]}
    ours = torch_names.export_state_dict(jax.device_get(gradients), {}, names.values())
    largest = golden["grad/norm_raw"].max()
    for name, expected in zip(names, golden["grad/norm_raw"], strict=True):
      np.testing.assert_allclose(
        np.linalg.norm(ours[names[name]]),
        expected,
        rtol=1e-8,
        atol=1e-9 * largest,
        err_msg=name,
      )

  @parameterized.parameters("tiny", "tinyd")
  def test_energy_and_forces_in_float32(self, kind):
    golden = golden_case.load(f"{kind}_conservative_rmd17")
    batch = _batch(golden, 5, np.float32)
    predictions = compiling.optimising_jit(_model(kind).apply)(
      _variables(kind, golden, np.float32), None, batch
    )
    atoms = len(golden["out/F"])
    scale = np.abs(golden["out/F"]).max()
    error = np.abs(np.asarray(predictions["forces"])[:atoms] - golden["out/F"]).max()
    # Derivatives of azimuths about nearly collinear atoms amplify float32's rounding.
    self.assertLess(error, 1e-3 * scale)
    np.testing.assert_allclose(
      predictions["energy"][: len(golden["out/E"])], golden["out/E"], rtol=1e-4
    )


if __name__ == "__main__":
  absltest.main()
