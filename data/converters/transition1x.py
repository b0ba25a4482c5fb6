"""Transition1x from its release, `Transition1x.h5`.

The file holds the official splits; as published for this model, the frames of each
reaction are used and the repeated end points (reactant, product, transition_state)
are not. Everything is in eV and Å already.
"""

from collections.abc import Iterator
from collections.abc import Sequence

import h5py

from data.conversion import base
from data.formats import hdf5
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib

_SPLITS = ("train", "val", "test")
_NUMBERS = "atomic_numbers"
_ENERGY = "wB97x_6-31G(d).energy"
_FRAMES = {"positions": 3, _ENERGY: 1, "wB97x_6-31G(d).forces": 3}  # Directions.


class Transition1x(base.Converter):
  """Transition1x, energy and forces along reaction paths."""

  name = "transition1x"

  def declare(self) -> dataset_summary.Declaration:
    return base.published_declaration("transition1x")

  def units(self) -> Sequence[base.Unit]:
    path = base.find_file(self.source, "*.h5", "*.hdf5")
    with hdf5.open_hdf5(path) as file:
      found = [split for split in _SPLITS if split in file]
      if not found:
        raise base.RawDataError(
          f"{path}: expected the groups {', '.join(_SPLITS)}, found {sorted(file)}."
        )
      return [
        unit
        for split in found
        if not self.split or split == self.split
        for unit in hdf5.pack_units(split, self.relative(path), _reactions(file, split))
      ]

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    (name,) = unit.files
    with hdf5.open_hdf5(self.root / name) as file:
      for key, start, stop in unit.payload:
        group = hdf5.group(file, key)
        numbers, values = hdf5.frames(group, _NUMBERS, _FRAMES, start, stop)
        for row, (positions, energy, forces) in enumerate(
          zip(*values, strict=True), start
        ):
          yield structure_lib.molecule(
            positions,
            numbers,
            f"{name}:{key}:{row}",
            energy=float(energy),
            forces=forces,
          )


def _reactions(file: h5py.File, split: str) -> list[tuple[str, int]]:
  """Path and number of frames of every reaction of a split, sorted."""
  reactions = []
  formulas = hdf5.group(file, split)
  for formula in sorted(formulas):
    group = hdf5.group(formulas, formula)
    for reaction in sorted(group):
      count = len(hdf5.numbers(hdf5.group(group, reaction), _ENERGY, 1))
      reactions.append((f"{split}/{formula}/{reaction}", count))
  return reactions


CONVERTER = Transition1x
