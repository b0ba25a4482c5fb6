"""ANI-1x from its release, `ani1x-release.h5`, at the level ωB97X/6-31G(d).

Splits are by formula, as published: formulas of fewer than four atoms are dropped,
the others shuffled, whole formulas are taken for the test split until it has a tenth
of all frames, then for the validation split, and the rest is for training. The
published shuffle was not seeded and cannot be reproduced; `--split_seed` seeds this
one.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import random

from ase import units as ase_units
import h5py
import numpy as np

from data.conversion import base
from data.formats import hdf5
from jmp_hk import dataset_summary
from jmp_hk import ranges
from jmp_hk import structure as structure_lib

_NUMBERS = "atomic_numbers"
_ENERGY = "wb97x_dz.energy"
_FRAMES = {"coordinates": 3, _ENERGY: 1, "wb97x_dz.forces": 3}  # Directions of each.
_MIN_ATOMS = 4
# 495 600 of the 4 956 005 conformers.
_HELD_OUT = 0.1
_SMALL = f"molecule of fewer than {_MIN_ATOMS} atoms"
_NOT_COMPUTED = "wb97x_dz not computed (NaN in the release)"


@dataclasses.dataclass(frozen=True)
class ANI1xOptions(base.Options):
  """Options of ANI-1x."""

  split_seed: int = base.option(
    0, "Seed of the random split into train, val and test.", ranges.COUNT
  )


class ANI1x(base.Converter):
  """ANI-1x, energy and forces of ωB97X/6-31G(d)."""

  name = "ani1x"
  options_type = ANI1xOptions

  def declare(self) -> dataset_summary.Declaration:
    return base.published_declaration(
      "ani1x", notes={"hartree_in_eV": ase_units.Hartree}
    )

  def units(self) -> Sequence[base.Unit]:
    path = base.find_file(self.source, "*.h5", "*.hdf5")
    with hdf5.open_hdf5(path) as file:
      groups = {name: _usable(hdf5.group(file, name)) for name in sorted(file)}
    splits = assign_formulas(
      {
        name: usable
        for name, (atoms, _, usable) in groups.items()
        if atoms >= _MIN_ATOMS
      },
      self.options.split_seed,
    )
    # Dropped molecules go along with the training split, to be counted there.
    splits[base.TRAIN] += [
      n for n, (atoms, _, _) in groups.items() if atoms < _MIN_ATOMS
    ]
    file_name = self.relative(path)
    return [
      unit
      for split, names in splits.items()
      for unit in hdf5.pack_units(
        split, file_name, [(name, groups[name][1]) for name in sorted(names)]
      )
    ]

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    (name,) = unit.files
    with hdf5.open_hdf5(self.root / name) as file:
      for key, start, stop in unit.payload:
        group = hdf5.group(file, key)
        numbers, values = hdf5.frames(group, _NUMBERS, _FRAMES, start, stop)
        if len(numbers) < _MIN_ATOMS:
          yield base.Filtered(_SMALL, stop - start)
          continue
        for row, (positions, energy, forces) in enumerate(
          zip(*values, strict=True), start
        ):
          if np.isnan(energy) or np.isnan(forces).any():
            yield base.Filtered(_NOT_COMPUTED)
            continue
          yield structure_lib.molecule(
            positions,
            numbers,
            f"{name}:{key}:{row}",
            energy=float(energy) * ase_units.Hartree,
            forces=forces.astype(np.float64) * ase_units.Hartree,
          )


def assign_formulas(frames: dict[str, int], seed: int) -> dict[str, list[str]]:
  """Splits formulas as published, with a seed.

  Args:
    frames: number of usable frames by formula.
    seed: seed of the shuffle.

  Returns:
    Formulas of train, val and test; a formula is in one split only.
  """
  names = sorted(frames)
  random.Random(seed).shuffle(names)
  wanted = _HELD_OUT * sum(frames.values())
  splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
  for split in ("test", "val"):
    taken = 0
    while names and taken < wanted:
      splits[split].append(names.pop())
      taken += frames[splits[split][-1]]
  splits["train"] = names
  return splits


def _usable(group: h5py.Group) -> tuple[int, int, int]:
  """Atoms, frames, and frames whose energy was computed."""
  energies = hdf5.numbers(group, _ENERGY, 1)[()]
  atoms = len(hdf5.numbers(group, _NUMBERS, 1))
  return atoms, len(energies), int(np.count_nonzero(~np.isnan(energies)))


CONVERTER = ANI1x
