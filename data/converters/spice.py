"""SPICE: one subset of the HDF5 release (ωB97M-D3(BJ)/def2-TZVPPD).

Reads `SPICE-1.1.4.hdf5` (or another version): one group a molecule, in bohr, hartree
and hartree/bohr. Forces are minus the stored gradient. Conformers are listed molecule
by molecule in alphabetical order, shuffled with seed 42 and split as JMP does: the
first 80 % for training, then validation, the last 10 % for testing, so that
conformers of one molecule are in all splits. Eastman et al., Sci. Data 10, 11.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import pathlib

import h5py
import numpy as np

from data.conversion import base
from data.conversion import splits
from data.formats import hdf5
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

# JMP's factors, kept so that labels equal the published ones.
EV_PER_HARTREE = 1.0 / 0.0367493
ANGSTROM_PER_BOHR = 0.529177
SUBSETS = {
  "dipeptides": "SPICE Dipeptides Single Points Dataset",
  "solvated_amino_acids": "SPICE Solvated Amino Acids Single Points Dataset",
}
_KEYS = ("conformations", "dft_total_energy", "dft_total_gradient", "formation_energy")
_RANKS = (3, 1, 3, 1)  # Directions of each.
_UNIT_SIZE = 8_192


@dataclasses.dataclass(frozen=True)
class SpiceOptions(base.Options):
  """Options of `--dataset=spice`."""

  subset: str = base.option(
    "",
    f"NAME: Subset to convert: {', '.join(SUBSETS)}, or how the subset's name begins "
    "in the file, e.g. 'SPICE DES370K'.",
  )


def list_conformers(path: pathlib.Path, prefix: str) -> list[tuple[str, int]]:
  """(group, conformer) of every molecule whose subset begins with `prefix`.

  Raises:
    RawDataError: the file is unreadable or not a SPICE file.
    PlanError: no molecule belongs to the subset.
  """
  conformers, subsets = [], set()
  with hdf5.open_hdf5(path) as file:
    for name in sorted(file):
      group = hdf5.group(file, name)
      subset = hdf5.text(group, "subset")
      subsets.add(subset)
      if subset.startswith(prefix):
        conformers += [(name, k) for k in range(_num_conformers(group))]
  if not conformers:
    raise base.PlanError(
      f"{path} has no molecule whose subset begins with {prefix!r}; it has "
      f"{sorted(subsets)}."
    )
  return conformers


def _num_conformers(group: h5py.Group) -> int:
  """Number of conformers, after checking that the arrays fit together."""
  atoms = hdf5.numbers(group, "atomic_numbers", 1).shape[0]
  count = hdf5.numbers(group, "conformations", 3).shape[0]
  vectors, scalars = (count, atoms, 3), (count,)
  for key, shape in zip(_KEYS, (vectors, scalars, vectors, scalars), strict=True):
    found = hdf5.numbers(group, key, len(shape)).shape
    if found != shape:
      raise base.RawDataError(
        f"{group.file.filename}{group.name}: expected {key!r} of shape {shape}, "
        f"found {found}."
      )
  return count


class Spice(base.Converter):
  """Converts one subset of SPICE."""

  name = "spice"
  options_type = SpiceOptions

  @property
  def path(self) -> pathlib.Path:
    """The HDF5 file."""
    return base.find_file(self.source, "*.hdf5", "*.h5")

  @property
  def prefix(self) -> str:
    """Beginning of the subset's name in the file."""
    subset: str = self.options.subset
    if not subset:
      raise base.PlanError(
        f"SPICE needs --subset: {', '.join(SUBSETS)}, or how its name begins."
      )
    return SUBSETS.get(subset, subset)

  def declare(self) -> dataset_summary.Declaration:
    short = self.options.subset if self.options.subset in SUBSETS else ""
    return dataset_summary.Declaration(
      name=f"spice_{short}" if short else "spice",
      graph=graph_config.GraphConfig(cutoff=12.0),
      targets={"formation_energy": dataset_summary.Label("eV")},
      notes={
        "subset": self.prefix,
        "energy": "dft_total_energy",
        "hartree_in_eV": EV_PER_HARTREE,
        "bohr_in_angstrom": ANGSTROM_PER_BOHR,
      },
    )

  def units(self) -> list[base.Unit]:
    conformers = list_conformers(self.path, self.prefix)
    file = self.relative(self.path)
    by_split = splits.eighty_ten_ten(len(conformers))
    units = splits.units(by_split, (file,), _UNIT_SIZE, file)
    return [
      dataclasses.replace(unit, payload=[conformers[k] for k in unit.payload])
      for unit in units
    ]

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    with hdf5.open_hdf5(self.path) as file:
      for name, wanted in itertools.groupby(unit.payload, key=lambda pair: pair[0]):
        rows = [k for _, k in wanted]
        group = hdf5.group(file, name)
        numbers = hdf5.numbers(group, "atomic_numbers", 1)[:]
        positions, energies, gradients, formation = (
          hdf5.numbers(group, key, rank)[rows]
          for key, rank in zip(_KEYS, _RANKS, strict=True)
        )
        for i, row in enumerate(rows):
          yield structure_lib.molecule(
            positions[i].astype(np.float64) * ANGSTROM_PER_BOHR,
            numbers,
            f"{unit.files[0]}:{name}:{row}",
            energy=float(energies[i]) * EV_PER_HARTREE,
            forces=-gradients[i].astype(np.float64)
            * (EV_PER_HARTREE / ANGSTROM_PER_BOHR),
            targets={"formation_energy": np.array(formation[i] * EV_PER_HARTREE)},
          )


CONVERTER = Spice
