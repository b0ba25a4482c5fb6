"""Pairs of atoms that can become neighbors before any atom has moved far.

A neighbor search with the cutoff R + skin finds every pair that is within R as long as
no distance changes by more than the skin. That holds while

    2 max|u| + |F - I| (R + skin) <= skin

with the deformation F of the cell since the search, the displacements u of atoms beyond
it, and the Frobenius norm: a pair that the search left out was farther apart than
R + skin, and still is farther than R.
"""

import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import neighbors

DEFAULT_SKIN = 0.5  # Å


@dataclasses.dataclass(frozen=True)
class Table:
  """Candidates of every atom as rows of equal length, which padding fills up.

  Attributes:
    senders: [n, w] int32; padding has the atom of its row.
    offsets: [3, n, w] int32 cells by which senders are moved; zero for padding.
    mask: [n, w] bool, true for candidates.
  """

  senders: np.ndarray
  offsets: np.ndarray
  mask: np.ndarray


def sort_edges(edges: neighbors.EdgeSet, num_atoms: int) -> neighbors.EdgeSet:
  """Orders edges by receiver, sender and offset, the order in which ties are broken."""
  if not len(edges):
    return edges
  offsets = edges.offsets.astype(np.int64)
  low = offsets.min(axis=0)
  span = offsets.max(axis=0) - low + 1
  key = edges.receivers.astype(np.int64) * num_atoms + edges.senders
  for axis in range(3):
    key = key * span[axis] + (offsets[:, axis] - low[axis])
  return edges.take(key.argsort())


def widest(edges: neighbors.EdgeSet, num_atoms: int) -> int:
  """Largest number of edges into one atom."""
  return int(np.bincount(edges.receivers, minlength=max(num_atoms, 1)).max())


def flat_slots(edges: neighbors.EdgeSet, num_atoms: int, width: int) -> np.ndarray:
  """[e] place of each edge in a flattened table of this width."""
  starts = neighbors.row_starts(edges.receivers, num_atoms)
  slots = np.arange(len(edges)) - starts.take(edges.receivers)
  return edges.receivers * width + slots


def make_table(edges: neighbors.EdgeSet, num_atoms: int, width: int) -> Table:
  """Puts edges that are sorted by receiver into rows of a given width."""
  place = flat_slots(edges, num_atoms, width)
  senders = np.repeat(np.arange(num_atoms, dtype=np.int32), width)
  senders[place] = edges.senders
  offsets = np.zeros((3, num_atoms * width), np.int32)
  offsets[:, place] = edges.offsets.T
  mask = np.zeros(num_atoms * width, bool)
  mask[place] = True
  shape = num_atoms, width
  return Table(senders.reshape(shape), offsets.reshape(3, *shape), mask.reshape(shape))


def motion(
  structure: structure_lib.Structure,
  positions: np.ndarray,
  cell: np.ndarray,
  reach: float,
) -> float:
  """By how much any distance can have changed since candidates were found, in Å.

  Args:
    structure: the structure that they were found for.
    positions: [n, 3] where its atoms are now, Å.
    cell: [3, 3] its cell now, Å.
    reach: distance of the farthest candidates, Å.

  Returns:
    A bound of the change of distances up to `reach`; infinity where a cell that does
    not span the space has changed.
  """
  before = np.asarray(structure.positions, np.float64)
  old = np.asarray(structure.cell, np.float64)
  strain = 0.0
  if not np.array_equal(old, cell):
    if np.linalg.matrix_rank(old) < 3:
      return float("inf")
    deformation = np.linalg.solve(old, np.asarray(cell, np.float64))
    before = before @ deformation
    strain = float(np.linalg.norm(deformation - np.eye(3)))
  moved = np.asarray(positions, np.float64) - before
  farthest = float(np.sqrt((moved * moved).sum(axis=1).max(initial=0.0)))
  bound = 2 * farthest + strain * reach
  return bound if np.isfinite(bound) else float("inf")
