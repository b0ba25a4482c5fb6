"""The whole model: configuration, precision, purity."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import backbone as gemnet_oc
from jmp_hk.models.gemnet_oc import config as gemnet_config
from jmp_hk.targets import config as tasks_lib
from tests.jmp_hk.models.gemnet_oc import small_model
from tests.jmp_hk.parity import golden_case

Target = tasks_lib.TargetConfig

_ENERGY, _FORCES = Target("energy", "energy"), Target("forces", "direct_forces")
_CONSERVATIVE = Target("forces", "conservative_forces")


def _config(*tasks, **changes) -> model_lib.ModelConfig:
  tasks = tuple(
    tasks_lib.TaskConfig(f"task{i}", targets) for i, targets in enumerate(tasks)
  )
  return model_lib.ModelConfig(small_model.BACKBONE, tasks, **changes)


class ModelConfigTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("precision", "precision", lambda: _config((_ENERGY,), precision="float16")),
    ("no_tasks", "at least one task", _config),
    ("kinds", "one kind", lambda: _config((_FORCES,), (_ENERGY, _CONSERVATIVE))),
    (
      "reductions",
      "reduction",
      lambda: _config(
        (Target("x", "scalar"),),
        (Target("x", "scalar", reduction=tasks_lib.Reduction.MEAN),),
      ),
    ),
    (
      "classes_differ",
      "num_classes",
      lambda: _config(
        (Target("x", "multiclass", num_classes=2),),
        (Target("x", "multiclass", num_classes=3),),
      ),
    ),
    ("no_classes", "num_classes", lambda: _config((Target("x", "multiclass"),))),
    ("twice", "twice", lambda: _config((_ENERGY, _ENERGY))),
    ("no_energy", "energy", lambda: _config((_CONSERVATIVE,))),
    (
      "force_name",
      "forces",
      lambda: _config((_ENERGY, dataclasses.replace(_CONSERVATIVE, name="pull"))),
    ),
    (
      "same_name",
      "unique",
      lambda: model_lib.ModelConfig(
        small_model.BACKBONE, (tasks_lib.pretraining_task("a"),) * 2
      ),
    ),
    (
      "no_edges",
      "direct_vectors",
      lambda: model_lib.ModelConfig(
        dataclasses.replace(small_model.BACKBONE, direct_vectors=False),
        (tasks_lib.pretraining_task("a"),),
      ),
    ),
  )
  def test_refuses_with_a_reason(self, reason, make):
    with self.assertRaisesRegex(ValueError, reason):
      make()

  def test_coefficients_may_differ_between_tasks(self):
    config = _config((_ENERGY,), (dataclasses.replace(_ENERGY, loss_coefficient=0.0),))
    self.assertFalse(config.is_conservative)

  @parameterized.parameters(
    (gemnet_oc.GemNetOCConfig, "num_blocks", 0),
    (gemnet_oc.GemNetOCConfig, "dropout", 1.0),
    (gemnet_oc.GemNetOCConfig, "edge_dropout", -0.1),
    (gemnet_config.BasesConfig, "num_radial", 1),
    (gemnet_config.BasesConfig, "num_spherical", 0),
  )
  def test_backbone_refuses_impossible_sizes(self, cls, name, value):
    with self.assertRaisesRegex(ValueError, name):
      cls(**{name: value})


def _all_equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for value in eqn.params.values():
      for inner in value if isinstance(value, (list, tuple)) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from _all_equations(inner)


class PrecisionTest(parameterized.TestCase):
  def _trace(self, precision):
    """Shapes of all module outputs, all equations, parameters and predictions."""
    model = model_lib.build_model(small_model.direct_config(precision=precision))
    batch = small_model.make_batch(
      [small_model.molecule(), small_model.crystal()], dtype=np.float32
    )
    variables = jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)
    record = {}

    def run(variables, batch):
      with golden_case.record_outputs(record):
        predictions = model.apply(variables, None, batch)
      return predictions

    jaxpr = jax.make_jaxpr(run)(
      jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), variables), batch
    )
    predictions = jax.eval_shape(model.apply, variables, None, batch)
    return record, list(_all_equations(jaxpr.jaxpr)), variables, predictions

  def test_bfloat16_is_used_for_dense_layers_alone(self):
    record, equations, variables, predictions = self._trace("bfloat16")
    for leaf in jax.tree.leaves((variables, predictions)):
      self.assertEqual(leaf.dtype, jnp.float32)
    for name, output in record.items():
      if name.rpartition("/")[2] in ("dense_ca", "up_projection_ca", "mlp_sbf"):
        self.assertEqual(output.dtype, jnp.bfloat16, name)
    h, m = record["backbone/int_blocks_0"]
    self.assertEqual((h.dtype, m.dtype), (jnp.bfloat16, jnp.bfloat16))
    for eqn in equations:
      dtypes = {str(v.aval.dtype) for v in eqn.invars if hasattr(v.aval, "dtype")}
      # Sums over edges of an atom and over atoms, and all functions of geometry.
      if eqn.primitive.name in (
        "scatter-add",
        "sqrt",
        "exp",
        "div",
        "reduce_max",
        "reduce_min",
      ):
        self.assertNotIn("bfloat16", dtypes, eqn)

  def test_float32_uses_nothing_narrower(self):
    record, equations, _, _ = self._trace("float32")
    for leaf in jax.tree.leaves(record):
      self.assertNotEqual(getattr(leaf, "dtype", None), jnp.bfloat16)
    for eqn in equations:
      for v in eqn.outvars:
        self.assertNotIn(str(v.aval.dtype), ("bfloat16", "float16"))

  def test_bfloat16_agrees_with_float32(self):
    structures = [small_model.molecule(), small_model.crystal()]
    expected = small_model.direct(np.float32)(structures)
    config = small_model.direct_config(precision="bfloat16")
    actual = small_model.Evaluator(config, np.float32)(structures)
    for name, value in expected.items():
      error = np.abs(actual[name] - value).max() / np.abs(value).max()
      self.assertLess(error, 0.05, name)
      self.assertGreater(error, 1e-6, name)  # it is not float32

  def test_float32_agrees_with_float64(self):
    structures = [small_model.molecule(), small_model.crystal()]
    for make in (small_model.direct, small_model.conservative):
      expected = make(np.float64)(structures)
      actual = make(np.float32)(structures)
      for name, value in expected.items():
        error = np.abs(actual[name] - value).max() / np.abs(value).max()
        self.assertLess(error, 1e-4, name)


class CollinearNoiseTest(parameterized.TestCase):
  @parameterized.parameters("bulk", "mol_perfect")
  def test_collinear_dihedrals_carry_no_float32_noise(self, case):
    # The original deviates by up to 2e-3 here.
    golden = "tinyd_bulk" if case == "bulk" else "tiny_mol_perfect"
    structures = golden_case.structures(golden_case.load(golden))
    settings = golden_case.graph_settings(structures[0])
    model = model_lib.build_model(golden_case.pretrain_config("tinyd"))
    results = []
    for dtype in (np.float64, np.float32):
      with jax.enable_x64(dtype == np.float64):
        batch = golden_case.make_batch(
          structures, [0] * len(structures), settings, dtype=dtype
        )
        run = jax.jit(lambda variables, batch: model.apply(variables, None, batch))
        results.append(
          jax.device_get(run(golden_case.variables("tinyd", dtype), batch))
        )
    expected, actual = results
    for name, value in expected.items():
      error = np.abs(actual[name] - value).max() / np.abs(value).max()
      self.assertLess(error, 1e-5, name)


if __name__ == "__main__":
  absltest.main()
