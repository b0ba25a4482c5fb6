"""Import of released-format checkpoints, and export back."""

import dataclasses
import json
import pathlib
import shutil
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import published
from jmp_hk.checkpoints import model_directory
from jmp_hk.interop import export_checkpoint
from jmp_hk.interop import import_checkpoint
from jmp_hk.interop import recognise
from jmp_hk.interop import torch_file
from jmp_hk.interop import torch_names
from jmp_hk.interop import weights
from jmp_hk.models import shapes as shapes_lib
from jmp_hk.targets import config as tasks_lib
from tests import schnet
from tests import shared_files
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save
from tests.jmp_hk.parity import golden_case

_WEIGHT = "backbone.int_blocks.1.dense_ca.linear.weight"


def _trees(state):
  state = {k: v for k, v in state.items() if not k.startswith("task_steps")}
  return torch_names.import_state_dict(state)


class ImportTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.path = self.directory / "jmp.pt"
    self.output = self.directory / "model"

  def _import(self, root, **options):
    torch_save.save(root, self.path)
    return import_checkpoint.import_checkpoint(self.path, self.output, **options)

  @parameterized.product(kind=("tiny", "tinyd"), lightning=(True, False))
  def test_weights_and_config_are_those_of_the_file(self, kind, lightning):
    state = checkpoints.state_dict(kind)
    root = checkpoints.lightning(state)
    summary = self._import(root if lightning else root["state_dict"])
    loaded = model_directory.load_model_directory(self.output)
    self.assertEqual(loaded.config.backbone, golden_case.BACKBONES[kind])
    self.assertEqual([t.name for t in loaded.config.tasks], list(golden_case.TASKS))
    self.assertEqual(loaded.config, summary.config)
    params, scales = _trees(state)
    chex.assert_trees_all_equal(loaded.variables.params, params)
    chex.assert_trees_all_equal(loaded.variables.scales, scales)
    self.assertLen(summary.ignored, 4)
    self.assertFalse(summary.averaged)
    self.assertEqual(loaded.infos, dict(dataset_info.PUBLISHED))

  @parameterized.parameters((None, True), (True, True), (False, False))
  def test_moving_average(self, ema, expect_average):
    state = checkpoints.state_dict("tinyd")
    average = {name: value + 1 for name, value in state.items()}
    summary = self._import(checkpoints.lightning(state, average), ema=ema)
    self.assertEqual(summary.averaged, expect_average)
    chosen = dict(state)
    if expect_average:
      names = checkpoints.averaged_names(state)
      chosen |= {name: average[name] for name in names}
    loaded = model_directory.load_model_directory(self.output)
    params, scales = _trees(chosen)
    chex.assert_trees_all_equal(loaded.variables.params, params)
    chex.assert_trees_all_equal(loaded.variables.scales, scales)

  def test_a_missing_moving_average_says_what_to_do(self):
    with self.assertRaisesRegex(weights.WeightsError, "ema=False"):
      self._import(checkpoints.lightning(checkpoints.state_dict("tinyd")), ema=True)

  def test_a_moving_average_that_does_not_match_is_an_error(self):
    state = checkpoints.state_dict("tinyd")
    root = checkpoints.lightning(state, state)
    optimizer = root["optimizer_states"][0]
    optimizer["ema"] = optimizer["ema"][:-1]
    with self.assertRaisesRegex(weights.WeightsError, "tensors for"):
      self._import(root)

  @parameterized.parameters("float16", "bfloat16", "float64")
  def test_other_precisions(self, kind):
    state = checkpoints.state_dict("tinyd")
    root = checkpoints.lightning(state)["state_dict"]
    for name, tensor in root.items():
      if name.startswith("task_steps"):
        continue
      if kind == "bfloat16":
        upper = np.array(tensor.array.view(np.uint32) >> 16, np.uint16)
        root[name] = torch_save.Tensor(upper, kind)
      else:
        root[name] = torch_save.Tensor(tensor.array.astype(kind))
    self._import(root)
    loaded = model_directory.load_model_directory(self.output)
    chex.assert_trees_all_close(
      loaded.variables.params, _trees(state)[0], rtol=1e-2, atol=1e-3
    )
    leaf = jax.tree.leaves(loaded.variables.params)[0]
    self.assertEqual(leaf.dtype, np.float32)

  def test_every_tensor_that_does_not_fit_is_listed(self):
    state = checkpoints.state_dict("tinyd")
    shape = state[_WEIGHT].shape
    state[_WEIGHT] = state[_WEIGHT][:-1].copy()
    state["backbone.new_layer.weight"] = np.zeros((2, 2), np.float32)
    state["head.weight"] = np.zeros(3, np.float32)
    missing = "backbone.int_blocks.0.quad_interaction.scale_rbf.scale_factor"
    del state[missing]
    with self.assertRaises(recognise.RecognitionError) as context:
      self._import(checkpoints.lightning(state))
    message = str(context.exception)
    for part in (
      "4 tensors",
      f"{_WEIGHT} has shape",
      f"instead of {shape}",
      "backbone.new_layer.weight (2, 2) is unknown",
      "head.weight (3,) is unknown",
      f"{missing} () is missing",
    ):
      self.assertIn(part, message)
    self.assertEqual(list(self.directory.iterdir()), [self.path])

  @parameterized.parameters(
    (torch_save.Object(torch_save.Global("torch", "Sparse")), "torch.Sparse"),
    (torch_save.Global("os", "system"), "os.system"),
    (1.0, "float"),
    (torch_save.Tensor(np.zeros((28, 28), np.int64)), "int64"),
  )
  def test_a_weight_that_is_no_plain_tensor_is_an_error(self, value, reason):
    root = checkpoints.lightning(checkpoints.state_dict("tinyd"))
    root["state_dict"][_WEIGHT] = value
    with self.assertRaisesRegex(weights.WeightsError, f"{_WEIGHT} is .*{reason}"):
      self._import(root)

  def test_weights_that_are_not_finite_are_an_error_and_leave_nothing(self):
    state = checkpoints.state_dict("tinyd")
    state[_WEIGHT] = np.full_like(state[_WEIGHT], np.nan)
    with self.assertRaisesRegex(recognise.RecognitionError, f"finite.*{_WEIGHT}"):
      self._import(checkpoints.lightning(state))
    self.assertEqual(list(self.directory.iterdir()), [self.path])

  def test_another_radial_basis_is_an_error(self):
    state = checkpoints.state_dict("tinyd")
    name = "backbone.bases.radial_basis.rbf.temps"
    state[name] = state[name] * 2
    with self.assertRaisesRegex(recognise.RecognitionError, name):
      self._import(checkpoints.lightning(state))

  def test_something_else_says_what_it_is(self):
    with self.assertRaisesRegex(weights.WeightsError, "keys 'epoch'"):
      self._import({"epoch": 3})

  def test_another_number_of_heads_needs_names(self):
    state = {
      name: value
      for name, value in checkpoints.state_dict("tinyd").items()
      if not name.startswith(("output.out_energy.3.", "output.out_forces.3."))
    }
    with self.assertRaisesRegex(recognise.RecognitionError, "3 datasets.*tasks are 4"):
      self._import(checkpoints.lightning(state))
    infos = list(dataset_info.PUBLISHED.values())[:3]
    summary = self._import(checkpoints.lightning(state), infos=infos)
    self.assertLen(summary.config.tasks, 3)

  def test_an_existing_directory_is_not_overwritten(self):
    self.output.mkdir()
    (self.output / "file").touch()
    with self.assertRaises(FileExistsError):
      self._import(checkpoints.lightning(checkpoints.state_dict("tinyd")))

  def test_the_directory_says_where_it_comes_from(self):
    self._import(checkpoints.lightning(checkpoints.state_dict("tinyd")))
    text = (self.output / "README.md").read_text()
    for part in ("CC BY-NC 4.0", "jmp.pt", "sha256", "transition1x"):
      self.assertIn(part, text)
    origin = model_directory.read_origin(self.output)
    self.assertIn("CC BY-NC 4.0", origin["licence"])
    self.assertEqual(origin["provenance"]["imported_from"], "jmp.pt")

  def test_the_licence_holds_on_in_what_is_trained_from_it(self):
    self._import(checkpoints.lightning(checkpoints.state_dict("tinyd")))
    origin = model_directory.read_origin(self.output)
    loaded = model_directory.load_model_directory(self.output)
    description = model_directory.describe(loaded.config, loaded.infos, origin=origin)
    self.assertEqual(description["licence"], published.LICENCE)
    self.assertNotIn("licence", model_directory.describe(loaded.config, loaded.infos))

  def test_a_checkpoint_can_be_copied_to_any_name(self):
    self._import(checkpoints.lightning(checkpoints.state_dict("tinyd")))
    copy = self.directory / "my_model"
    shutil.copytree(self.output / "checkpoints" / "0", copy)
    loaded = model_directory.load_model_directory(copy)
    original = model_directory.load_model_directory(self.output)
    chex.assert_trees_all_equal(loaded.variables, original.variables)

  def test_a_newer_version_is_refused_with_a_sentence(self):
    self._import(checkpoints.lightning(checkpoints.state_dict("tinyd")))
    file = self.output / "checkpoints" / "0" / "model" / "config.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "format_version": 999}))
    with self.assertRaisesRegex(model_directory.CheckpointError, "999.*update"):
      model_directory.load_model_directory(self.output)

  @parameterized.parameters("base", "large")
  def test_published_sizes_are_recognised(self, kind):
    config = golden_case.pretrain_config(kind)
    shapes = recognise.weight_shapes(shapes_lib.abstract_variables(config))
    self.assertEqual(recognise.backbone(shapes), config.backbone)
    self.assertEqual(recognise.num_tasks(shapes), 4)


class ExportTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    self.path = self.directory / "exported.pt"

  @parameterized.parameters("tiny", "tinyd")
  def test_names_and_shapes_are_those_of_the_reference(self, kind):
    variables = golden_case.variables(kind, np.float32)
    export_checkpoint.export_checkpoint(
      golden_case.pretrain_config(kind), variables, self.path
    )
    expected = {
      name: tuple(shape)
      for name, shape in json.loads(
        shared_files.golden_file(f"{kind}_weight_shapes.json").read_text()
      ).items()
    }
    aliases = {recognise.alias_of(name): name for name in expected}
    aliases.pop(None)
    self.assertNotEmpty(aliases)
    expected |= {alias: expected[name] for alias, name in aliases.items()}
    golden = golden_case.tensors(kind)
    with torch_file.TorchFile(self.path) as file:
      self.assertEqual({n: t.shape for n, t in file.root.items()}, expected)
      for name, tensor in file.root.items():
        value = golden[aliases.get(name, name)]
        found = file.read(tensor)
        chex.assert_trees_all_close(
          found, np.float32(value), rtol=1e-6, custom_message=name
        )
        if name in aliases:
          self.assertEqual(tensor.storage, file.root[aliases[name]].storage)

  def test_export_and_import_give_everything_back(self):
    config = golden_case.pretrain_config("tinyd")
    variables = golden_case.variables("tinyd", np.float32)
    export_checkpoint.export_checkpoint(config, variables, self.path)
    output = self.directory / "model"
    import_checkpoint.import_checkpoint(self.path, output)
    loaded = model_directory.load_model_directory(output)
    chex.assert_trees_all_equal(loaded.variables.params, variables.params)
    chex.assert_trees_all_equal(loaded.variables.scales, variables.scales)

  def test_models_without_a_published_counterpart_are_refused(self):
    config = golden_case.pretrain_config("tinyd")
    gap = tasks_lib.TaskConfig("gap", (tasks_lib.TargetConfig("gap", "scalar"),))
    for changes, reason in (
      ({"backbone": schnet.SchNetConfig()}, "schnet with .* is GemNet-OC"),
      ({"tasks": (gap,)}, "'gap' predicts gap; .* energy and direct forces"),
    ):
      with self.assertRaisesRegex(export_checkpoint.ExportError, reason):
        export_checkpoint.export_checkpoint(
          dataclasses.replace(config, **changes),
          golden_case.variables("tinyd", np.float32),
          self.path,
        )
    self.assertFalse(self.path.exists())

  def test_storages_are_aligned(self):
    config = golden_case.pretrain_config("tinyd")
    variables = golden_case.variables("tinyd", np.float32)
    export_checkpoint.export_checkpoint(config, variables, self.path)
    array = np.asarray(variables.params["atom_embedding"]["embeddings"])
    self.assertEqual(self.path.read_bytes().index(array.tobytes()) % 64, 0)


if __name__ == "__main__":
  absltest.main()
