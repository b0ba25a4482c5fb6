"""Per-element reference energies from a file, which no weight file holds."""

import dataclasses
import os

import numpy as np

from jmp_hk import dataset_info

_LARGEST_REFERENCE = 1e6  # eV; files hold more than that where an element is absent.


class ReferencesError(ValueError):
  """A file of reference energies cannot be used; says why."""


def load_references(path: str | os.PathLike[str]) -> np.ndarray:
  """Reads per-element reference energies.

  Args:
    path: an .npz file with an array `coeff`, eV, indexed by atomic number.

  Returns:
    The array, float64.

  Raises:
    ReferencesError: the file is missing or holds something else.
  """
  try:
    with np.load(path, allow_pickle=False) as data:
      coefficients = np.asarray(data["coeff"], np.float64)
  except (OSError, KeyError, ValueError, IndexError) as error:
    raise ReferencesError(
      f"{path} must be an .npz file with an array `coeff` indexed by atomic number: "
      f"{error}"
    ) from error
  if coefficients.ndim != 1 or len(coefficients) < 2:
    raise ReferencesError(
      f"{path}: `coeff` must have one axis, atomic numbers, not the shape "
      f"{coefficients.shape}."
    )
  return coefficients


def with_references(
  info: dataset_info.DatasetInfo, coefficients: np.ndarray
) -> dataset_info.DatasetInfo:
  """Gives a dataset its per-element reference energies.

  Args:
    info: constants of the dataset.
    coefficients: eV, indexed by atomic number. Elements that a file of references
      does not know hold absurd values there, or zero, and get none.

  Returns:
    The dataset with references of the elements it knows.
  """
  present = np.isfinite(coefficients) & (np.abs(coefficients) < _LARGEST_REFERENCE)
  if not info.elements:
    present &= coefficients != 0
  references = {
    z: float(coefficients[z])
    for z in info.elements or range(1, len(coefficients))
    if z < len(coefficients) and present[z]
  }
  return dataclasses.replace(info, energy_references=references)
