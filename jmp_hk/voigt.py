"""Stress as ASE has it: six components xx, yy, zz, yz, xz, xy in eV/Å³.

The sign is ASE's, that of dE/dε / V: positive where the structure wants to shrink. The
virial of an extxyz file is -V times that stress.
"""

from typing import Any
from typing import TypeVar

from ase import units
import jax
import numpy as np
import numpy.typing as npt

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)

NUM_COMPONENTS = 6
# Row and column of each component.
INDICES = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
GPA = 1 / units.GPa  # The GPa in an eV/Å³.

_MATRIX = ((0, 5, 4), (5, 1, 3), (4, 3, 2))  # Component of each place.
_ASYMMETRY = 1e-2  # Of the largest entry, what rounding may do to a matrix.
_NOISE = 1e-6


def to_matrix(components: npt.ArrayLike) -> np.ndarray:
  """The symmetric matrices [..., 3, 3] of components [..., 6]."""
  return np.asarray(components)[..., np.array(_MATRIX)]


def from_matrix(matrix: npt.ArrayLike) -> np.ndarray:
  """The components [..., 6] of matrices [..., 3, 3], whose symmetric part counts."""
  matrix = np.asarray(matrix)
  return components((matrix + np.swapaxes(matrix, -1, -2)) / 2)


def components(matrix: ArrayT) -> ArrayT:
  """The components [..., 6] of symmetric matrices [..., 3, 3], NumPy's or jax's."""
  return matrix[(..., *map(np.array, INDICES))]


def parse(value: Any) -> np.ndarray:
  """The components, [6] float64, of what other programs store.

  Args:
    value: six components in ASE's order, or a symmetric matrix of three by three, also
      as nine numbers in a row.

  Raises:
    ValueError: it is neither; half a sentence.
  """
  array = np.asarray(value, np.float64)
  if array.shape == (NUM_COMPONENTS,):
    return array
  if array.shape not in ((3, 3), (9,)):
    raise ValueError(
      "expected 6 components (xx, yy, zz, yz, xz, xy) or a 3 × 3 matrix, found shape "
      f"{array.shape}"
    )
  matrix = array.reshape(3, 3)
  asymmetry = np.abs(matrix - matrix.T).max()
  if asymmetry > _NOISE + _ASYMMETRY * np.abs(matrix).max():
    raise ValueError(f"expected a symmetric matrix, found {matrix.tolist()}")
  return from_matrix(matrix)
