"""Bounds on where atoms are and how often they repeat, checked before any search.

The time and memory of a neighbor search grow with the number of periodic images within
reach and with the number of empty boxes between atoms far apart, not only with the
number of atoms. Structures beyond these bounds have broken coordinates or a wrong unit.
"""

import numpy as np

# Å; the cutoff of most published graphs, assumed where no other is known.
REACH = 12.0
# Å; atoms of unwrapped trajectories drift far, but beyond this float32 positions are
# off by 0.01 Å.
MAX_COORDINATE = 1e5
# Cutoffs between atoms without cell, and between the faces of a cell. The search
# divides space into boxes of the size of the cutoff; this many along two directions is
# what it can keep apart.
MAX_CUTOFFS = 300
# Atoms and images that a search looks at for one atom. Solids have about 5,000 within
# boxes around a sphere of 12 Å, a cube of 1 Å with an atom has 16,000.
MAX_CANDIDATES = 50_000
# Å; two atoms that are closer have no direction.
MIN_DISTANCE = 1e-2
# From so many atoms on, the atoms of each box are counted: few atoms cannot crowd.
_MANY = 1000
_BOX = 2.0  # Å
_MOST_IN_BOX = 24  # Solids have up to two.
# A direction along which no two atoms of a crystal have the same place.
_GENERIC = np.array([0.531287, 0.618034, 0.579719])


def find_problem(
  positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, reach: float = REACH
) -> str:
  """What prevents a neighbor search, as a clause; "" where nothing does.

  Args:
    positions: [n, 3] finite, Å, at least one.
    cell: [3, 3] finite, Å; the periodic vectors are linearly independent.
    pbc: [3] bool.
    reach: cutoff of the search, Å.
  """
  positions = np.asarray(positions, np.float64)
  low, high = positions.min(axis=0), positions.max(axis=0)
  if max(*high.tolist(), *(-low).tolist()) > MAX_COORDINATE:
    row = int(np.abs(positions).max(axis=1).argmax())
    return (
      f"expected coordinates of at most {MAX_COORDINATE:g} Å, found "
      f"{positions[row].tolist()} at atom {row}"
    )
  pbc = np.asarray(pbc)
  heights, across = np.zeros(0), high - low
  if any(pbc.tolist()):
    heights, across = _spans(positions, np.asarray(cell, np.float64), pbc)
  return _span_problem(len(positions), heights, across, reach) or _crowd_problem(
    positions
  )


def _spans(
  positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Distances between the periodic faces, and extents along other directions, Å.

  At least one direction is periodic.
  """
  vectors = cell[pbc]
  inverse = _inverse(vectors)
  heights = 1.0 / np.sqrt((inverse * inverse).sum(axis=0))
  if pbc.all():
    return heights, np.zeros(0)
  others = np.linalg.svd(vectors)[2][len(vectors) :]
  return heights, np.ptp(positions @ others.T, axis=0)


def _inverse(vectors: np.ndarray) -> np.ndarray:
  """[3, k] by which positions become multiples of k independent vectors."""
  if len(vectors) == 3:
    return np.linalg.inv(vectors)
  return np.linalg.pinv(vectors) if len(vectors) else np.zeros((3, 0))


def _span_problem(
  count: int, heights: np.ndarray, extents: np.ndarray, reach: float
) -> str:
  longest = MAX_CUTOFFS * reach
  if len(extents) and extents.max() > longest:
    return (
      f"expected atoms within {longest:g} Å ({MAX_CUTOFFS} cutoffs of {reach:g} Å) "
      f"where the structure is not periodic, found {extents.max():g} Å between them"
    )
  if not len(heights):
    return ""
  if heights.max() > longest:
    return (
      f"expected a cell of at most {longest:g} Å ({MAX_CUTOFFS} cutoffs of {reach:g} "
      f"Å) between its faces, found {heights.max():g} Å"
    )
  with np.errstate(over="ignore"):
    images = np.where(heights < reach, 1 + 2 * reach / heights, 3 * reach / heights)
    # Few atoms may all lie in one place of a large cell.
    shares = images if count > _MANY else np.maximum(images, 1)
    candidates = max(min(count, _MANY), count * shares.prod())
  if candidates > MAX_CANDIDATES:
    return (
      f"expected at most {MAX_CANDIDATES} atoms and images within reach of a cutoff of "
      f"{reach:g} Å, found {candidates:.3g}: {count} atoms in a cell with "
      f"{', '.join(f'{height:.3g}' for height in heights)} Å between its faces "
      "(is the unit of the cell Å?)"
    )
  return ""


def _crowd_problem(positions: np.ndarray) -> str:
  """Finds many atoms in little space; few cannot take long."""
  if len(positions) < _MANY:
    return ""
  boxes = np.floor(positions / _BOX).astype(np.int64)
  order = np.lexsort(boxes.T)
  changes = (np.diff(boxes[order], axis=0) != 0).any(axis=1)
  starts = np.flatnonzero(np.concatenate(([True], changes, [True])))
  most = int(np.diff(starts).max())
  if most > _MOST_IN_BOX:
    return (
      f"expected at most {_MOST_IN_BOX} atoms in a cube of {_BOX:g} Å, found {most}"
    )
  return ""


def find_coincidence(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> str:
  """Says which atoms lie at one point, as a clause; "" where none do.

  Args:
    positions: [n, 3], Å; accepted by `find_problem`.
    cell: [3, 3], Å.
    pbc: [3] bool.
  """
  positions = np.asarray(positions, np.float64)
  vectors = np.asarray(cell, np.float64)[np.asarray(pbc)]
  inverse = _inverse(vectors)
  places, atoms = _with_border(positions, vectors, inverse)
  # Atoms at one point have one place along any line; most others have not.
  along = places @ _GENERIC
  order = along.argsort()
  along = along[order]
  for step in range(1, len(along)):
    near = (along[step:] - along[:-step] < 1.01 * MIN_DISTANCE).nonzero()[0]
    if not len(near):
      break
    first, second = atoms[order[near]], atoms[order[near + step]]
    apart = positions[first] - positions[second]
    apart -= np.rint(apart @ inverse) @ vectors
    distances = np.sqrt((apart * apart).sum(axis=1))
    distances[first == second] = np.inf
    k = int(distances.argmin())
    if distances[k] <= MIN_DISTANCE:
      pair = sorted((int(first[k]), int(second[k])))
      return (
        f"expected atoms more than {MIN_DISTANCE:g} Å apart, found atoms {pair[0]} and "
        f"{pair[1]} at a distance of {distances[k]:.3g} Å at "
        f"{positions[pair[0]].tolist()}"
      )
  return ""


def _with_border(
  positions: np.ndarray, vectors: np.ndarray, inverse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Places in the cell with those just outside of it, and the atoms that lie there."""
  atoms = np.arange(len(positions))
  if not len(vectors):
    return positions, atoms
  fractions = positions @ inverse
  beside = positions - fractions @ vectors
  fractions -= np.floor(fractions)
  margins = MIN_DISTANCE * np.sqrt((inverse * inverse).sum(axis=0))
  for axis, margin in enumerate(margins):
    low = (fractions[:, axis] < margin).nonzero()[0]
    if not len(low):
      continue
    copies = fractions[low]
    copies[:, axis] += 1
    fractions = np.concatenate((fractions, copies))
    atoms = np.concatenate((atoms, atoms[low]))
  return beside[atoms] + fractions @ vectors, atoms
