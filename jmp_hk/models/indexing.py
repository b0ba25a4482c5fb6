"""Gathers of rows whose derivatives are sums in float32, and deterministic if possible.

The derivative of a gather adds cotangents up. Where rows repeat, they are added in
float32 or wider, also where the rows are bfloat16. Where each row is taken at most once
XLA is told so: nothing is added then, and a GPU writes without atomic operations, whose
order differs from run to run.

Absent entries get indices of their own behind the end, since XLA may do anything if
indices that were said to be unique repeat. What is gathered there is zero.
"""

import functools
from typing import NamedTuple

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


class Places(NamedTuple):
  """Where the edges of a set stand in the table of their receivers.

  Sizes: e edges, N atoms, W width of the table.

  Attributes:
    table: [N, W] int32 edges by receiver and slot, -1 for "nothing there".
    rows: [e] int32 receivers, ascending.
    slots: [e] int32 slots, ascending within a row.
    present: [e] bool, edges that are in the table; all others come last.
  """

  table: jax.Array
  rows: jax.Array
  slots: jax.Array
  present: jax.Array


def to_table(x: jax.Array, places: Places, slot_axis: int = 1) -> jax.Array:
  """What edges hold, in the table of their receivers.

  Its derivative is `from_table` and the other way round: both are gathers, also where a
  program is differentiated twice, and nothing is added to arrays of zeros.

  Args:
    x: [e, …].
    places: where the edges stand.
    slot_axis: which axis of the result is W; those before it are the first of `x`.

  Returns:
    [N, W, …] for slot axis one, zero where the table has nothing.
  """
  return _to_table(x, places, slot_axis)


def from_table(x: jax.Array, places: Places, slot_axis: int = 1) -> jax.Array:
  """What a table holds for each edge, the inverse of `to_table`.

  Args:
    x: [N, W, …].
    places: where the edges stand.
    slot_axis: which axis of `x` is W.

  Returns:
    [e, …], zero for edges that are not in the table.
  """
  return _from_table(x, places, slot_axis)


def swap_rows(x: jax.Array, partner: jax.Array) -> jax.Array:
  """Rows in another order, which restores the first if it is applied again.

  Args:
    x: [rows, …].
    partner: [rows] integers, a permutation that is its own inverse.

  Returns:
    As `x`. The derivative is the same gather.
  """
  return _swap_rows(x, partner)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _to_table(x, places, slot_axis):
  return jnp.moveaxis(take_table(x, places.table), 1, slot_axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _from_table(x, places, slot_axis):
  rows, slots, present = places[1:]
  return take_slots(x, rows, slots, present, slot_axis=slot_axis)


@jax.custom_vjp
def _swap_rows(x, partner):
  return take_distinct(x, partner)


_to_table.defvjp(
  lambda x, places, axis: (to_table(x, places, axis), places),
  lambda axis, places, y: (from_table(y, places, axis), None),
)
_from_table.defvjp(
  lambda x, places, axis: (from_table(x, places, axis), places),
  lambda axis, places, y: (to_table(y, places, axis), None),
)
_swap_rows.defvjp(
  lambda x, partner: (swap_rows(x, partner), partner),
  lambda partner, y: (swap_rows(y, partner), None),
)


def _count_up(index: jax.Array) -> jax.Array:
  """0, 1, 2, … in the shape of `index`."""
  return jnp.arange(index.size, dtype=jnp.asarray(index).dtype).reshape(index.shape)
