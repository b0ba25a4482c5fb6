"""Makes ``raw/ani1x/ani1x-release.h5``: small CHNO molecules off equilibrium.

Run from the repository root, after ``pip install -r data/demo/requirements.txt``:
``OMP_NUM_THREADS=1 python -m data.demo.make_ani1x``. Geometries: GFN2-xTB minima
displaced along their normal modes at 200-2500 K (the scheme of ANI-1). Labels:
``dft.LEVEL_OF_THEORY``. In some groups the last rows have no label (NaN), as in
the release, where not every level was computed for every conformer.
"""

import collections
import pathlib
import time

import ase
import h5py
import numpy as np

from data.demo import dft
from data.demo import molecules

_OUTPUT = pathlib.Path(__file__).parent / "raw" / "ani1x" / "ani1x-release.h5"
_SMILES = (  # noqa: SIM905
  "C N OO C=O CO CN NN NO C#C C=C CC O=CO CC=O C=CO C1CO1 CCO COC CCN CNC CC#N "
  "C=N N=CN NC=O C=NO N#CN C=C=O CC=N C1CN1 C=CN C=CC C1CC1 C#CC C=C=C CCC ON=O "
  "N=C=O OC#N O=CC=O CC(=O)O COC=O COO OCO N=N CNN CON CNO NCO C=CC=O CC(C)=O "
  "CCC=O NC(N)=O CC(N)=O OCCO NCCO C#CC=O C=CC#N NCC#N CC(C)O NC(=O)O"
).split()
_TEMPERATURES = (200.0, 400.0, 700.0, 1100.0, 1600.0, 2500.0)
_UNLABELLED_EVERY = 8  # every eighth group ends with two conformers without label


def _conformers(atoms: ase.Atoms, count: int, rng: np.random.Generator) -> list:
  """The displaced geometries of one molecule; too close contacts are redrawn."""
  modes = molecules.vibrations(atoms)
  made = []
  while len(made) < count:
    temperature = _TEMPERATURES[len(made) % len(_TEMPERATURES)]
    trial = ase.Atoms(atoms.numbers, molecules.sample(atoms, modes, temperature, rng))
    distances = trial.get_all_distances()[np.triu_indices(len(trial), 1)]
    if distances.min() > 0.75:
      made.append(trial.positions.astype(np.float32))
  return made


def _rows_of(smiles: str, rng: np.random.Generator) -> tuple[str, np.ndarray, list]:
  """Formula, atomic numbers and labelled (positions, label) rows of a molecule."""
  atoms = molecules.embed(smiles)
  molecules.relax(atoms)
  order = np.argsort(-atoms.numbers, kind="stable")
  atoms = atoms[order]
  atoms.calc = molecules.gfn2()
  heavy = int((atoms.numbers > 1).sum())
  rows, density = [], None
  for positions in _conformers(atoms, {1: 18, 2: 15, 3: 11, 4: 7}[heavy], rng):
    made = dft.label(atoms.numbers, positions.astype(np.float64), density)
    if made is not None:
      density = made.density
      rows.append((positions, made))
  counts = collections.Counter(atoms.get_chemical_symbols())
  formula = "".join(f"{s}{counts[s]}" for s in "CHNO" if counts[s])
  return formula, atoms.numbers, rows


def _write_group(
  file: h5py.File, formula: str, numbers: np.ndarray, rows: list, unlabelled: int
) -> None:
  """Writes one formula; the last ``unlabelled`` rows get NaN labels."""
  energies = np.array([label.energy for _, label in rows])
  forces = np.array([label.forces for _, label in rows], np.float32)
  dipoles = np.array([label.dipole for _, label in rows], np.float32)
  for values in (energies, forces, dipoles):
    values[len(rows) - unlabelled :] = np.nan
  group = file.create_group(formula)
  group["atomic_numbers"] = numbers.astype(np.uint8)
  group["coordinates"] = np.array([positions for positions, _ in rows], np.float32)
  group["wb97x_dz.energy"] = energies
  group["wb97x_dz.forces"] = forces
  group["wb97x_dz.dipole"] = dipoles


def main() -> None:
  """Labels all molecules and writes the file."""
  rng = np.random.default_rng(20)
  groups, start = {}, time.time()
  for smiles in _SMILES:
    formula, numbers, rows = _rows_of(smiles, rng)
    known_numbers, known_rows = groups.setdefault(formula, (numbers, []))
    if not np.array_equal(known_numbers, numbers):
      raise ValueError(f"{smiles}: atoms of {formula} in another order")
    known_rows.extend(rows)
    print(f"{time.time() - start:6.0f} s {smiles} {formula} {len(rows)}", flush=True)
  _OUTPUT.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(_OUTPUT, "w", track_order=False) as file:
    file.attrs["level_of_theory"] = dft.LEVEL_OF_THEORY
    file.attrs["units"] = "angstrom, hartree, hartree/angstrom, dipole e*angstrom"
    file.attrs["licence"] = "CC0-1.0"
    for index, formula in enumerate(sorted(groups)):
      numbers, rows = groups[formula]
      rng.shuffle(rows)
      unlabelled = 2 if index % _UNLABELLED_EVERY == 0 else 0
      _write_group(file, formula, numbers, rows, unlabelled)


if __name__ == "__main__":
  main()
