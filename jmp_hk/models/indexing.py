"""Gathers of rows whose derivatives are sums in float32, and deterministic if possible.

The derivative of a gather adds cotangents up. Where rows repeat, they are added in
float32 or wider, also where the rows are bfloat16. Where each row is taken at most once
XLA is told so: nothing is added then, and a GPU writes without atomic operations, whose
order differs from run to run.

Absent entries get indices of their own behind the end, since XLA may do anything if
indices that were said to be unique repeat. What is gathered there is zero.
"""

import chex
import jax
import jax.numpy as jnp


def take_rows(
  x: jax.Array, index: jax.Array, *, indices_are_sorted: bool = False
) -> jax.Array:
  """Rows that may repeat.

  Args:
    x: [rows, …].
    index: […] integers in [0, rows).
    indices_are_sorted: whether they ascend.

  Returns:
    [*index.shape, …].
  """
  x = jnp.asarray(x)
  dtype = x.dtype
  if jnp.issubdtype(dtype, jnp.floating):
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
  taken = x.at[index].get(
    mode="promise_in_bounds",
    indices_are_sorted=indices_are_sorted,
    wrap_negative_indices=False,
  )
  return taken.astype(dtype)


def take_distinct(
  x: jax.Array,
  index: jax.Array,
  present: jax.Array | None = None,
  *,
  indices_are_sorted: bool = False,
) -> jax.Array:
  """Rows none of which is taken twice.

  Args:
    x: [rows, …].
    index: […] integers, distinct and in [0, rows) where present.
    present: bool like `index`; None where all are.
    indices_are_sorted: whether all of them ascend; the absent ones must be last.

  Returns:
    [*index.shape, …], zero where absent.
  """
  if present is not None:
    chex.assert_equal_shape([index, present])
    index = jnp.where(present, index, len(x) + _count_up(index))
  return (
    jnp.asarray(x)
    .at[index]
    .get(
      mode="promise_in_bounds" if present is None else "fill",
      fill_value=None if present is None else 0,
      indices_are_sorted=indices_are_sorted,
      unique_indices=True,
      wrap_negative_indices=False,
    )
  )


def take_table(x: jax.Array, table: jax.Array) -> jax.Array:
  """Rows by a table in which every row occurs at most once.

  Args:
    x: [rows, …].
    table: [N, W] indices of rows, -1 for "nothing there".

  Returns:
    [N, W, …], zero where the table has nothing.
  """
  return take_distinct(x, table, table >= 0)


def take_slots(
  x: jax.Array,
  rows: jax.Array,
  slots: jax.Array,
  present: jax.Array,
  *,
  slot_axis: int = 1,
) -> jax.Array:
  """Entries of a table by row and slot, the inverse of `take_table`.

  Args:
    x: [N, W, …].
    rows: [e] rows of the entries, ascending.
    slots: [e] their slots, ascending within a row.
    present: [e] bool; all that are absent come last.
    slot_axis: which axis of `x` is W.

  Returns:
    [e, …], zero where absent.
  """
  chex.assert_equal_shape([rows, slots, present])
  slots = jnp.where(present, slots, x.shape[slot_axis] + _count_up(slots))
  between = (slice(None),) * (slot_axis - 1)
  return (
    jnp.asarray(x)
    .at[(rows, *between, slots)]
    .get(
      mode="fill",
      fill_value=0,
      indices_are_sorted=True,
      unique_indices=True,
      wrap_negative_indices=False,
    )
  )


def _count_up(index: jax.Array) -> jax.Array:
  """0, 1, 2, … in the shape of `index`."""
  return jnp.arange(index.size, dtype=jnp.asarray(index).dtype).reshape(index.shape)
