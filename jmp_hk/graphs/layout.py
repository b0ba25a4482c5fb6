"""Where atoms and edges of several structures lie in a padded batch."""

from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import jax
import jraph
import numpy as np
import numpy.typing as npt

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import neighbors


class Ends(NamedTuple):
  """What the edges of a `GraphsTuple` join.

  Attributes:
    senders: [e] atoms that edges start at.
    receivers: [e] atoms that edges point to.
    cell_offsets: [e, 3] cells by which the senders are moved.
  """

  senders: jax.Array
  receivers: jax.Array
  cell_offsets: jax.Array


def ends(graph: jraph.GraphsTuple) -> Ends:
  """The ends of the edges that `Layout.edges` packed.

  Args:
    graph: an edge set; jraph's types allow that it has no edges at all, ours have.
  """
  edges: Any = graph.edges
  senders: Any = graph.senders
  receivers: Any = graph.receivers
  return Ends(senders, receivers, edges["cell_offsets"])


class Layout:
  """Where the atoms of each structure lie in the batch.

  Attributes:
    budget: static sizes of the batch.
    num_atoms: number of real atoms.
    first_atom: [structures] int32, first atom of each real structure.
    n_node: [G] int32, jraph's convention for padding.
    dtype: data type of lengths.
  """

  def __init__(
    self,
    num_atoms: Sequence[int],
    budget: budget_lib.Budget,
    dtype: npt.DTypeLike = np.float32,
  ):
    """Lays structures out one after another.

    Args:
      num_atoms: number of atoms of each structure.
      budget: static sizes of the batch.
      dtype: data type of lengths.
    """
    self.budget = budget
    self.dtype = dtype
    counts = np.array(num_atoms, np.int32)
    self.num_atoms = int(counts.sum())
    self.first_atom = neighbors.first_in_row(counts).astype(np.int32)
    self.n_node = _padded_counts(counts, budget.num_graphs, budget.num_atoms)

  def pad(
    self,
    parts: Sequence[np.ndarray],
    size: int,
    dtype: npt.DTypeLike,
    shape: tuple[int, ...] = (),
  ) -> np.ndarray:
    """Concatenates and fills up with zeros to [size, *shape]."""
    result = np.zeros((size, *shape), dtype)
    if parts:
      used = result[: sum(map(len, parts))]
      np.concatenate(parts, out=used, casting="unsafe")
    return result

  def atoms(
    self,
    parts: Sequence[np.ndarray],
    dtype: npt.DTypeLike,
    shape: tuple[int, ...] = (),
  ) -> np.ndarray:
    """Concatenates values of atoms and fills up with zeros to [N, *shape]."""
    return self.pad(parts, self.budget.num_atoms, dtype, shape)

  def edges(self, parts: Sequence[neighbors.EdgeSet], size: int) -> jraph.GraphsTuple:
    """One edge set; padding edges join the first padding atom with itself."""
    counts = np.array([len(part) for part in parts], np.int32)
    shift = np.repeat(self.first_atom, counts)
    senders = self.pad([part.senders for part in parts], size, np.int32)
    receivers = self.pad([part.receivers for part in parts], size, np.int32)
    for ends_of in (senders, receivers):
      ends_of[: len(shift)] += shift
      ends_of[len(shift) :] = self.num_atoms
    offsets = self.pad([part.offsets for part in parts], size, np.int32, (3,))
    make: Any = jraph.GraphsTuple  # Its fields are declared as jax arrays.
    return make(
      nodes=None,
      edges={"cell_offsets": offsets},
      receivers=receivers,
      senders=senders,
      globals=None,
      n_node=self.n_node,
      n_edge=_padded_counts(counts, self.budget.num_graphs, size),
    )

  def _real_receivers(self, edges: jraph.GraphsTuple) -> np.ndarray:
    """Receivers of the edges that are no padding."""
    receivers = np.asarray(ends(edges).receivers)
    return receivers[: np.searchsorted(receivers, self.num_atoms)]

  def slots(self, edges: jraph.GraphsTuple) -> np.ndarray:
    """[e] int32 slot of each edge in its receiver's table row, zero for padding."""
    slots = np.zeros(len(ends(edges).receivers), np.int32)
    real = self._real_receivers(edges)
    slots[: len(real)] = ragged_index(real, self.budget.num_atoms)
    return slots

  def table(self, edges: jraph.GraphsTuple, width: int) -> np.ndarray:
    """[N, width] int32 ids of the edges into each atom."""
    real = self._real_receivers(edges)
    return ragged_table(
      real, np.arange(len(real), dtype=np.int32), (self.budget.num_atoms, width)
    )


def ragged_index(receivers: np.ndarray, num_atoms: int) -> np.ndarray:
  """Index of each edge among those into the same atom; receivers are sorted."""
  starts = neighbors.row_starts(receivers, num_atoms)
  return np.arange(len(receivers)) - starts.take(receivers)


def ragged_table(
  receivers: np.ndarray, values: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
  """[atoms, width] values of the edges into each atom, -1 where there are no more.

  Args:
    receivers: [e] atoms that edges point to, ascending.
    values: [e] values of the edges.
    shape: number of atoms, and of the values that any of them may have.
  """
  num_atoms, width = shape
  starts = neighbors.row_starts(receivers, num_atoms)
  table = np.full(shape, -1, values.dtype)
  # Rows are filled from the left, so what is filled is in the order of the edges.
  table[np.arange(width) < (starts[1:] - starts[:-1])[:, None]] = values
  return table


def _padded_counts(counts: np.ndarray, length: int, size: int) -> np.ndarray:
  """Counts per structure; the first padding structure owns what is left."""
  result = np.zeros(length, np.int32)
  result[: len(counts)] = counts
  result[len(counts)] = size - counts.sum()
  return result
