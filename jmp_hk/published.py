"""What is published about the four pre-training datasets but is in no weight file."""

from collections.abc import Mapping
import dataclasses
import os

import numpy as np

from jmp_hk import dataset_info
from jmp_hk.graphs import config as graph_config

LICENCE = (
  "The JMP weights that are published as jmp-s.pt and jmp-l.pt (Shoghi et al., "
  '"From Molecules to Materials", ICLR 2024, arXiv 2310.16802) are distributed by '
  "their authors under CC BY-NC 4.0: not for commercial use, and the authors must be "
  "named. Whatever is fine-tuned from them is a derivative of them. Weights of "
  "another origin have the licence of that origin."
)
MOLECULE_ELEMENTS = (1, 6, 7, 8)
# Elements for which linear references of the total energies are published.
OC20_ELEMENTS = (
  1,
  5,
  6,
  7,
  8,
  11,
  13,
  14,
  15,
  16,
  17,
  19,
  20,
  21,
  22,
  23,
  24,
  25,
  26,
  27,
  28,
  29,
  30,
  31,
  32,
  33,
  34,
  37,
  38,
  39,
  40,
  41,
  42,
  43,
  44,
  45,
  46,
  47,
  48,
  49,
  50,
  51,
  52,
  55,
  72,
  73,
  74,
  75,
  76,
  77,
  78,
  79,
  80,
  81,
  82,
  83,
)
OC22_ELEMENTS = (
  1,
  3,
  4,
  6,
  7,
  8,
  11,
  12,
  13,
  14,
  19,
  20,
  21,
  22,
  23,
  24,
  25,
  26,
  27,
  28,
  29,
  30,
  31,
  32,
  33,
  34,
  37,
  38,
  39,
  40,
  41,
  42,
  44,
  45,
  46,
  47,
  48,
  49,
  50,
  51,
  52,
  55,
  56,
  58,
  71,
  72,
  73,
  74,
  75,
  76,
  77,
  78,
  79,
  80,
  81,
  82,
  83,
)
_LARGEST_REFERENCE = 1e6  # eV; files hold more than that where an element is absent.


class ReferencesError(ValueError):
  """A file of reference energies cannot be used; says why."""


def _info(
  name: str,
  elements: tuple[int, ...],
  cutoff: float,
  energy_scale: float,
  force_scale: float,
  average_atoms: float,
) -> dataset_info.DatasetInfo:
  return dataset_info.DatasetInfo(
    name=name,
    graph=graph_config.GraphConfig(cutoff=cutoff, max_neighbors=30),
    num_structures={},
    elements=elements,
    size_histogram={},
    energy_references={},
    energy_scale=energy_scale,
    force_scale=force_scale,
    units={"energy": "eV", "forces": "eV/Å"},
    evaluate_free_atoms_only=name in ("oc20", "oc22"),
    average_atoms=average_atoms,
    provenance={
      "constants": "scales of the published JMP pre-training; the per-element "
      "references are not published with the weights"
    },
  )


# In the order of the published weights' heads.
DATASETS: Mapping[str, dataset_info.DatasetInfo] = {
  info.name: info
  for info in (
    _info("oc20", OC20_ELEMENTS, 12.0, 24.901469505465872, 0.5111534595489502, 73),
    _info("oc22", OC22_ELEMENTS, 12.0, 25.229595396538468, 0.25678861141204834, 80),
    _info("ani1x", MOLECULE_ELEMENTS, 8.0, 2.8700712783472118, 2.131422996520996, 15),
    _info(
      "transition1x",
      MOLECULE_ELEMENTS,
      8.0,
      1.787466168382901,
      0.3591422140598297,
      14,
    ),
  )
}


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
    info: of the dataset.
    coefficients: eV, indexed by atomic number. Elements that a file of references does
      not know hold absurd values there, or zero, and get none.

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
