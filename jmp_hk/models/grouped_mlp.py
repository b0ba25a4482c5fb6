"""An MLP with separate weights per task, where each row pays for its own task only."""

import functools
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from jmp_hk.models import indexing
from jmp_hk.models import layers

NUM_HIDDEN = 4  # Hidden layers of a head, by default.
_MAX_BLOCK = 512


class Blocks(NamedTuple):
  """Rows sorted by task, cut into blocks of equal size with one task each.

  Attributes:
    rows: [blocks, size] row of `x` at each place, or zero where there is none.
    mask: [blocks, size] bool, where there is a row.
    task: [blocks] task of each block, ascending.
    position: [rows] place of each row in the flattened blocks, ascending.
  """

  rows: jax.Array
  mask: jax.Array
  task: jax.Array
  position: jax.Array


def make_blocks(row_task: jax.Array, num_tasks: int) -> Blocks:
  """Assigns rows to blocks.

  Args:
    row_task: [rows] task index of each row, ascending.
    num_tasks: number of tasks.

  Returns:
    Blocks with static shapes; at most `num_tasks` of them are not full.
  """
  num_rows = row_task.shape[0]
  size = 8
  while size < _MAX_BLOCK and size * 8 * num_tasks <= num_rows:
    size *= 2
  num_blocks = num_rows // size + num_tasks
  counts = jax.ops.segment_sum(
    jnp.ones_like(row_task), row_task, num_tasks, indices_are_sorted=True
  )
  blocks = -(-counts // size)
  block_ends = jnp.cumsum(blocks)
  block_starts, row_starts = block_ends - blocks, jnp.cumsum(counts) - counts
  rank = jnp.arange(num_rows) - row_starts[row_task]
  position = block_starts[row_task] * size + rank
  task = jnp.searchsorted(block_ends, jnp.arange(num_blocks), side="right")
  task = jnp.minimum(task, num_tasks - 1)
  within = (jnp.arange(num_blocks) - block_starts[task]) * size
  rank_in_task = within[:, None] + jnp.arange(size)
  mask = rank_in_task < counts[task][:, None]
  rows = jnp.where(mask, row_starts[task][:, None] + rank_in_task, 0)
  return Blocks(rows=rows, mask=mask, task=task, position=position)


def _uniform(inputs: int) -> hk.initializers.Initializer:
  """PyTorch's default initialisation of a linear layer (weights and biases)."""
  return hk.initializers.RandomUniform(-(inputs**-0.5), inputs**-0.5)


class TaskLinear(hk.Module):
  """Linear layer with one weight (and bias) per task, stacked along axis 0."""

  def __init__(self, channels: int, num_tasks: int, *, bias: bool, name: str):
    super().__init__(name=name)
    self._channels = channels
    self._num_tasks = num_tasks
    self._bias = bias

  def __call__(self, x: jax.Array, task: jax.Array) -> jax.Array:
    """Maps [blocks, size, in] to [blocks, size, channels]; `task` is [blocks]."""
    inputs, tasks = x.shape[-1], self._num_tasks
    init = _uniform(inputs)
    w = layers.get_weight("w", (tasks, inputs, self._channels), x.dtype, init)
    b = None
    if self._bias:
      b = layers.get_weight("b", (tasks, self._channels), x.dtype, init)
    if tasks == 1:
      x = x @ w[0]
      return x if b is None else _add_bias(x, b[0])
    take = functools.partial(indexing.take_rows, index=task, indices_are_sorted=True)
    x = jnp.einsum("bsi,bio->bso", x, take(w))
    return x if b is None else _add_bias(x, take(b)[:, None])


def _add_bias(x: jax.Array, b: jax.Array) -> jax.Array:
  """The sum, whose derivative by `b` is summed over all rows in float32 or wider."""
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return (x.astype(wide) + b.astype(wide)).astype(x.dtype)


class GroupedMLP(hk.Module):
  """Hidden layers with scaled SiLU, then a linear layer without bias."""

  def __init__(
    self,
    num_tasks: int,
    *,
    num_hidden: int = NUM_HIDDEN,
    num_outputs: int = 1,
    bias: bool = True,
    name: str,
  ):
    """Builds the head.

    Args:
      num_tasks: number of weight sets.
      num_hidden: number of hidden layers, each as wide as the input.
      num_outputs: output width.
      bias: whether hidden layers have biases.
      name: name of the module.
    """
    super().__init__(name=name)
    self._num_tasks = num_tasks
    self._num_hidden = num_hidden
    self._num_outputs = num_outputs
    self._bias = bias

  def __call__(self, x: jax.Array, row_task: jax.Array) -> jax.Array:
    """Evaluates each row's own head.

    Args:
      x: [rows, channels].
      row_task: [rows] index of the weight set, ascending.

    Returns:
      [rows, num_outputs] in float32 or wider.
    """
    chex.assert_rank([x, row_task], [2, 1])
    chex.assert_equal_shape_prefix([x, row_task], 1)
    channels = x.shape[-1]
    if self._num_tasks == 1:
      grouped, task, position = x[None], None, None
    else:
      blocks = make_blocks(row_task, self._num_tasks)
      grouped = indexing.take_distinct(x, blocks.rows, blocks.mask)
      task, position = blocks.task, blocks.position
    for i in range(self._num_hidden):
      layer = TaskLinear(channels, self._num_tasks, bias=self._bias, name=f"linear_{i}")
      grouped = layers.scaled_silu(layer(grouped, task))
    last = TaskLinear(
      self._num_outputs,
      self._num_tasks,
      bias=False,
      name=f"linear_{self._num_hidden}",
    )
    y = last(grouped, task)
    y = y.reshape(-1, self._num_outputs)
    if position is not None:
      y = indexing.take_distinct(y, position, indices_are_sorted=True)
    return y.astype(jnp.promote_types(y.dtype, jnp.float32))
