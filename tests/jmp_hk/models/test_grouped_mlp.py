"""Grouped heads equal one MLP per row, and rows pay for their own task only."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import haiku as hk
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models import grouped_mlp

_CHANNELS = 6

_make_blocks = jax.jit(grouped_mlp.make_blocks, static_argnums=1)


@functools.cache
def _mlp(num_tasks: int, bias: bool = True, num_outputs: int = 1):
  return hk.without_apply_rng(
    hk.transform(
      lambda x, task: grouped_mlp.GroupedMLP(
        num_tasks, num_hidden=2, num_outputs=num_outputs, bias=bias, name="head"
      )(x, task)
    )
  )


@functools.cache
def _apply(num_tasks: int, bias: bool = True, num_outputs: int = 1):
  return jax.jit(_mlp(num_tasks, bias, num_outputs).apply)


def _random_params(num_tasks, bias=True, num_outputs=1):
  shapes = jax.eval_shape(
    _mlp(num_tasks, bias, num_outputs).init,
    jax.random.PRNGKey(0),
    jnp.zeros((4, _CHANNELS)),
    jnp.zeros(4, jnp.int32),
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)


def _row_by_row(params, x, tasks) -> np.ndarray:
  rows = []
  for row, task in zip(x, tasks, strict=True):
    for i in range(2):
      layer = params[f"head/linear_{i}"]
      row = row @ layer["w"][task] + (layer["b"][task] if "b" in layer else 0)
      row = row / (1 + np.exp(-row)) / 0.6
    rows.append(row @ params["head/linear_2"]["w"][task])
  return np.array(rows)


def _counts_to_tasks(counts) -> np.ndarray:
  return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


class BlocksTest(parameterized.TestCase):
  @hypothesis.given(
    st.sampled_from([1, 64, 400]),
    st.lists(
      st.one_of(st.integers(0, 400), st.sampled_from([0, 8, 16, 32, 64])),
      min_size=3,
      max_size=3,
    ),
  )
  @hypothesis.settings(max_examples=60, deadline=None)
  def test_every_row_has_one_place_in_a_block_of_its_task(self, num_rows, cuts):
    # Tasks without rows, with one row, and with sizes about a block's among them.
    ends = sorted(min(cut, num_rows) for cut in cuts)
    counts = np.diff([0, *ends, num_rows])
    tasks = _counts_to_tasks(counts)
    blocks = jax.device_get(_make_blocks(tasks, len(counts)))
    size = blocks.rows.shape[1]
    self.assertEqual(blocks.mask.sum(), len(tasks))
    rows = np.arange(len(tasks))
    chex.assert_trees_all_equal(np.sort(blocks.rows[blocks.mask]), rows)
    chex.assert_trees_all_equal(blocks.rows.ravel()[blocks.position], rows)
    self.assertTrue(blocks.mask.ravel()[blocks.position].all())
    chex.assert_trees_all_equal(blocks.task[blocks.position // size], tasks)
    # Padding is bounded by a block a task.
    self.assertLessEqual(blocks.mask.size, len(tasks) + len(counts) * size)


class GroupedMLPTest(parameterized.TestCase):
  @parameterized.parameters(
    ((40, 0, 24),),
    ((0, 0, 64),),
    ((1, 62, 1),),
    ((8, 8, 48),),
    ((7, 9, 48),),
    ((64, 0, 0),),
    ((17, 30, 17),),
  )
  def test_equals_each_rows_own_mlp(self, counts):
    tasks = _counts_to_tasks(counts)
    x = np.random.default_rng(1).standard_normal((64, _CHANNELS)).astype(np.float32)
    params = _random_params(3)
    actual = _apply(3)(params, x, tasks)
    chex.assert_trees_all_close(
      actual, _row_by_row(params, x, tasks), rtol=1e-4, atol=1e-4
    )

  @parameterized.product(num_tasks=(1, 2), bias=(True, False), num_outputs=(1, 4))
  def test_outputs_and_biases(self, num_tasks, bias, num_outputs):
    tasks = np.array([0, 0, num_tasks - 1], np.int32)
    x = np.random.default_rng(1).standard_normal((3, _CHANNELS)).astype(np.float32)
    params = _random_params(num_tasks, bias, num_outputs)
    self.assertEqual("b" in params["head/linear_0"], bias)
    self.assertNotIn("b", params["head/linear_2"])
    actual = _apply(num_tasks, bias, num_outputs)(params, x, tasks)
    chex.assert_shape(actual, (3, num_outputs))
    chex.assert_trees_all_close(
      actual, _row_by_row(params, x, tasks), rtol=1e-4, atol=1e-4
    )

  def test_gradients_reach_only_the_weights_of_tasks_with_rows(self):
    tasks = _counts_to_tasks([5, 0, 3])
    x = jnp.ones((8, _CHANNELS))
    gradient = jax.jit(jax.grad(lambda p: _apply(3)(p, x, tasks).sum()))(
      _random_params(3)
    )
    for leaf in jax.tree.leaves(gradient):
      chex.assert_trees_all_equal(leaf[1], jnp.zeros_like(leaf[1]))
      self.assertGreater(np.abs(leaf[0]).max(), 0)
      self.assertGreater(np.abs(leaf[2]).max(), 0)

  def test_cost_does_not_grow_with_the_number_of_tasks(self):
    # Evaluating all heads on every row would make 16 tasks 16 times as expensive. What
    # is left is the padding of one block a task.
    def dense_flops(num_tasks, rows=4096):
      params = jax.eval_shape(
        _mlp(num_tasks).init,
        jax.random.PRNGKey(0),
        jnp.zeros((rows, 32)),
        jnp.zeros(rows, jnp.int32),
      )
      jaxpr = jax.make_jaxpr(_mlp(num_tasks).apply)(
        jax.tree.map(lambda s: np.zeros(s.shape, np.float32), params),
        np.zeros((rows, 32), np.float32),
        np.zeros(rows, np.int32),
      )
      return sum(
        2 * np.prod(eqn.outvars[0].aval.shape) * 32
        for eqn in jaxpr.jaxpr.eqns
        if eqn.primitive.name == "dot_general"
      )

    one = dense_flops(1)
    self.assertEqual(one, 2 * 4096 * 32 * (32 + 32 + 1))
    self.assertLessEqual(dense_flops(4), 1.26 * one)
    self.assertLessEqual(dense_flops(16), 1.26 * one)


class InitialisationTest(parameterized.TestCase):
  def test_weights_and_biases_are_pytorchs_default(self):
    params = jax.jit(_mlp(5).init)(
      jax.random.PRNGKey(0), jnp.zeros((4, 256)), jnp.zeros(4, jnp.int32)
    )
    for name, layer in params.items():
      for leaf in layer.values():
        self.assertLessEqual(np.abs(leaf).max(), 1 / 16, name)
      chex.assert_trees_all_close(layer["w"].std(), 1 / 16 / 3**0.5, rtol=0.1)


if __name__ == "__main__":
  absltest.main()
