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
  """

  def __init__(self, num_atoms: Sequence[int], budget: budget_lib.Budget):
    """Lays structures out one after another.

    Args:
      num_atoms: number of atoms of each structure.
      budget: static sizes of the batch.
    """
    self.budget = budget
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
      joined = np.concatenate(parts)
      result[: len(joined)] = joined
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
    shift = np.full(size, self.num_atoms, np.int32)
    shift[: counts.sum()] = np.repeat(self.first_atom, counts)
    senders = self.pad([part.senders for part in parts], size, np.int32)
    receivers = self.pad([part.receivers for part in parts], size, np.int32)
    offsets = self.pad([part.offsets for part in parts], size, np.int32, (3,))
    make: Any = jraph.GraphsTuple  # Its fields are declared as jax arrays.
    return make(
      nodes=None,
      edges={"cell_offsets": offsets},
      receivers=receivers + shift,
      senders=senders + shift,
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
    table = np.full((self.budget.num_atoms, width), -1, np.int32)
    real = self._real_receivers(edges)
    table[real, ragged_index(real, len(table))] = np.arange(len(real))
    return table


def ragged_index(receivers: np.ndarray, num_atoms: int) -> np.ndarray:
  """Index of each edge among those into the same atom; receivers are sorted."""
  counts = np.bincount(receivers, minlength=num_atoms)
  return np.arange(len(receivers)) - neighbors.first_in_row(counts).take(receivers)


def _padded_counts(counts: np.ndarray, length: int, size: int) -> np.ndarray:
  """Counts per structure; the first padding structure owns what is left."""
  result = np.zeros(length, np.int32)
  result[: len(counts)] = counts
  result[len(counts)] = size - counts.sum()
  return result
