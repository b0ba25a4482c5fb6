"""All neighbors within a cutoff.

Edges follow the convention of the published graphs: an edge s→t with offset o has
the vector r_t - r_s - o @ cell, so the offset moves the *source* image. Distances
are always computed in float64 from the positions given, so a graph does not depend
on the precision that the model computes in.

A distance within `CUTOFF_TOLERANCE` of the cutoff counts as equal to it, which is
inside for periodic structures (d <= cutoff) and outside for others (d < cutoff). With
`nearest.TIE_TOLERANCE` it makes graphs independent of rounding, i.e. of float32 against
float64 storage, of atoms moved by lattice vectors and of the search itself.
"""

import dataclasses

import numpy as np
import vesin

from jmp_hk import geometry
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import pairs as pairs_lib

CUTOFF_TOLERANCE = 1e-6  # Å
MIN_DISTANCE = geometry.MIN_DISTANCE  # Å; closer pairs are no edges.


_NO_DISTANCES = np.zeros(0)


# Not frozen, which takes four times as long to make; graphs of a molecule have eight.
@dataclasses.dataclass(slots=True)
class EdgeSet:
  """Directed edges sorted by receiver; a value that nobody changes.

  Attributes:
    senders: [e] integer source atoms.
    receivers: [e] integer target atoms, ascending.
    offsets: [e, 3] integer, cells by which the source is moved.
    distances: [e] float64 Å; empty where they are not needed any more.
  """

  senders: np.ndarray
  receivers: np.ndarray
  offsets: np.ndarray
  distances: np.ndarray = dataclasses.field(default_factory=lambda: _NO_DISTANCES)

  def __len__(self) -> int:
    return len(self.senders)

  def take(self, index: np.ndarray) -> "EdgeSet":
    """Edges at `index` (integers, or a [e] mask)."""
    if index.dtype.kind == "b":
      index = index.nonzero()[0]
      if len(index) == len(self):
        return self
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
    All edges, both directions of each, sorted by receiver, with distances. Those of
    structures of a few hundred atoms are also sorted by sender and then by offset.

  Raises:
    InvalidStructureError: positions or cell are not finite, the lattice vectors of
      the periodic directions are linearly dependent, or the search would not end.
  """
  pairs = find_pairs(structure, cutoff)
  limit = edge_limit(structure, cutoff)
  if pairs is None:
    edges = _search_cells(structure, cutoff, limit)
  else:
    edges = EdgeSet(*pairs.within(limit))
  if not len(edges) or edges.distances.min() > MIN_DISTANCE:
    return edges
  return edges.take(edges.distances > MIN_DISTANCE)


def edge_limit(structure: structure_lib.Structure, cutoff: float) -> float:
  """The largest distance of an edge in Å, see above."""
  tolerance = CUTOFF_TOLERANCE if structure.is_periodic else -CUTOFF_TOLERANCE
  return cutoff + tolerance


def find_pairs(
  structure: structure_lib.Structure, cutoff: float
) -> pairs_lib.Pairs | None:
  """All pairs of atoms that may be edges, or None where there are too many.

  Args:
    structure: see `find_neighbors`.
    cutoff: Å.

  Raises:
    InvalidStructureError: see `find_neighbors`.
  """
  positions, cell, pbc = _geometry(structure)
  _check(structure, positions, cell, pbc, cutoff)
  return pairs_lib.find(positions, cell, pbc, cutoff + 2 * CUTOFF_TOLERANCE)


def _geometry(
  structure: structure_lib.Structure,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Positions, cell and periodic directions in float64."""
  return (
    np.ascontiguousarray(structure.positions, dtype=np.float64),
    np.ascontiguousarray(structure.cell, dtype=np.float64),
    np.asarray(structure.pbc, dtype=bool),
  )


def _search_cells(
  structure: structure_lib.Structure, cutoff: float, limit: float
) -> EdgeSet:
  """Finds edges with cell lists, in a time that is linear in the number of atoms."""
  search = vesin.NeighborList(
    cutoff=cutoff + 2 * CUTOFF_TOLERANCE, full_list=True, sorted=True, n_threads=1
  )
  found, offsets, distances = search.compute(*_geometry(structure), "PSd", copy=False)
  keep = (distances <= limit).nonzero()[0]
  found = found.take(keep, axis=0)
  return EdgeSet(
    senders=found[:, 1].astype(np.intp),
    receivers=found[:, 0].astype(np.intp),
    offsets=offsets.take(keep, axis=0),
    distances=distances.take(keep),
  )


def _check(
  structure: structure_lib.Structure,
  positions: np.ndarray,
  cell: np.ndarray,
  pbc: np.ndarray,
  cutoff: float,
) -> None:
  """Raises for geometry that no search can answer, or not in a bounded time."""
  name = structure.record_id or "structure"
  if not np.isfinite(positions).all():
    raise structure_lib.InvalidStructureError(f"{name}: positions are not finite.")
  if structure.is_periodic:
    if not np.isfinite(cell).all():
      raise structure_lib.InvalidStructureError(f"{name}: the cell is not finite.")
    vectors = cell[pbc]
    volume_squared = np.linalg.det(vectors @ vectors.T)
    if volume_squared <= 1e-12:
      raise structure_lib.InvalidStructureError(
        f"{name}: the lattice vectors of its periodic directions {pbc.tolist()} span "
        f"no volume: {vectors.tolist()}."
      )
  if not len(positions):
    return
  if problem := geometry.find_problem(positions, cell, pbc, cutoff):
    raise structure_lib.InvalidStructureError(f"{name}: {problem}.")


def home_cells(structure: structure_lib.Structure) -> np.ndarray:
  """Cell that each atom lies in, by which offsets become small numbers.

  An edge s→t with offset o has the offset o + home[s] - home[t] once all atoms are
  wrapped into the cell.

  Args:
    structure: any structure that `find_neighbors` accepts.

  Returns:
    [n, 3] int32, zero along directions that are not periodic.
  """
  if not structure.is_periodic:
    return np.zeros((structure.num_atoms, 3), np.int32)
  pbc = np.asarray(structure.pbc, dtype=bool)
  basis = pairs_lib.basis(np.asarray(structure.cell, np.float64), pbc)
  fractions = np.asarray(structure.positions, np.float64) @ np.linalg.inv(basis)
  home = np.floor(fractions).astype(np.int32)
  home[:, ~pbc] = 0
  return home


def row_starts(rows: np.ndarray, num_rows: int) -> np.ndarray:
  """[num_rows + 1] where each row begins and ends among ascending row numbers."""
  # Of equal types, so that the rows need no conversion.
  dtype = rows.dtype if rows.itemsize >= 4 else np.intp
  return rows.searchsorted(np.arange(num_rows + 1, dtype=dtype))


def distance_table(edges: EdgeSet, num_atoms: int) -> np.ndarray:
  """[num_atoms, most neighbors] ascending distances that inf fills up.

  Args:
    edges: edges with distances, sorted by receiver.
    num_atoms: number of atoms of the structure.
  """
  starts = row_starts(edges.receivers, num_atoms)
  degree = starts[1:] - starts[:-1]
  width = int(degree.max(initial=0))
  table = np.full((num_atoms, width), np.inf)
  table[np.arange(width) < degree[:, None]] = edges.distances
  table.sort(axis=1)
  return table


def first_in_row(counts: np.ndarray) -> np.ndarray:
  """Index of the first entry of each row of a ragged array with `counts` entries."""
  return np.cumsum(counts) - counts
