"""Molecular-dynamics frames of one molecule in an .npz file of the (r)MD17 family."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np

from data.conversion import base
from data.formats import npz_rows
from jmp_hk import structure as structure_lib

# JMP's factor; 1/23.0605… in CODATA. Kept so that labels equal the published ones.
KCAL_PER_MOL_PER_EV = 23.061


@dataclasses.dataclass(frozen=True)
class Keys:
  """Names of the arrays in a file of m frames of n atoms.

  Attributes:
    numbers: atomic numbers, [n].
    positions: positions in Å, [m, n, 3].
    energies: energies in kcal/mol, [m] or [m, 1].
    forces: forces in kcal/mol/Å, [m, n, 3].
  """

  numbers: str
  positions: str
  energies: str
  forces: str


def count(path: pathlib.Path, keys: Keys) -> int:
  """Number of frames, after checking that the arrays fit together.

  Raises:
    RawDataError: an array is missing or has the wrong shape.
  """
  names = dataclasses.astuple(keys)
  shapes = npz_rows.shapes(path, names)
  atoms = shapes[keys.numbers][0] if shapes[keys.numbers] else 0
  frames = shapes[keys.positions][0] if shapes[keys.positions] else 0
  expected = {
    keys.numbers: [(atoms,)],
    keys.positions: [(frames, atoms, 3)],
    keys.energies: [(frames,), (frames, 1)],
    keys.forces: [(frames, atoms, 3)],
  }
  for name, allowed in expected.items():
    if shapes[name] not in allowed:
      raise base.RawDataError(
        f"{path}: expected {name!r} of shape {allowed[0]} for {atoms} atoms "
        f"({keys.numbers!r}) and {frames} frames ({keys.positions!r}), found "
        f"{shapes[name]}."
      )
  return frames


def read(
  path: pathlib.Path, keys: Keys, wanted: Sequence[int], name: str
) -> Iterator[structure_lib.Structure]:
  """Yields frames as structures in eV and eV/Å.

  Args:
    path: the .npz file.
    keys: names of its arrays.
    wanted: ascending indices of frames.
    name: name of the file in record ids, which are "name:index".

  Raises:
    RawDataError: the file cannot be read.
  """
  numbers = npz_rows.array(path, keys.numbers)
  arrays = (keys.positions, keys.energies, keys.forces)
  for index, row in npz_rows.rows(path, arrays, wanted):
    yield structure_lib.molecule(
      row[keys.positions],
      numbers,
      f"{name}:{index}",
      energy=float(np.reshape(row[keys.energies], ())) / KCAL_PER_MOL_PER_EV,
      forces=row[keys.forces] / KCAL_PER_MOL_PER_EV,
    )
