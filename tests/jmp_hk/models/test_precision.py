"""Each product of a training step has the precision that the policy gives its part.

The steps are lowered for CUDA, where a product without a precision is TensorFloat-32.
"""

import math

from absl.testing import absltest
from absl.testing import parameterized
import haiku as hk
import jax
import jax.numpy as jnp
from jaxlib.mlir import ir
import numpy as np

from experiments.command_line import inference_flags
from jmp_hk.models import precision as precision_lib
from tests.jmp_hk.models import lowered_steps
from tests.jmp_hk.models.gemnet_oc import small_model

_PARTS = ("ei,eij->ej", "nix,njx->nij", "qjx,qx->qj", "bases/mlp_cbf_tint")


def _is_dense(product: lowered_steps.Product, step: lowered_steps.Step) -> bool:
  return any(f"/{path}/" in product.scope for path in step.dense)


class LoweredStepTest(parameterized.TestCase):
  @parameterized.product(
    kind=lowered_steps.KINDS, precision=tuple(precision_lib.POLICIES)
  )
  def test_only_dense_layers_and_messages_are_less_than_exact(self, kind, precision):
    step = lowered_steps.lowered(kind, precision)
    products = lowered_steps.products(step.module)
    # Forces that are derivatives of the energy differentiate geometry, twice.
    least = 3 if kind == "conservative" else 1
    for part in _PARTS:
      found = [product for product in products if f"/{part}/" in product.scope]
      self.assertGreaterEqual(len(found), least, part)
    self.assertGreater(sum(_is_dense(p, step) for p in products), 100)
    for product in products:
      expected = self._is_exact(product, step, precision)
      self.assertEqual(product.is_exact, expected, product.scope)

  def _is_exact(self, product, step, precision) -> bool:
    """What the policy says of a product."""
    if precision == "float32":
      self.assertEqual(product.dtypes, {"f32"}, product.scope)
      return True
    if precision == "tensorfloat32":
      self.assertEqual(product.dtypes, {"f32"}, product.scope)
      return not _is_dense(product, step)
    is_message = "_interaction/" in product.scope
    narrow = _is_dense(product, step) or is_message
    self.assertEqual(product.dtypes, {"bf16"} if narrow else {"f32"}, product.scope)
    return not narrow

  @parameterized.product(
    kind=lowered_steps.KINDS, precision=tuple(precision_lib.POLICIES)
  )
  def test_nothing_else_has_a_precision(self, kind, precision):
    # Convolutions and calls of libraries would have one of their own.
    step = lowered_steps.lowered(kind, precision)
    for operation in lowered_steps.operations(step.module):
      if operation.name != "stablehlo.dot_general":
        self.assertNotIn("precision_config", operation.attributes, operation.name)
      self.assertNotIn(operation.name, ("stablehlo.dot", "stablehlo.convolution"))

  @parameterized.parameters(*lowered_steps.KINDS)
  def test_sums_of_repeated_rows_are_float32_in_bfloat16_mode(self, kind):
    step = lowered_steps.lowered(kind, "bfloat16")
    scatters = lowered_steps.operations(step.module, "scatter")
    narrow = [s for s in scatters if lowered_steps.dtype(s.results[0]) == "bf16"]
    self.assertNotEmpty(narrow)
    for scatter in narrow:
      is_unique = str(scatter.attributes["unique_indices"])
      self.assertEqual(is_unique, "true", lowered_steps.scope(scatter))
    self.assertGreater(len(scatters), len(narrow))

  @parameterized.parameters(*lowered_steps.KINDS)
  def test_nothing_but_angular_orders_is_summed_in_bfloat16(self, kind):
    # Sums over atoms, edges and neighbors are longer, as in the gradients of biases.
    longest = small_model.BACKBONE.bases.num_spherical
    step = lowered_steps.lowered(kind, "bfloat16")
    for reduction in lowered_steps.operations(step.module, "reduce"):
      operand = reduction.operands[0]
      if lowered_steps.dtype(operand) == "bf16":
        shape = ir.RankedTensorType(operand.type).shape
        length = math.prod(shape[axis] for axis in reduction.attributes["dimensions"])
        self.assertLessEqual(length, longest, lowered_steps.scope(reduction))


class ApplyPolicyTest(parameterized.TestCase):
  def _precisions(self, policy, **modules):
    """Precisions of a product in a module, of its derivative, and of one outside."""

    def run(x):
      with precision_lib.apply_policy(policy, **modules):
        y = hk.Linear(3, name="linear")(x)
        return (y @ jnp.ones((3, 3)) + jnp.einsum("ij,jk->ik", y, jnp.eye(3))).sum()

    function = hk.transform(run)
    params = function.init(jax.random.PRNGKey(0), np.ones((2, 3), np.float32))
    gradient = jax.grad(lambda params, x: function.apply(params, None, x))
    traced = jax.jit(gradient).trace(params, np.ones((2, 3), np.float32))
    module = traced.lower(lowering_platforms=("cuda",)).compiler_ir("stablehlo")
    inside, outside = set(), set()
    for product in lowered_steps.products(module):
      found = inside if "/linear/" in product.scope else outside
      found.add(product.is_exact)
    return inside, outside

  @parameterized.product(
    default=(None, "tensorfloat32", "highest"), name=tuple(precision_lib.POLICIES)
  )
  def test_products_that_name_no_precision_are_exact_but_in_named_modules(
    self, default, name
  ):
    policy = precision_lib.POLICIES[name]
    with jax.default_matmul_precision(default):
      self.assertEqual(self._precisions(policy), ({True}, {True}))
      inside, outside = self._precisions(policy, dense=(hk.Linear,))
      self.assertEqual((inside, outside), ({name == "float32"}, {True}))
      inside, _ = self._precisions(policy, messages=(hk.Linear,))
      self.assertEqual(inside, {name != "bfloat16"})

  def test_a_product_that_asks_for_less_is_seen(self):
    # What the tests above would do if geometry held such a product.
    def run(x):
      with precision_lib.apply_policy(precision_lib.POLICIES["float32"]):
        return jnp.matmul(x, x, precision="default").sum()

    x = np.ones((3, 3), np.float32)
    traced = jax.jit(jax.grad(run)).trace(x)
    module = traced.lower(lowering_platforms=("cuda",)).compiler_ir("stablehlo")
    self.assertEqual({p.is_exact for p in lowered_steps.products(module)}, {False})

  def test_the_policy_ends_with_the_context(self):
    with precision_lib.apply_policy(precision_lib.POLICIES["bfloat16"]):
      pass
    self.assertIsNone(jax.config.jax_default_matmul_precision)
    self.assertIsNone(hk.mixed_precision.get_policy(hk.Linear))


class NamesTest(absltest.TestCase):
  def test_models_are_used_in_what_they_are_trained_in_and_in_float64(self):
    self.assertCountEqual(precision_lib.INFERENCE, [*precision_lib.POLICIES, "float64"])
    self.assertEqual(precision_lib.INFERENCE, inference_flags.PRECISIONS)

  def test_an_unknown_name_is_refused_with_those_that_there_are(self):
    with self.assertRaisesRegex(ValueError, "tensorfloat32.*got 'tf32'"):
      precision_lib.check_precision("tf32")


if __name__ == "__main__":
  absltest.main()
