"""Fitted scale factors bring every branch to the variance of its reference."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from jmp_hk.models.gemnet_oc import scale_factor
from tests.jmp_hk.models.gemnet_oc import small_model


def _unfitted(dtype=np.float32):
  evaluate = small_model.direct(dtype)
  scales = jax.tree.map(np.zeros_like, evaluate.variables.scales)
  return evaluate.model, evaluate.variables._replace(scales=scales)


def _batches():
  first = [small_model.molecule(), small_model.crystal()]
  second = [small_model.crystal(3), small_model.molecule("H2O")]
  return [small_model.make_batch(s, dtype=np.float32) for s in (first, second)]


class ScaleFittingTest(parameterized.TestCase):
  def test_every_branch_gets_the_variance_of_its_reference(self):
    model, variables = _unfitted()
    fitted = []
    scales = model.fit_state(
      variables, _batches(), lambda name, _: fitted.append(name)
    ).scales
    self.assertEqual(fitted, scale_factor.fitting_order(list(variables.scales)))
    self.assertLen(fitted, 11 + 2 * 2)

    @jax.jit
    def observe(variables, batch):
      with scale_factor.observe() as observations:
        model.apply(variables, None, batch)
      return observations

    observed = [
      jax.device_get(observe(variables._replace(scales=scales), batch))
      for batch in _batches()
    ]
    for name in fitted:
      value = float(scales[name]["scale_factor"])
      self.assertGreater(value, 0)
      rows = [o[name].values.count for o in observed]
      before, wanted = (
        np.average([getattr(o[name], field).variance for o in observed], weights=rows)
        for field in ("values", "reference")
      )
      np.testing.assert_allclose(value**2 * before, wanted, rtol=1e-4, err_msg=name)

  def test_factors_do_not_depend_on_how_a_step_is_divided(self):
    model, variables = _unfitted()
    structures = [small_model.molecule(), small_model.crystal(), small_model.crystal(3)]
    pack = lambda chosen: small_model.make_batch(chosen, dtype=np.float32)
    whole = model.fit_state(variables, [pack(structures)])
    parts = [pack(structures[:1]), pack(structures[1:]), pack([])]
    divided = model.fit_state(variables, parts, together=3)
    chex.assert_trees_all_close(divided.scales, whole.scales, rtol=1e-5)
    # Means of the parts' variances would not do.
    apart = model.fit_state(variables, parts[:2])
    differ = [
      abs(a / b - 1) > 1e-3
      for a, b in zip(*map(jax.tree.leaves, (apart.scales, whole.scales)), strict=True)
    ]
    self.assertTrue(any(differ))

  def test_factors_that_are_set_stay_and_a_branch_without_data_gets_one(self):
    model, variables = _unfitted()
    given = "backbone/int_blocks_0/trip_interaction/scale_rbf"
    variables.scales[given]["scale_factor"] = np.float32(3.25)
    batch = small_model.make_batch(
      [small_model.crystal(tags=[0, 0, 0])], dtype=np.float32
    )
    fitted = []
    scales = model.fit_state(
      variables, [batch], lambda name, _: fitted.append(name)
    ).scales
    self.assertEqual(scales[given]["scale_factor"], 3.25)
    self.assertNotIn(given, fitted)
    for name in ("scale_cbf", "scale_sbf_sum"):
      module = f"backbone/int_blocks_0/quad_interaction/{name}"
      self.assertEqual(scales[module]["scale_factor"], 1)  # no quadruplets
    self.assertEqual(variables.scales[fitted[0]]["scale_factor"], 0)  # not changed

  def test_zero_means_not_fitted_and_multiplies_by_one(self):
    evaluate = small_model.direct(np.float32)
    batch = _batches()[0]
    zeros, ones = (
      evaluate.variables._replace(
        scales=jax.tree.map(lambda x, f=f: f(x), evaluate.variables.scales)
      )
      for f in (np.zeros_like, np.ones_like)
    )
    expected, actual = evaluate.apply(batch, ones), evaluate.apply(batch, zeros)
    chex.assert_trees_all_equal(actual["energy"], expected["energy"])

  def test_needs_data(self):
    with self.assertRaisesRegex(ValueError, "at least one batch"):
      model, variables = _unfitted()
      model.fit_state(variables, [])


if __name__ == "__main__":
  absltest.main()
