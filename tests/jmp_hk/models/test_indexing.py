"""Gathers equal plain indexing, and what they promise XLA about indices is true."""

from collections.abc import Iterator
import functools
from typing import Any

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import indexing
from jmp_hk.training import losses
from jmp_hk.training import objective as objective_lib
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.models import lowered_steps
from tests.jmp_hk.models.gemnet_oc import small_model


class GatherTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)

  def test_rows_may_repeat(self):
    index = np.array([[3, 3], [0, 5]])
    chex.assert_trees_all_equal(indexing.take_rows(self.x, index), self.x[index])

  def test_repeated_bfloat16_rows_have_a_derivative_summed_in_float32(self):
    # 256 + 1 is 256 in bfloat16, so 256 and 64 ones would add up to 256.
    weights = jnp.asarray([256.0] + [1.0] * 64, jnp.bfloat16)

    def total(x):
      return (weights * indexing.take_rows(x, np.zeros(65, np.int32))).sum()

    gradient = jax.grad(total)(jnp.ones(3, jnp.bfloat16))
    chex.assert_trees_all_equal(gradient, jnp.asarray([320, 0, 0], jnp.bfloat16))

  def test_a_table_and_its_slots_are_inverse_and_absent_entries_are_zero(self):
    table = np.array([[0, 1, -1], [-1, -1, -1], [2, 3, 4], [-1, -1, -1]])
    rows, slots = np.array([0, 0, 2, 2, 2, 3]), np.array([0, 1, 0, 1, 2, 0])
    present = np.arange(6) < 5
    taken = indexing.take_table(self.x, table)
    expected = np.where((table >= 0)[..., None], self.x[table], 0)
    chex.assert_trees_all_equal(taken, expected)
    back = indexing.take_slots(taken, rows, slots, present)
    chex.assert_trees_all_equal(back, np.where(present[:, None], self.x, 0))
    wide = jnp.stack([taken, 2 * taken], axis=1)  # [N, 2, W, …]
    both = indexing.take_slots(wide, rows, slots, present, slot_axis=2)
    chex.assert_trees_all_equal(both, jnp.stack([back, 2 * back], axis=1))

  def test_derivatives_are_those_of_plain_indexing(self):
    index, present = np.array([4, 0, 0, 2]), np.array([True, True, False, True])
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    plain = lambda x: (weights * jnp.where(present[:, None], x[index], 0)).sum()
    ours = lambda x: (weights * indexing.take_distinct(x, index, present)).sum()
    chex.assert_trees_all_equal(jax.grad(ours)(self.x), jax.grad(plain)(self.x))

  def test_first_and_second_derivatives_of_tables_are_those_of_plain_indexing(self):
    table = jnp.array([[0, 1, -1], [-1, -1, -1], [2, 3, 4]])
    places = indexing.Places(
      table,
      rows=jnp.array([0, 0, 2, 2, 2, 2]),
      slots=jnp.array([0, 1, 0, 1, 2, 3]),
      present=jnp.arange(6) < 5,
    )

    def plain_to(x, axis):
      taken = jnp.where((table >= 0)[..., None, None], x[table], 0)
      return jnp.moveaxis(taken, 1, axis)

    def plain_from(x, axis):
      taken = jnp.moveaxis(x, axis, 1)[places.rows, places.slots % 3]
      return jnp.where(places.present[:, None, None], taken, 0)

    rng = np.random.default_rng(1)
    for ours, plain, shape in (
      (indexing.to_table, plain_to, (6, 3, 2)),
      (indexing.from_table, plain_from, (3, 3, 3, 2)),
    ):
      for axis in (1, 2):
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)
        weights = jnp.asarray(rng.normal(size=plain(x, axis).shape), jnp.float32)

        def square_of_slope(x, function, weights=weights):
          total = lambda x: (weights * function(x) ** 3).sum()
          return (jax.grad(total)(x) ** 2).sum()

        @jax.jit
        def both(x, ours=ours, plain=plain, axis=axis, second=square_of_slope):
          functions = (lambda x: ours(x, places, axis), lambda x: plain(x, axis))
          return [(f(x), jax.grad(second)(x, f)) for f in functions]

        actual, expected = both(x)
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)

  def test_swapped_rows_are_swapped_back_in_the_derivative(self):
    partner = np.array([1, 0, 2, 5, 4, 3])
    weights = np.arange(12, dtype=np.float32).reshape(6, 2)
    chex.assert_trees_all_equal(indexing.swap_rows(self.x, partner), self.x[partner])
    gradient = jax.grad(lambda x: (weights * indexing.swap_rows(x, partner)).sum())
    chex.assert_trees_all_equal(gradient(self.x), weights[partner])

  def test_a_table_may_have_no_columns(self):
    none = indexing.take_table(self.x, np.zeros((3, 0), np.int32))
    self.assertEqual(none.shape, (3, 0, 2))


_CALLS = (
  "jit",
  "pjit",
  "checkpoint",
  "remat",
  "remat2",
  "closed_call",
  "custom_jvp_call",
  "custom_vjp_call",
)


def _promises(jaxpr: Any, consts: Any, args: Any) -> Iterator[tuple[Any, jax.Array]]:
  """Evaluates a program and gives each gather and scatter that promises something.

  Yields:
    The equation and its indices [..., indexed axes].
  """
  values = dict(zip(jaxpr.constvars, consts, strict=True))
  values |= dict(zip(jaxpr.invars, args, strict=True))
  read = lambda v: v.val if isinstance(v, jax.extend.core.Literal) else values[v]
  for equation in jaxpr.eqns:
    inputs = [read(v) for v in equation.invars]
    name = equation.primitive.name
    told = (equation.params.get(k) for k in ("unique_indices", "indices_are_sorted"))
    if any(told):
      yield equation, inputs[1]
    if name in _CALLS:
      inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
      closed = (
        inner if hasattr(inner, "jaxpr") else jax.extend.core.ClosedJaxpr(inner, ())
      )
      outputs = yield from _promises(closed.jaxpr, closed.consts, inputs)
    else:
      outputs = equation.primitive.bind(*inputs, **equation.params)
      outputs = outputs if equation.primitive.multiple_results else [outputs]
    values.update(zip(equation.outvars, outputs, strict=True))
  return [read(v) for v in jaxpr.outvars]


@functools.cache
def _program(kind: str):
  """A jitted function from a batch to the indices of all promises, and the equations.

  Nothing but indices is computed: the rest of the gradient is dead code.
  """
  model = lowered_steps.make_model(kind, "bfloat16")
  objective = objective_lib.make_objective(model, losses.LossConfig(), {})
  batch = lowered_steps.make_batch([small_model.molecule()])
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)
  params, scales = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)

  def loss(params, batch):
    predictions = objective.predict(params, scales, jax.random.PRNGKey(0), batch)
    return losses.mean_loss(objective.terms(batch, predictions))

  closed = jax.make_jaxpr(jax.grad(loss))(params, batch)
  equations = []

  @jax.jit
  def run(batch):
    found = list(
      _promises(closed.jaxpr, closed.consts, jax.tree.leaves((params, batch)))
    )
    equations[:] = [equation for equation, _ in found]
    return [indices for _, indices in found]

  return run, equations


def _cases():
  """Structures and their tasks: with and without padding, edges and quadruplets."""
  molecule, crystal = small_model.molecule(), small_model.crystal()
  cell = 2.6 * (np.ones((3, 3)) - np.eye(3))
  ideal = helpers.make_structure(
    [[0, 0, 0], [2.6, 0, 0]], np.array([11, 17], np.int32), cell=cell, pbc=True
  )
  atom = helpers.make_structure([[1.0, 2.0, 3.0]], np.array([2], np.int32))
  return {
    "two_tasks": ([molecule, crystal], [0, 1]),
    "images": ([crystal, ideal, atom], [0, 0, 0]),
    "no_edges": ([atom], [0]),
    "padding_alone": ([], []),
  }


class PromisesTest(parameterized.TestCase):
  @parameterized.product(kind=lowered_steps.KINDS, case=tuple(_cases()))
  def test_indices_are_as_unique_and_as_sorted_as_xla_is_told(self, kind, case):
    structures, tasks = _cases()[case]
    if kind == "conservative":
      tasks = [0] * len(tasks)
    run, equations = _program(kind)
    batch = lowered_steps.make_batch(structures, tasks)
    arrays = jax.device_get(run(batch))
    self.assertGreater(len(arrays), 60)
    for equation, indices in zip(equations, arrays, strict=True):
      rows = indices.reshape(-1, indices.shape[-1]).astype(np.int64)
      what = f"{equation.primitive.name} {equation.source_info.name_stack}"
      if equation.params["unique_indices"]:
        self.assertLen(np.unique(rows, axis=0), len(rows), what)
      if equation.params["indices_are_sorted"]:
        order = np.lexsort(rows.T[::-1])
        np.testing.assert_array_equal(rows[order], rows, what)


if __name__ == "__main__":
  absltest.main()
