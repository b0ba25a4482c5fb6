"""Kernels of our own compute what XLA makes of the same layers."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models.gemnet_oc import kernels
from jmp_hk.models.gemnet_oc import layers
from jmp_hk.runtime import compilation

# The last rows of the second are computed twice; the third has two columns of tiles.
_SHAPES = ((128, 128), (300, 384), (128, 512))


def _draw(*shapes: tuple[int, int]) -> list[jax.Array]:
  rng = np.random.default_rng(0)
  # Weights have as many rows as their inputs have columns.
  scale = lambda shape: shape[0] ** -0.5 if shape[0] == shapes[0][1] else 1.0
  return [
    jnp.asarray(scale(shape) * rng.standard_normal(shape), jnp.bfloat16)
    for shape in shapes
  ]


def _reverse(count: int) -> jax.Array:
  """Pairs of edges, and some padding edges that are their own reverse."""
  reverse = np.arange(count, dtype=np.int32)
  pairs = np.random.default_rng(1).permutation(count - 10).reshape(-1, 2)
  reverse[pairs] = pairs[:, ::-1]
  return jnp.asarray(reverse)


class LayersTest(parameterized.TestCase):
  def _check(self, ours, plain, args, cotangent):
    """Results and derivatives agree up to rounding, and none is left out."""
    found, backward = jax.vjp(ours, *args)
    found = found, *backward(cotangent)
    with jax.default_matmul_precision("float32"):
      args, cotangent = jax.tree.map(lambda x: x.astype(jnp.float32), (args, cotangent))
      expected, backward = jax.vjp(plain, *args)
      expected = expected, *backward(cotangent)
    for one, other in zip(found, expected, strict=True):
      chex.assert_equal_shape([one, other])
      chex.assert_type(one, jnp.bfloat16)
      error = np.abs(one.astype(jnp.float32) - other).max()
      self.assertLess(error, 3 * 2**-8 * np.abs(other).max())  # Three roundings.
      self.assertTrue((one != 0).any(axis=0).all())
      self.assertTrue((one != 0).any(axis=1).all())

  @parameterized.product(shape=_SHAPES, factors=((1.0, 0.5**0.5), (2.0, 1.0)))
  def test_residual_layers_are_those_of_the_plain_program(self, shape, factors):
    square = shape[1], shape[1]
    *args, cotangent = _draw(shape, square, square, shape)
    ours = kernels.residual(*factors, interpret=True)
    self._check(ours, layers._residual(*factors), args, cotangent)

  @parameterized.product(shape=_SHAPES, inputs=(32, 128))
  def test_symmetric_sums_are_those_of_the_plain_program(self, shape, inputs):
    rows, width = shape
    weight = inputs, width
    *args, cotangent = _draw((rows, inputs), weight, weight, shape)
    reverse = _reverse(rows)
    sums = kernels.symmetric(interpret=True)
    ours = lambda x, a, b: sums(x, a, b, reverse)
    plain = lambda x, a, b: layers._symmetric(x, a, b, reverse)
    self._check(ours, plain, args, cotangent)


def _variable(value: str):
  """The environment with the variable that asks for kernels."""
  return mock.patch.dict("os.environ", {compilation.KERNELS_VARIABLE: value})


class ChoiceTest(parameterized.TestCase):
  @parameterized.parameters(
    ((128, 128), jnp.bfloat16, True),
    ((128, 128), jnp.float32, False),
    ((127, 128), jnp.bfloat16, False),
    ((128, 64), jnp.bfloat16, False),
    ((2, 128, 128), jnp.bfloat16, False),
  )
  def test_residual_layers_of_long_wide_bfloat16_suit(self, shape, dtype, expected):
    self.assertEqual(kernels.suits_residual(jnp.zeros(shape, dtype)), expected)

  @parameterized.parameters(
    (64, 512, jnp.bfloat16, True),
    (64, 512, jnp.float32, False),
    (64, 192, jnp.bfloat16, False),
    (48, 512, jnp.bfloat16, False),
    (512, 512, jnp.bfloat16, False),
  )
  def test_projections_of_narrow_bfloat16_suit(self, inputs, width, dtype, expected):
    x = jnp.zeros((128, inputs), dtype)
    self.assertEqual(kernels.suits_symmetric(x, width), expected)

  @parameterized.parameters(("1", True), ("0", False), ("", False))
  def test_a_variable_asks_for_them(self, value, expected):
    with compilation.trace_for("gpu"), _variable(value):
      self.assertEqual(compilation.uses_own_kernels(), expected)
    with compilation.trace_for("cpu"), _variable(value):
      self.assertFalse(compilation.uses_own_kernels())


def _residual(x: jax.Array) -> jax.Array:
  return layers.Residual()(x)


def _symmetric(x: jax.Array) -> jax.Array:
  shape = x.shape[1], 256
  weights = [hk.get_parameter(n, shape, x.dtype, jnp.ones) for n in ("a", "b")]
  return layers.SymmetricSum()(x, *weights, _reverse(len(x)))


class ModulesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.x = jnp.ones((256, 128), jnp.bfloat16)

  def _traced(self, module, platform: str, own_kernels: bool, x: jax.Array):
    """The derivative of a module, traced for a platform."""
    transformed = hk.without_apply_rng(hk.transform(module))
    params = transformed.init(jax.random.PRNGKey(0), x)
    run = lambda *args: transformed.apply(*args).astype(jnp.float32).sum()
    with compilation.trace_for(platform), _variable(str(int(own_kernels))):
      return jax.jit(jax.grad(run)).trace(params, x)

  @parameterized.product(
    module=(_residual, _symmetric),
    case=(
      ("gpu", True, jnp.bfloat16, 2),
      ("gpu", False, jnp.bfloat16, 0),
      ("cpu", True, jnp.bfloat16, 0),
      ("gpu", True, jnp.float32, 0),
    ),
  )
  def test_kernels_stand_on_gpus_where_they_are_wanted(self, module, case):
    platform, wanted, dtype, expected = case
    traced = self._traced(module, platform, wanted, self.x.astype(dtype))
    self.assertEqual(str(traced.jaxpr).count("pallas_call["), expected)

  @parameterized.parameters(_residual, _symmetric)
  def test_they_become_programs_for_nvidias_cards(self, module):
    lowered = self._traced(module, "gpu", True, self.x).lower(
      lowering_platforms=("cuda",)
    )
    text = lowered.as_text()
    self.assertEqual(text.count("@__gpu$xla.gpu.triton("), 2)
    names = [name for name in kernels.NUM_PRODUCTS if f'"{name}' in text]
    self.assertLen(names, 2)


if __name__ == "__main__":
  absltest.main()
