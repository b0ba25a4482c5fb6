"""One atomic structure with its labels, and the rules that it must keep."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from jmp_hk import geometry

MAX_ATOMIC_NUMBER = 118

LABELS = ("energy", "forces", "stress")  # Those that `Structure` has fields for.

# Tags say what an atom belongs to; molecules are all ADSORBATE, as published.
TAG_SUBSURFACE = 0
TAG_SURFACE = 1
TAG_ADSORBATE = 2

# Å³ per lattice-vector length product: below, the cell is flat to rounding.
_MIN_RELATIVE_VOLUME = 1e-8
_MOST_SHOWN = 6  # Numbers in a message.
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
    stress: [6] floating, eV/Å³, in ASE's order (xx, yy, zz, yz, xz, xy) and sign
      (positive where the structure wants to shrink), or None.
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
  stress: np.ndarray | None = None
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
    value = getattr(self, name) if name in LABELS else None
    return self.targets.get(name) if value is None else value

  @property
  def volume(self) -> float:
    """Volume of the cell in Å³; 0 where there is no periodic direction."""
    if not np.any(self.pbc):
      return 0.0
    return float(abs(np.linalg.det(np.asarray(self.cell, np.float64))))


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
  numbers = as_int32(atomic_numbers)
  return Structure(
    positions=np.asarray(positions),
    atomic_numbers=numbers,
    cell=np.zeros((3, 3)),
    pbc=np.zeros(3, bool),
    tags=np.full(len(numbers), TAG_ADSORBATE, np.int32),
    fixed=np.zeros(len(numbers), bool),
    record_id=record_id,
    **labels,
  )


def as_int32(values: Any) -> np.ndarray:
  """Whole numbers as int32; others as they are, for `find_problem` to name them.

  Args:
    values: numbers, e.g. atomic numbers as float32; nothing is rounded or wrapped.
  """
  array = np.asarray(values)
  if array.dtype.kind not in "iuf":
    return array
  with np.errstate(invalid="ignore"):
    whole = array.astype(np.int32)
  return whole if np.array_equal(whole, array) else array


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
    ("stress", (6,)),
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
  if problem := _kind_problem(structure):
    return problem
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
  if structure.stress is not None:
    if not np.isfinite(structure.stress).all():
      return f"expected a finite stress, found {np.asarray(structure.stress).tolist()}"
    if not structure.volume > 0:
      return (
        "expected no stress label, because a structure without a periodic cell of "
        "finite volume has no stress; found one: leave it out"
      )
  for name in ("positions", "forces", "cell"):
    value = getattr(structure, name)
    # The largest magnitude is NaN or infinite exactly where any entry is.
    if value is not None and not np.abs(value).max() <= _LARGEST_FLOAT32:
      row = int(np.argmax(~(np.abs(value) <= _LARGEST_FLOAT32).all(axis=1)))
      return f"expected finite {name}, found {value[row].tolist()} in row {row}"
  return None


def _kind_problem(structure: Structure) -> str:
  """Numbers of another kind than they must be; "" where there are none."""
  for name, kinds, expected in (
    ("atomic_numbers", "iu", "whole numbers"),
    ("tags", "iu", "whole numbers"),
    ("positions", "iuf", "real numbers"),
    ("cell", "iuf", "real numbers"),
    ("forces", "iuf", "real numbers"),
  ):
    value = getattr(structure, name)
    if value is not None and value.dtype.kind not in kinds:
      text = np.array2string(value, threshold=_MOST_SHOWN)
      return f"expected {expected} as {name}, found {value.dtype}: {text}"
  return ""


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
    if np.asarray(value).dtype.kind not in "biuf":
      return f"expected numbers as target {name!r}, found {np.asarray(value).dtype}"
    if not np.isfinite(value).all():
      return f"expected a finite target {name!r}, found {np.asarray(value).tolist()}"
  return None
