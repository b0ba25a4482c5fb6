"""The nearest neighbors of every atom, and the order in which a cap takes them.

Neighbors of an atom are sorted by distance; those whose consecutive distances differ
by less than `TIE_TOLERANCE` count as equally far and are ordered by source index, then
by offset between wrapped atoms. So the order does not depend on rounding.
"""

from typing import NamedTuple

import numpy as np

from jmp_hk.graphs import neighbors

TIE_TOLERANCE = 1e-4  # Å
SHELL_TOLERANCE = 1e-3  # Å; a larger gap between neighbors divides two shells.


class Nearest(NamedTuple):
  """The nearest edges into every atom.

  Attributes:
    edges: the edges, sorted by receiver and then by nearness.
    rank: [e] position of each among the edges into its receiver, from zero.
    codes: [e] their `offset_codes`.
    bound: sums and differences of two codes lie in [-bound, bound].
  """

  edges: neighbors.EdgeSet
  rank: np.ndarray
  codes: np.ndarray
  bound: int


def nearest(edges: neighbors.EdgeSet, count: int, home: np.ndarray) -> Nearest:
  """The `count` nearest edges into every atom, in the documented order.

  Args:
    edges: edges with distances, sorted by receiver.
    count: how many to keep per receiver.
    home: [n, 3] from `home_cells`.

  Returns:
    The edges and what their order says of them.
  """
  if count <= 0 or not len(edges):
    none = np.zeros(0, np.intp)
    return Nearest(edges.take(none), none, none, 0)
  starts = neighbors.row_starts(edges.receivers, len(home))
  degree = starts[1:] - starts[:-1]
  too_many = degree.max() > count
  if too_many:
    edges = edges.take(_candidates(edges, count, degree))
    starts = neighbors.row_starts(edges.receivers, len(home))
  codes, bound = offset_codes(edges, home)
  # Only the order of the edges into an atom changes, not where they begin.
  receivers, distances = edges.receivers, edges.distances
  order = (receivers * (4.0 * distances.max()) + distances).argsort()
  distances = distances.take(order)
  as_far = distances[1:] - distances[:-1] < TIE_TOLERANCE
  as_far &= receivers[1:] == receivers[:-1]
  if as_far.any():
    stride = 2 * bound + 1
    key = edges.senders * stride + codes if bound else edges.senders
    _order_ties(order, as_far, key, len(home) * stride)
  rank = np.arange(len(order)) - starts.take(receivers)
  if too_many:
    keep = (rank < count).nonzero()[0]
    order, rank = order.take(keep), rank.take(keep)
  return Nearest(edges.take(order), rank, codes.take(order), bound)


def shell_bounds(edges: neighbors.EdgeSet, rank: np.ndarray) -> np.ndarray:
  """Where the shell of equally distant neighbors begins and ends that an edge is in.

  Args:
    edges: edges with distances, sorted by receiver and distance.
    rank: [e] position of each among the edges into its receiver.

  Returns:
    [2, e] ranks of the first edge of the shell, and of the first one behind it.
  """
  gap = edges.distances[1:] - edges.distances[:-1] >= SHELL_TOLERANCE
  new = np.ones(len(edges), bool)
  new[1:] = gap | (edges.receivers[1:] != edges.receivers[:-1])
  shell = new.cumsum() - 1
  first = rank[new]
  return np.stack([first[shell], (first + np.bincount(shell))[shell]])


def whole_shells(bounds: np.ndarray, count: int) -> np.ndarray:
  """[e] whether an edge is among the whole shells nearest to `count` neighbors.

  The shell that crosses the count is taken if that comes nearer to it than leaving it,
  and so is the first shell unless the count is zero.

  Args:
    bounds: [2, e] from `shell_bounds`.
    count: wanted number of neighbors.
  """
  first, end = bounds
  return (end <= count) | (
    (first < count) & ((first == 0) | (first + end <= 2 * count))
  )


def _candidates(edges: neighbors.EdgeSet, count: int, degree: np.ndarray) -> np.ndarray:
  """Indices of the `count` nearest and of all that tie with the last of them."""
  width = degree.max()
  table = np.full((len(degree), width + 1), np.inf)
  table[np.arange(width + 1) < degree[:, None]] = edges.distances
  table.sort(axis=1)
  with np.errstate(invalid="ignore"):  # inf - inf, beyond the end of a row
    tied = table[:, count:] - table[:, count - 1 : -1] < TIE_TOLERANCE
  last = count - 1 + np.argmin(tied, axis=1)
  threshold = table[np.arange(len(degree)), last]
  return np.flatnonzero(edges.distances <= threshold.repeat(degree))


def _order_ties(
  order: np.ndarray, as_far: np.ndarray, key: np.ndarray, bound: int
) -> None:
  """Orders edges that are equally far by source, then by offset.

  Args:
    order: [e] numbers of the edges by receiver and distance; changed in place.
    as_far: [e - 1] whether an edge ties with the next one in this order.
    key: [e] the source and the offset of each edge as one number, by its own number.
    bound: keys differ by less than this.
  """
  tied = np.zeros(len(order), bool)
  tied[1:] = as_far
  new_group = ~tied
  tied[:-1] |= as_far
  place = tied.nonzero()[0]
  group = new_group.take(place).cumsum()
  # One 64-bit number sorts faster than several keys one after another.
  edges = order.take(place)
  order[place] = edges.take((group * bound + key.take(edges)).argsort())


def offset_codes(edges: neighbors.EdgeSet, home: np.ndarray) -> tuple[np.ndarray, int]:
  """Writes offsets between wrapped atoms as one integer each.

  The code is linear: sums and differences of two offsets have the sum and difference
  of their codes, and differ in code where they differ. It grows with the offset in
  lexicographic order for a given pair of atoms.

  Args:
    edges: edges, at least one.
    home: [n, 3] from `home_cells`.

  Returns:
    [e] codes and a bound: sums and differences of two codes lie in [-bound, bound].
  """
  wrapped = not home.any()
  if wrapped and not edges.offsets.any():
    return np.zeros(len(edges), np.intp), 0
  # One row per direction: NumPy reduces long rows many times faster than short ones.
  offsets = np.ascontiguousarray(edges.offsets.T, np.intp)
  if not wrapped:
    cells = np.ascontiguousarray(home.T, np.intp)
    offsets += cells.take(edges.senders, axis=1)
    offsets -= cells.take(edges.receivers, axis=1)
  reach = np.abs(offsets).max(axis=1)
  base = 4 * reach + 1
  weights = np.array([base[1] * base[2], base[2], 1])
  return weights @ offsets, int(2 * reach @ weights)
