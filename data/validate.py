"""Rules that every structure must keep before it is stored."""

from collections.abc import Sequence

import numpy as np

from data.converters import base
from jmp_hk import structure as structure_lib

# Å³ per lattice-vector length product: below, the cell is flat to rounding.
_MIN_RELATIVE_VOLUME = 1e-8
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def check(structure: structure_lib.Structure) -> None:
  """Checks one structure.

  Args:
    structure: any structure.

  Raises:
    InvalidStructureError: a rule is broken; the message names the record, what was
      expected and what was found.
  """
  problem = find_problem(structure)
  if problem:
    raise structure_lib.InvalidStructureError(f"{structure.record_id}: {problem}.")


def find_problem(structure: structure_lib.Structure) -> str | None:
  """The first broken rule as half a sentence, or None."""
  n = np.size(structure.atomic_numbers)
  if n == 0:
    return "expected at least one atom, found none"
  return (
    _shape_problem(structure, n)
    or _number_problem(structure, n)
    or _cell_problem(structure)
    or _target_problem(structure, n)
  )


class LabelChecker:
  """Checks that every structure has exactly the declared labels."""

  def __init__(self, declaration: base.Declaration):
    self._energy = declaration.energy
    self._forces = declaration.forces
    self._kinds = {name: t.kind for name, t in declaration.targets.items()}

  def find_problem(self, structure: structure_lib.Structure) -> str | None:
    """What is wrong as half a sentence, or None."""
    for name, wanted in (("energy", self._energy), ("forces", self._forces)):
      if (getattr(structure, name) is not None) != wanted:
        return f"expected {'an' if wanted else 'no'} {name} label, found the opposite"
    if set(structure.targets) != set(self._kinds):
      return (
        f"expected the targets {sorted(self._kinds)}, found {sorted(structure.targets)}"
      )
    for name, kind in self._kinds.items():
      value = structure.targets[name]
      if (value.ndim == 2) != (kind == "atoms"):
        return f"expected target {name!r} of kind {kind}, found shape {value.shape}"
      if kind == "class" and (value < 0 or value != int(value)):
        return f"expected {name!r} to be a class index, found {value}"
    return None


def _shape_problem(structure: structure_lib.Structure, n: int) -> str | None:
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


def _number_problem(structure: structure_lib.Structure, n: int) -> str | None:
  numbers = structure.atomic_numbers
  if numbers.min() < 1 or numbers.max() > structure_lib.MAX_ATOMIC_NUMBER:
    outside = (numbers < 1) | (numbers > structure_lib.MAX_ATOMIC_NUMBER)
    atom = int(np.argmax(outside))
    return (
      f"expected atomic numbers from 1 to {structure_lib.MAX_ATOMIC_NUMBER}, found "
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


def _cell_problem(structure: structure_lib.Structure) -> str | None:
  pbc = structure.pbc
  if not pbc.any():
    return None
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
  return None


def _target_problem(structure: structure_lib.Structure, n: int) -> str | None:
  for name, value in structure.targets.items():
    if np.ndim(value) > 2 or (np.ndim(value) == 2 and len(value) != n):
      return (
        f"expected target {name!r} per structure ([k]) or per atom ([{n}, k]), found "
        f"shape {np.shape(value)}"
      )
    if not np.isfinite(value).all():
      return f"expected a finite target {name!r}, found {np.asarray(value).tolist()}"
  return None
