"""One atomic structure with its labels, and the rules that it must keep."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from jmp_hk import geometry

MAX_ATOMIC_NUMBER = 118

# Tags say what an atom belongs to; molecules are all ADSORBATE, as published.
TAG_SUBSURFACE = 0
TAG_SURFACE = 1
TAG_ADSORBATE = 2

# Å³ per lattice-vector length product: below, the cell is flat to rounding.
_MIN_RELATIVE_VOLUME = 1e-8
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


class InvalidStructureError(ValueError):
  """A structure breaks a rule that every structure must keep."""


@dataclasses.dataclass(frozen=True)
class Structure:
  """One structure in eV, Å and eV/Å.

  Attributes:
    positions: [n, 3] floating, Å, as given (not wrapped into the cell).
    atomic_numbers: [n] int32, 1 to 118.
    cell: [3, 3] floating, Å, rows are lattice vectors. All zeros where there is
      no periodic direction.
    pbc: [3] bool, periodic directions.
    tags: [n] int32, 0 sub-surface, 1 surface, 2 adsorbate or molecule.
    fixed: [n] bool, atoms that were held in place.
    energy: total energy in eV (a Python float, i.e. float64) or None.
    forces: [n, 3] floating, eV/Å, or None.
    targets: further labels by name: a scalar or [k] array per structure or a
      [n, 3] array per atom; units are in the dataset's `DatasetInfo`.
    record_id: where the record came from, for messages, e.g. "0.extxyz.xz:17".
  """

  positions: np.ndarray
  atomic_numbers: np.ndarray
  cell: np.ndarray
  pbc: np.ndarray
  tags: np.ndarray
  fixed: np.ndarray
  energy: float | None = None
  forces: np.ndarray | None = None
  targets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  record_id: str = ""

  @property
  def num_atoms(self) -> int:
    """Number of atoms, n."""
    return len(self.atomic_numbers)

  @property
  def is_periodic(self) -> bool:
    """Whether any direction is periodic."""
    return any(self.pbc.tolist())  # Of three values, faster than in NumPy.

  def label(self, name: str) -> float | np.ndarray | None:
    """A label by name, or None where there is none."""
    if name in ("energy", "forces"):
      return getattr(self, name)
    return self.targets.get(name)


def molecule(
  positions: np.ndarray, atomic_numbers: np.ndarray, record_id: str, **labels: Any
) -> Structure:
  """A structure without cell: not periodic, tags 2, nothing fixed.

  Args:
    positions: [n, 3], Å.
    atomic_numbers: [n].
    record_id: file and record.
    **labels: energy (eV), forces (eV/Å), targets.
  """
  numbers = np.asarray(atomic_numbers)
  return Structure(
    positions=np.asarray(positions),
    atomic_numbers=numbers.astype(np.int32),
    cell=np.zeros((3, 3)),
    pbc=np.zeros(3, bool),
    tags=np.full(len(numbers), TAG_ADSORBATE, np.int32),
    fixed=np.zeros(len(numbers), bool),
    record_id=record_id,
    **labels,
  )


def find_problem(structure: Structure, cutoff: float = geometry.REACH) -> str | None:
  """The first broken rule as half a sentence, or None.

  Args:
    structure: any structure.
    cutoff: that of its graphs, Å.
  """
  n = np.size(structure.atomic_numbers)
  if n == 0:
    return "expected at least one atom, found none"
  return (
    _shape_problem(structure, n)
    or _number_problem(structure, n)
    or find_cell_problem(structure)
    or geometry.find_problem(structure.positions, structure.cell, structure.pbc, cutoff)
    or geometry.find_coincidence(structure.positions, structure.cell, structure.pbc)
    or _target_problem(structure, n)
  )


def _shape_problem(structure: Structure, n: int) -> str | None:
  expected: Sequence[tuple[str, tuple[int, ...]]] = (
    ("atomic_numbers", (n,)),
    ("positions", (n, 3)),
    ("forces", (n, 3)),
    ("tags", (n,)),
    ("fixed", (n,)),
    ("cell", (3, 3)),
    ("pbc", (3,)),
  )
  for name, shape in expected:
    value = getattr(structure, name)
    if value is not None and np.shape(value) != shape:
      return f"expected {name} of shape {shape}, found {np.shape(value)}"
  return None


def _number_problem(structure: Structure, n: int) -> str | None:
  numbers = structure.atomic_numbers
  if numbers.min() < 1 or numbers.max() > MAX_ATOMIC_NUMBER:
    outside = (numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)
    atom = int(np.argmax(outside))
    return (
      f"expected atomic numbers from 1 to {MAX_ATOMIC_NUMBER}, found "
      f"{numbers[atom]} at atom {atom}"
    )
  if structure.tags.min() < 0 or structure.tags.max() > 2:
    return f"expected tags 0, 1 or 2, found {sorted(set(structure.tags.tolist()))}"
  if structure.energy is not None and not np.isfinite(structure.energy):
    return f"expected a finite energy, found {structure.energy}"
  for name in ("positions", "forces", "cell"):
    value = getattr(structure, name)
    # The largest magnitude is NaN or infinite exactly where any entry is.
    if value is not None and not np.abs(value).max() <= _LARGEST_FLOAT32:
      row = int(np.argmax(~(np.abs(value) <= _LARGEST_FLOAT32).all(axis=1)))
      return f"expected finite {name}, found {value[row].tolist()} in row {row}"
  return None


def find_cell_problem(structure: Structure) -> str:
  """What is wrong with a finite cell, as half a sentence; "" where nothing is."""
  pbc = structure.pbc
  if not pbc.any():
    return ""
  cell = np.asarray(structure.cell, np.float64)
  a, b, c = cell
  lengths = np.sqrt((cell * cell).sum(axis=1))
  if pbc.all():
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = a.tolist(), b.tolist(), c.tolist()
    size = abs(
      ax * (by * cz - bz * cy) - ay * (bx * cz - bz * cx) + az * (bx * cy - by * cx)
    )
    scale = float(lengths.prod())
  else:
    # Length or area spanned by the periodic vectors.
    periodic = cell[pbc]
    size = float(np.sqrt(max(np.linalg.det(periodic @ periodic.T), 0.0)))
    scale = float(lengths[pbc].prod())
  if size <= _MIN_RELATIVE_VOLUME * scale or scale == 0.0:
    return (
      "expected linearly independent periodic lattice vectors, found a cell of zero "
      f"volume {cell.tolist()} with pbc {pbc.tolist()}"
    )
  return ""


def _target_problem(structure: Structure, n: int) -> str | None:
  for name, value in structure.targets.items():
    if np.ndim(value) > 2 or (np.ndim(value) == 2 and len(value) != n):
      return (
        f"expected target {name!r} per structure ([k]) or per atom ([{n}, k]), found "
        f"shape {np.shape(value)}"
      )
    if not np.isfinite(value).all():
      return f"expected a finite target {name!r}, found {np.asarray(value).tolist()}"
  return None
