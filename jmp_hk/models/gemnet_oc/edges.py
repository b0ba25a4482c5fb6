"""Distances and directions of one edge set, and what angles between edges share."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import jraph

from jmp_hk import pytrees
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import layout
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import bases
from jmp_hk.runtime import compilation


@pytrees.dataclass
class Edges:
  """Geometry of one edge set.

  Attributes:
    distances: [e] Å, zero for padding.
    vectors: [e, 3] unit vectors from the sender's image to the receiver, zero for
      padding.
    mask: [e] bool, true for real edges.
    weights: [e] factors of everything that an edge contributes, see `truncation`; None
      where all are one.
  """

  distances: jax.Array
  vectors: jax.Array
  mask: jax.Array
  weights: jax.Array | None = None


def safe_norm(x: jax.Array, floor: float = 0.0) -> jax.Array:
  """Euclidean norm over the last axis with a zero gradient at (or below) `floor`."""
  squares = (x * x).sum(-1)
  positive = squares > floor**2
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def gather_rows(x: jax.Array, index: jax.Array) -> jax.Array:
  """Rows of `x` that may repeat, where the index -1 ("nothing there") gives row zero.

  The caller masks: table entries without an edge carry zero weights.
  """
  return indexing.take_rows(x, jnp.maximum(index, 0))


def compute_edges(batch: batch_lib.Batch, graph: jraph.GraphsTuple) -> Edges:
  """Distances and unit vectors of one edge set."""
  senders, receivers, offsets = layout.ends(graph)
  chex.assert_equal_shape([senders, receivers])
  chex.assert_shape(offsets, (*senders.shape, 3))
  take_sorted = functools.partial(indexing.take_rows, indices_are_sorted=True)
  cell = take_sorted(batch.cell, batch.node_graph[receivers])
  shift = jnp.einsum("ei,eij->ej", offsets.astype(cell.dtype), cell)
  mask = batch.atom_mask[receivers]
  ends = take_sorted(batch.positions, receivers)
  vectors = ends - indexing.take_rows(batch.positions, senders) - shift
  vectors = jnp.where(mask[:, None], vectors, 0)
  distances = safe_norm(vectors)
  nonzero = distances > 0
  vectors = vectors / jnp.where(nonzero, distances, 1)[:, None]
  return Edges(distances=distances, vectors=vectors, mask=mask)


def places(
  batch: batch_lib.Batch, graph: jraph.GraphsTuple, table: jax.Array
) -> indexing.Places:
  """Where the edges of a set stand in the table of their receivers.

  Args:
    batch: packed structures.
    graph: the edge set, sorted by receivers.
    table: [N, W] its edges into each atom, in their order, -1 for "nothing there".
  """
  receivers = layout.ends(graph).receivers
  count = jnp.arange(len(receivers), dtype=table.dtype)
  slots = count - table[receivers, 0] if table.shape[1] else count
  return indexing.Places(table, receivers, slots, batch.atom_mask[receivers])


def align_tables(batch: batch_lib.Batch, dtype: jnp.dtype) -> batch_lib.Batch:
  """The batch with tables of main edges whose width is a multiple of eight.

  On a GPU bfloat16 products want such sizes. XLA would bring them about with a copy of
  all operands of each product.

  Args:
    batch: packed structures.
    dtype: data type of the messages.
  """
  graphs = batch.graphs
  missing = -graphs.main_table.shape[1] % 8
  if compilation.targets_cpu() or dtype.itemsize > 2 or not missing:
    return batch
  widen = lambda table, *rest: jnp.pad(
    table, ((0, 0), (0, missing), *rest), constant_values=-1
  )
  graphs = dataclasses.replace(
    graphs,
    main_table=widen(graphs.main_table),
    quad_exclusion=widen(graphs.quad_exclusion, (0, 0)),
  )
  return dataclasses.replace(batch, graphs=graphs)


def same_sources(
  first: jraph.GraphsTuple,
  first_table: jax.Array,
  second: jraph.GraphsTuple,
  second_table: jax.Array,
) -> jax.Array:
  """Whether edges into an atom start at the same image of the same atom.

  Args:
    first: an edge set.
    first_table: [N, I] its edges into each atom, -1 for "nothing there".
    second: another edge set.
    second_table: [N, J] likewise.

  Returns:
    [N, I, J] bool; anything where a table has no edge.
  """
  one, other = layout.ends(first), layout.ends(second)
  senders = gather_rows(one.senders, first_table)[:, :, None]
  offsets = gather_rows(one.cell_offsets, first_table)[:, :, None]
  other_senders = gather_rows(other.senders, second_table)[:, None, :]
  other_offsets = gather_rows(other.cell_offsets, second_table)[:, None, :]
  return (senders == other_senders) & (offsets == other_offsets).all(-1)


def masked_legendre(
  cosines: jax.Array, mask: jax.Array, num_spherical: int, axis: int
) -> jax.Array:
  """Y_l of cosines with l along a new axis, zero where masked."""
  values = bases.legendre(
    jnp.where(mask, bases.clip_cosine(cosines), 0), num_spherical, axis
  )
  return jnp.where(jnp.expand_dims(mask, axis), values, 0)
