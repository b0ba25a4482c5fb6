"""Radial and angular basis functions against NumPy and calculus."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models.gemnet_oc import bases
from jmp_hk.models.gemnet_oc import shared_bases


class EnvelopeTest(parameterized.TestCase):
  def test_published_polynomial(self):
    x = np.linspace(0, 1, 11)
    with jax.enable_x64():
      actual = bases.envelope(jnp.asarray(x), 5)
    chex.assert_trees_all_close(
      actual, 1 - 21 * x**5 + 35 * x**6 - 15 * x**7, atol=1e-14, rtol=1e-7
    )

  @parameterized.parameters(2, 5, 6)
  def test_value_slope_and_curvature_vanish_at_the_cutoff(self, exponent):
    with jax.enable_x64():
      function = lambda x: bases.envelope(x, exponent)
      first, second = jax.grad(function), jax.grad(jax.grad(function))
      for x in (1.0, 1.5, 1e6):
        self.assertEqual((function(x), first(x), second(x)), (0, 0, 0))
      before = 1 - 1e-6
      np.testing.assert_allclose(
        [function(before), first(before), second(before)], 0, atol=1e-3
      )
      self.assertEqual(function(0.0), 1)


class RadialBasisTest(parameterized.TestCase):
  def test_gaussians_under_the_envelope(self):
    with jax.enable_x64():
      d = np.array([0.7, 3.0, 11.9, 12.0, 15.0])
      actual = bases.radial_basis(jnp.asarray(d), jnp.ones(5, bool), 16, 12.0, 5)
      x = d[:, None] / 12
      centres = np.arange(16) / 15
      inside = 1 - 21 * x**5 + 35 * x**6 - 15 * x**7
      expected = np.where(x < 1, inside, 0) * np.exp(-0.5 * 15**2 * (x - centres) ** 2)
    chex.assert_trees_all_close(actual, expected, atol=1e-14, rtol=1e-7)

  def test_masked_edges_are_zero_with_zero_gradient(self):
    def total(d):
      return bases.radial_basis(d, jnp.array([True, False]), 8, 5.0, 5).sum()

    gradient = jax.grad(total)(jnp.array([1.0, 0.0]))
    self.assertNotEqual(gradient[0], 0)
    self.assertEqual(gradient[1], 0)


class AngularTest(parameterized.TestCase):
  @hypothesis.given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
  @hypothesis.settings(max_examples=25, deadline=None)
  def test_legendre_is_numpys(self, cosines):
    x = np.array(cosines)
    with jax.enable_x64():
      actual = bases.legendre(jnp.asarray(x), 7, -1)
    expected = np.polynomial.legendre.legvander(x, 6) * np.sqrt(
      (2 * np.arange(7) + 1) / (4 * np.pi)
    )
    chex.assert_trees_all_close(actual, expected, atol=1e-13, rtol=1e-7)

  @parameterized.parameters(0, 1, 2, -1)
  def test_legendre_puts_orders_where_asked(self, axis):
    x = jnp.linspace(-1, 1, 6).reshape(2, 3)
    actual = bases.legendre(x, 4, axis)
    expected = jnp.moveaxis(bases.legendre(x, 4, 0), 0, axis)
    chex.assert_trees_all_equal(actual, expected)

  @parameterized.parameters(1, 2, 5, 7, 9)
  def test_legendre_series_as_cosine_series(self, order):
    # Y_l(cos θ) = Σ_k A[l, k] cos kθ, for any number of orders.
    theta = np.linspace(0, np.pi, 13)
    matrix = bases.legendre_to_cosines(order)
    actual = np.cos(np.outer(theta, np.arange(order))) @ matrix.T
    expected = np.polynomial.legendre.legvander(np.cos(theta), order - 1)
    expected *= np.sqrt((2 * np.arange(order) + 1) / (4 * np.pi))
    chex.assert_trees_all_close(actual, expected, atol=1e-13, rtol=1e-7)

  @parameterized.parameters(1, 2, 7)
  def test_perpendicular_cosines_are_those_of_a_right_angle(self, order):
    expected = np.cos(np.arange(order) * np.pi / 2)
    chex.assert_trees_all_close(
      shared_bases.perpendicular_cosines(order), expected, atol=1e-15, rtol=1e-7
    )

  @parameterized.parameters(
    (-1.5, -1.0, 0.0),
    (-1.0, -1.0, 1.0),
    (0.3, 0.3, 1.0),
    (1.0, 1.0, 1.0),
    (1.0001, 1.0, 0.0),
  )
  def test_clipping_passes_the_full_gradient_at_the_ends(self, x, value, slope):
    chex.assert_trees_all_close(bases.clip_cosine(jnp.float32(x)), value, rtol=1e-7)
    self.assertEqual(jax.grad(bases.clip_cosine)(jnp.float32(x)), slope)


if __name__ == "__main__":
  absltest.main()
