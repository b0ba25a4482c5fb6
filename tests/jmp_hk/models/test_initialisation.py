"""Fresh parameters depend on key, name and shape alone; their spread is published."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib
from tests.jmp_hk.models.gemnet_oc import small_model


@functools.cache
def _init(seed: int = 0, **changes) -> model_lib.Variables:
  model = model_lib.build_model(small_model.direct_config(**changes))
  batch = small_model.make_batch([small_model.molecule()], dtype=np.float32)
  return jax.device_get(model.init(jax.random.PRNGKey(seed), batch))


class InitialisationTest(parameterized.TestCase):
  def test_repeats_for_a_key_and_does_not_depend_on_the_batch(self):
    model = model_lib.build_model(small_model.direct_config())
    budget = dataclasses.replace(small_model.BUDGET, num_atoms=33, main_width=21)
    batch = small_model.make_batch(
      [small_model.crystal()], budget=budget, dtype=np.float32
    )
    again = jax.device_get(model.init(jax.random.PRNGKey(0), batch))
    jax.tree.map(np.testing.assert_array_equal, again, _init())

  def test_every_weight_is_drawn_by_itself(self):
    leaves = [
      x for x in jax.tree.leaves((_init(0).params, _init(1).params)) if x.size > 9
    ]
    self.assertLen({x.tobytes() for x in leaves}, len(leaves))

  def test_other_heads_leave_the_backbone_as_it_is(self):
    task = tasks_lib.TaskConfig("x", (tasks_lib.TargetConfig("gap", "scalar"),))
    other = _init(tasks=(task,)).params
    shared = [name for name in _init().params if name in other]
    self.assertGreater(len(shared), 50)
    for name in shared:
      jax.tree.map(np.testing.assert_array_equal, other[name], _init().params[name])

  @parameterized.parameters("float32", "bfloat16")
  def test_parameters_are_float32_and_factors_not_fitted(self, precision):
    params, scales = _init(precision=precision)
    for leaf in jax.tree.leaves(params):
      self.assertEqual(leaf.dtype, np.float32)
    self.assertLen(scales, 11 + 2 * 2)
    for leaf in jax.tree.leaves(scales):
      self.assertEqual(leaf, 0)

  def test_spread_of_every_weight(self):
    for module, leaves in _init().params.items():
      weight = leaves.get("w")
      if module == "atom_embedding":
        self.assertEqual(leaves["embeddings"].shape, (120, 12))
        chex.assert_trees_all_close(leaves["embeddings"].std(), 1, rtol=0.1)
      elif module.startswith("out_"):  # PyTorch's default, uniform
        self.assertLessEqual(np.abs(weight).max(), weight.shape[1] ** -0.5)
      elif weight.ndim == 3:
        radial, channels, angular = weight.shape  # published: channels last
        weight = weight.reshape(radial, angular, channels)
        np.testing.assert_allclose(weight.mean((0, 1)), 0, atol=1e-6, err_msg=module)
      else:
        np.testing.assert_allclose(weight.mean(0), 0, atol=1e-6, err_msg=module)
        variance = weight.var(0, ddof=1) * len(weight)
        np.testing.assert_allclose(variance, 1, rtol=2e-3, err_msg=module)


if __name__ == "__main__":
  absltest.main()
