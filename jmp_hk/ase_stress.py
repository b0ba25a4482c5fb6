"""The stress of `ase.Atoms`, from entries that hold it or the virial."""

import ase
import numpy as np

from jmp_hk import ase_labels
from jmp_hk import voigt


def find(
  atoms: ase.Atoms, key: str, unit: float = 1.0, virial_unit: float = 1.0
) -> np.ndarray | None:
  """The stress of a structure from an entry.

  Args:
    atoms: the structure.
    key: name of the entry: six components in ASE's order (xx, yy, zz, yz, xz, xy) or a
      symmetric matrix. Of a virial, which has that word in its name, the stress is
      -virial / V.
    unit: the eV/Å³ in the unit of stress.
    virial_unit: the eV in the unit of virials.

  Returns:
    [6] eV/Å³ with ASE's sign; None where there is none, where it is NaN, and where
    some program has written zeros for a structure that can have none.

  Raises:
    ValueError: it is no stress, or the structure has no periodic cell of finite volume;
      half a sentence.
  """
  value = ase_labels.find(atoms, key)
  if value is None:
    return None
  try:
    if np.isnan(np.asarray(value, np.float64)).all():
      return None
    stress = voigt.parse(value)
  except (TypeError, ValueError) as error:
    raise ValueError(f"{error} as the label {key!r}") from error
  volume = atoms.cell.volume if atoms.pbc.any() else 0.0
  if not volume > 0:
    if not stress.any():
      return None
    raise ValueError(
      f"expected no label {key!r}, because a structure without a periodic cell of "
      "finite volume has no stress; found one: leave it out"
    )
  return stress * (-virial_unit / volume if ase_labels.is_virial(key) else unit)
