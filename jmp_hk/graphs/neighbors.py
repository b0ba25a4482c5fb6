"""All neighbors within a cutoff and the order in which a cap takes them.

Edges follow the convention of the published graphs: an edge s→t with offset o has
the vector r_t - r_s - o @ cell, so the offset moves the *source* image. Distances
are always computed in float64 from the positions given, so a graph does not depend
on the precision that the model computes in.

Two tolerances make graphs independent of rounding, i.e. of float32 against float64
storage, of atoms moved by lattice vectors and of the search itself:

* `TIE_TOLERANCE`: neighbors of an atom are sorted by distance; those whose
  consecutive distances differ by less count as equally far and are ordered by source
  index, then by offset.
* `CUTOFF_TOLERANCE`: a distance this close to the cutoff counts as equal to it, which
  is inside for periodic structures (d <= cutoff) and outside for others (d < cutoff).
"""

import dataclasses

import numpy as np
import vesin

from jmp_hk import structure as structure_lib

TIE_TOLERANCE = 1e-4  # Å
CUTOFF_TOLERANCE = 1e-6  # Å
MIN_DISTANCE = 1e-2  # Å; closer pairs have no direction and are no edges.


@dataclasses.dataclass(frozen=True)
class EdgeSet:
  """Directed edges sorted by receiver.

  Attributes:
    senders: [e] integer source atoms.
    receivers: [e] integer target atoms, ascending.
    offsets: [e, 3] integer, cells by which the source is moved.
    distances: [e] float64 Å; empty where they are not needed any more.
  """

  senders: np.ndarray
  receivers: np.ndarray
  offsets: np.ndarray
  distances: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

  def __len__(self) -> int:
    return len(self.senders)

  def take(self, index: np.ndarray) -> "EdgeSet":
    """Edges at `index` (integers, or a [e] mask)."""
    if index.dtype == bool:
      index = np.flatnonzero(index)
    return EdgeSet(
      senders=self.senders.take(index),
      receivers=self.receivers.take(index),
      offsets=self.offsets.take(index, axis=0),
      distances=self.distances.take(index) if len(self.distances) else self.distances,
    )


def find_neighbors(structure: structure_lib.Structure, cutoff: float) -> EdgeSet:
  """Finds every edge within the cutoff, in any image, from any positions.

  Args:
    structure: positions need not lie inside the cell; directions that are not
      periodic may have zero lattice vectors.
    cutoff: Å.

  Returns:
    All edges, both directions of each, sorted by receiver, with distances.

  Raises:
    InvalidStructureError: positions or cell are not finite, or the lattice vectors
      of the periodic directions are linearly dependent.
  """
  positions = np.ascontiguousarray(structure.positions, dtype=np.float64)
  cell = np.ascontiguousarray(structure.cell, dtype=np.float64)
  pbc = np.asarray(structure.pbc, dtype=bool)
  periodic = bool(pbc.any())
  _check(structure, positions, cell, pbc)
  search = vesin.NeighborList(
    cutoff=cutoff + 2 * CUTOFF_TOLERANCE, full_list=True, sorted=True, n_threads=1
  )
  pairs, shifts, distances = search.compute(positions, cell, pbc, "PSd", copy=False)
  limit = cutoff + CUTOFF_TOLERANCE if periodic else cutoff - CUTOFF_TOLERANCE
  keep = (distances <= limit) & (distances > MIN_DISTANCE)
  index = np.flatnonzero(keep)
  pairs = pairs.take(index, axis=0).astype(np.int32)
  return EdgeSet(
    senders=pairs[:, 1].copy(),
    receivers=pairs[:, 0].copy(),
    offsets=shifts.take(index, axis=0),
    distances=distances.take(index),
  )


def _check(
  structure: structure_lib.Structure,
  positions: np.ndarray,
  cell: np.ndarray,
  pbc: np.ndarray,
) -> None:
  """Raises for geometry that no search can answer."""
  name = structure.record_id or "structure"
  if not np.isfinite(positions).all():
    raise structure_lib.InvalidStructureError(f"{name}: positions are not finite.")
  if not pbc.any():
    return
  if not np.isfinite(cell).all():
    raise structure_lib.InvalidStructureError(f"{name}: the cell is not finite.")
  vectors = cell[pbc]
  volume_squared = np.linalg.det(vectors @ vectors.T)
  if volume_squared <= 1e-12:
    raise structure_lib.InvalidStructureError(
      f"{name}: the lattice vectors of its periodic directions {pbc.tolist()} span "
      f"no volume: {vectors.tolist()}."
    )


def home_cells(structure: structure_lib.Structure) -> np.ndarray:
  """Cell that each atom lies in, by which offsets become small numbers.

  An edge s→t with offset o has the offset o + home[s] - home[t] once all atoms are
  wrapped into the cell.

  Args:
    structure: any structure that `find_neighbors` accepts.

  Returns:
    [n, 3] int32, zero along directions that are not periodic.
  """
  pbc = np.asarray(structure.pbc, dtype=bool)
  if not pbc.any():
    return np.zeros((structure.num_atoms, 3), np.int32)
  cell = np.array(structure.cell, dtype=np.float64)
  if not pbc.all():
    # Complete the periodic vectors to a basis by vectors perpendicular to them.
    cell[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
  fractions = np.asarray(structure.positions, np.float64) @ np.linalg.inv(cell)
  home = np.floor(fractions).astype(np.int32)
  home[:, ~pbc] = 0
  return home


def first_in_row(counts: np.ndarray) -> np.ndarray:
  """Index of the first entry of each row of a ragged array with `counts` entries."""
  return np.cumsum(counts) - counts


def nearest(edges: EdgeSet, count: int, home: np.ndarray) -> tuple[EdgeSet, np.ndarray]:
  """The `count` nearest edges into every atom, in the documented order.

  Args:
    edges: edges with distances, sorted by receiver.
    count: how many to keep per receiver.
    home: [n, 3] from `home_cells`.

  Returns:
    The edges, sorted by receiver and then by nearness, and the rank [e] of each among
    the edges into its receiver, from zero.
  """
  if count <= 0 or not len(edges):
    return edges.take(np.zeros(0, np.int64)), np.zeros(0, np.int64)
  edges = edges.take(_candidates(edges, count, len(home)))
  span = 4.0 * edges.distances.max()
  edges = edges.take(np.argsort(edges.receivers * span + edges.distances))
  new_group = np.empty(len(edges), bool)
  new_group[0] = True
  new_group[1:] = (np.diff(edges.distances) >= TIE_TOLERANCE) | (
    edges.receivers[1:] != edges.receivers[:-1]
  )
  if not new_group.all():
    edges = edges.take(_order_ties(edges, np.cumsum(new_group), home))
  degree = np.bincount(edges.receivers, minlength=len(home))
  rank = np.arange(len(edges)) - first_in_row(degree).take(edges.receivers)
  if degree.max() <= count:
    return edges, rank
  keep = np.flatnonzero(rank < count)
  return edges.take(keep), rank.take(keep)


def _candidates(edges: EdgeSet, count: int, num_atoms: int) -> np.ndarray:
  """Indices of the `count` nearest and of all that tie with the last of them."""
  degree = np.bincount(edges.receivers, minlength=num_atoms)
  width = degree.max()
  if width <= count:
    return np.arange(len(edges))
  column = np.arange(len(edges)) - first_in_row(degree).take(edges.receivers)
  table = np.full((num_atoms, width + 1), np.inf)
  table[edges.receivers, column] = edges.distances
  table.sort(axis=1)
  with np.errstate(invalid="ignore"):  # inf - inf, beyond the end of a row
    tied = np.diff(table[:, count - 1 :], axis=1) < TIE_TOLERANCE
  last = count - 1 + np.argmin(tied, axis=1)
  threshold = table[np.arange(num_atoms), last]
  return np.flatnonzero(edges.distances <= threshold.take(edges.receivers))


def _order_ties(edges: EdgeSet, group: np.ndarray, home: np.ndarray) -> np.ndarray:
  """Order by group, then source, then offset."""
  codes, _ = offset_codes(edges, home)
  return np.lexsort((codes, edges.senders, group))


def offset_codes(edges: EdgeSet, home: np.ndarray) -> tuple[np.ndarray, int]:
  """Writes offsets between wrapped atoms as one integer each.

  The code is linear: sums and differences of two offsets have the sum and difference
  of their codes, and differ in code where they differ. It grows with the offset in
  lexicographic order for a given pair of atoms.

  Args:
    edges: edges, at least one.
    home: [n, 3] from `home_cells`.

  Returns:
    [e] int32 codes and a bound: sums and differences of two codes lie in
    [-bound, bound].
  """
  offsets = edges.offsets + home.take(edges.senders, axis=0)
  offsets -= home.take(edges.receivers, axis=0)
  reach = np.abs(offsets).max(axis=0)
  base = 4 * reach + 1
  weights = np.array([base[1] * base[2], base[2], 1])
  return offsets @ weights.astype(offsets.dtype), int(2 * reach @ weights)
