"""All pairs of an atom and an image of an atom, for structures of few atoms.

Up to a few hundred atoms, comparing every atom with every image that can be near it is
several times faster than a search with cell lists.
"""

import numpy as np

_MOST_PAIRS = 600_000  # Beyond, cell lists are faster.
_BLOCK = 8192  # Pairs that are compared at once, so that they stay in the cache.
_ROUNDING = 1e-9  # Cells.


class Pairs:
  """Squared distances between the atoms of a structure and images of them.

  Images that lie farther from every atom than the limit may be missing.

  Attributes:
    senders: [images] the atom that each is an image of, ascending.
    offsets: [images, 3] int32, cells by which it is moved, ascending for an atom.
    squared: [n, images] Å², infinite between an atom and itself.
  """

  def __init__(
    self, senders: np.ndarray, offsets: np.ndarray, squared: np.ndarray
  ) -> None:
    """Takes what `find` has found."""
    self.senders, self.offsets, self.squared = senders, offsets, squared

  def within(
    self, limit: float
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pairs up to a distance, by atom, then by the other atom, then by offset.

    Args:
      limit: Å.

    Returns:
      [e] other atoms, [e] atoms, [e, 3] int32 offsets of the other ones, and [e]
      distances in Å.
    """
    num_atoms, num_images = self.squared.shape
    flat = self.squared.reshape(-1)
    index = (flat <= limit * limit).nonzero()[0]
    distances = np.sqrt(flat.take(index))
    atoms = index // num_images
    index -= atoms * num_images
    if num_atoms == num_images:  # Without offsets each atom has itself as its image.
      return index, atoms, np.zeros((len(index), 3), np.int32), distances
    offsets = self.offsets.take(index, axis=0)
    return self.senders.take(index), atoms, offsets, distances


def find(
  positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, limit: float
) -> Pairs | None:
  """Compares all atoms with all images, or returns None where there are too many.

  Args:
    positions: [n, 3] float64, Å.
    cell: [3, 3] float64, Å.
    pbc: [3] bool.
    limit: distance in Å up to which no pair is missing.
  """
  num_atoms = len(positions)
  places = np.ascontiguousarray(positions.T)
  if not num_atoms or not any(pbc.tolist()):
    if num_atoms * num_atoms > _MOST_PAIRS:
      return None
    senders = itself = np.arange(num_atoms)
    offsets, images = np.zeros((num_atoms, 3), np.int32), places
  else:
    reach = _reach(positions, cell, pbc, limit)
    if num_atoms * np.prod(2.0 * reach + 1) > _MOST_PAIRS:
      return None
    cells = _box(reach.astype(np.int32))
    images = (places[:, :, None] + (cells @ cell).T[:, None, :]).reshape(3, -1)
    near = _inside(images, positions.min(axis=0) - limit, positions.max(axis=0) + limit)
    if num_atoms * len(near) > _MOST_PAIRS:
      return None
    images = images.take(near, axis=1)
    senders, number = np.divmod(near, len(cells))
    offsets = cells.take(number, axis=0)
    home = np.arange(num_atoms) * len(cells) + len(cells) // 2
    itself = near.searchsorted(home)
  squared = _squared_distances(images, places)
  squared.reshape(-1)[itself + np.arange(num_atoms) * squared.shape[1]] = np.inf
  return Pairs(senders, offsets, squared)


def basis(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
  """The periodic vectors, completed to a basis by vectors perpendicular to them."""
  if pbc.all():
    return cell
  result = cell.copy()
  result[~pbc] = np.linalg.svd(cell[pbc])[2][pbc.sum() :]
  return result


def _reach(
  positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, limit: float
) -> np.ndarray:
  """[3] float, largest offset between any atoms that are no farther than the limit."""
  inverse = np.linalg.inv(basis(cell, pbc))
  per_direction = np.sqrt((inverse * inverse).sum(axis=0))  # 1 / height of the cell
  fractions = positions @ inverse
  spread = fractions.max(axis=0) - fractions.min(axis=0)
  return np.floor(limit * per_direction + spread + _ROUNDING) * pbc


def _box(reach: np.ndarray) -> np.ndarray:
  """[cells, 3] all offsets up to `reach` in both directions, in ascending order."""
  return np.indices((2 * reach + 1).tolist(), np.int32).reshape(3, -1).T - reach


def _inside(places: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Which of [3, s] places lie in a box."""
  inside = np.ones(places.shape[1], bool)
  for values, least, most in zip(places, low, high, strict=True):
    inside &= values >= least
    inside &= values <= most
  return inside.nonzero()[0]


def _squared_distances(images: np.ndarray, atoms: np.ndarray) -> np.ndarray:
  """[n, s] squared distances between [3, n] atoms and [3, s] images."""
  squared = np.empty((atoms.shape[1], images.shape[1]))
  rows = min(max(_BLOCK // max(images.shape[1], 1), 1), len(squared))
  buffer = np.empty((3, rows, images.shape[1]))
  for first in range(0, len(squared), max(rows, 1)):
    result = squared[first : first + rows]
    difference = buffer[:, : len(result)]
    np.subtract(images[:, None], atoms[:, first : first + rows, None], out=difference)
    difference *= difference
    difference.sum(axis=0, out=result)
  return squared
