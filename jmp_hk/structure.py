"""One atomic structure with its labels: the record that flows through everything."""

from collections.abc import Mapping
import dataclasses

import numpy as np

MAX_ATOMIC_NUMBER = 118

# Tags say what an atom belongs to; molecules are all ADSORBATE, as published.
TAG_SUBSURFACE = 0
TAG_SURFACE = 1
TAG_ADSORBATE = 2


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
    return len(self.atomic_numbers)
