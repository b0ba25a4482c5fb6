"""Dense layers and their initialisation (facts 19 and 32 of the original)."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import layers as base_layers
from jmp_hk.models.gemnet_oc import bases
from jmp_hk.models.gemnet_oc import fusion
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.runtime import compilation


def _run(function, *args):
  """Initialises and applies a function of modules."""
  transformed = hk.transform(function)
  params = jax.jit(transformed.init)(jax.random.PRNGKey(0), *args)
  return params, jax.jit(transformed.apply)(params, None, *args)


class InitialisationTest(parameterized.TestCase):
  @parameterized.parameters((24, 40), (40, 24), (32, 32), (3, 1))
  def test_dense_weights_are_standardised_over_the_inputs(self, inputs, outputs):
    params, _ = _run(
      lambda x: layers.Dense(outputs, name="d")(x), jnp.ones((2, inputs))
    )
    w = np.asarray(params["d"]["w"], np.float64)
    self.assertEqual(w.shape, (inputs, outputs))
    chex.assert_trees_all_close(w.mean(0), 0, atol=1e-6, rtol=1e-7)
    # Variance 1 / fan_in; the 1e-6 under the root is the published recipe's.
    chex.assert_trees_all_close(w.var(0, ddof=1) * inputs, 1, rtol=1e-3)

  def test_basis_weights_are_standardised_over_radial_functions_and_orders(self):
    # In the original's layout (num_radial, num_angular, channels): fan-in is the
    # product of the first two.
    radial, channels, angular = 16, 6, 5
    params, _ = _run(
      lambda x: bases.BasisProjection(channels, angular, name="b")(x),
      jnp.ones((2, radial)),
    )
    w = params["b"]["w"]
    self.assertEqual(w.shape, (radial, channels, angular))
    w = np.asarray(w, np.float64).reshape(radial, angular, channels)
    chex.assert_trees_all_close(w.mean((0, 1)), 0, atol=1e-6, rtol=1e-7)
    chex.assert_trees_all_close(w.var((0, 1), ddof=1) * radial * angular, 1, rtol=1e-3)

  def test_square_weights_are_orthogonal_before_standardisation(self):
    # Standardising subtracts a rank-one part: all singular values but one stay equal.
    w = layers.standardised_orthogonal(jax.random.PRNGKey(1), (64, 64), jnp.float32)
    singular = np.linalg.svd(np.asarray(w), compute_uv=False)
    self.assertLess(singular[0], 1.2)
    self.assertGreater(singular[-2], 0.8)

  def test_variance_is_kept_through_dense_layers(self):
    x = jax.random.normal(jax.random.PRNGKey(2), (4096, 64))
    _, y = _run(lambda x: layers.Dense(64, name="d")(x), x)
    chex.assert_trees_all_close(y.var(), 1, rtol=0.05)
    _, y = _run(lambda x: layers.Residual(name="r")(x), x)
    chex.assert_trees_all_close(jnp.square(y).mean(), 1, rtol=0.2)


class LayersTest(parameterized.TestCase):
  def test_scaled_silu(self):
    x = np.linspace(-3, 3, 7)
    chex.assert_trees_all_close(
      base_layers.scaled_silu(jnp.asarray(x)), x / (1 + np.exp(-x)) / 0.6, rtol=1e-5
    )

  def test_residual_layer(self):
    x = jax.random.normal(jax.random.PRNGKey(0), (5, 8))
    params, y = _run(lambda x: layers.Residual(name="r")(x), x)
    act = base_layers.scaled_silu
    inner = act(x @ params["r/dense_mlp_0"]["w"])
    inner = act(inner @ params["r/dense_mlp_1"]["w"])
    chex.assert_trees_all_close(y, (x + inner) / np.sqrt(2), rtol=1e-5, atol=1e-6)

  @parameterized.parameters(True, False)
  def test_stack_is_one_layer_after_another(self, scale_first):
    def stack(x):
      return layers.residual_stack(x, 3, "r", first=1, scale_first=scale_first)

    def chain(x):
      for i in range(3):
        x = layers.Residual(name=f"r_{i + 1}")(x)
      return x

    x = jax.random.normal(jax.random.PRNGKey(0), (5, 8))
    params, y = _run(stack, x)
    expected = hk.transform(chain).apply(params, None, x)
    chex.assert_trees_all_close(y, expected, rtol=1e-5, atol=1e-6)

  def test_gpu_program_has_the_same_derivatives(self):
    def network(x, radial):
      x, y, z = fusion.fan_out(layers.Dense(8, activation=True, name="a")(x), 3)
      w, gate = (
        layers.Dense(8, name=name).weight(size, x.dtype)
        for name, size in (("w", 8), ("gate", radial.shape[1]))
      )
      y = layers.GatedDense(name="gated")(y, w, radial, gate)
      y = layers.residual_stack(y, 2, "r") + z
      return layers.RadialFilter(name="f")(layers.skip(x, y), radial, gate).sum()

    energy = hk.without_apply_rng(hk.transform(network))

    def loss(params, *inputs):
      forces = jax.grad(energy.apply, (1, 2))(params, *inputs)
      return energy.apply(params, *inputs) + sum((f**2).sum() for f in forces)

    with jax.enable_x64(True):
      keys = jax.random.split(jax.random.PRNGKey(0), 2)
      inputs = [jax.random.normal(k, (5, n), float) for k, n in zip(keys, (6, 4))]
      params = energy.init(keys[0], *inputs)
      expected = jax.value_and_grad(loss, (0, 1, 2))(params, *inputs)
      with compilation.trace_for("gpu"):
        found = jax.value_and_grad(loss, (0, 1, 2))(params, *inputs)
      chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-9)

  def test_basis_weights_are_read_as_channels_by_orders(self):
    radial = jax.random.normal(jax.random.PRNGKey(0), (7, 4))
    params, y = _run(lambda x: bases.BasisProjection(3, 2, name="b")(x), radial)
    expected = np.zeros((7, 3, 2))
    for channel in range(3):
      for order in range(2):
        expected[:, channel, order] = radial @ params["b"]["w"][:, channel, order]
    chex.assert_trees_all_close(y, expected, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
  absltest.main()
