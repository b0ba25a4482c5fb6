"""Makes ``raw/rmd17``: 1 500 frames of ethanol at 500 K in the layout of rMD17.

Run from the repository root, after ``pip install -r data/demo/requirements.txt``:
``OMP_NUM_THREADS=1 python -m data.demo.make_rmd17``. Langevin dynamics and labels
with GFN2-xTB; the ``old_*`` labels (PBE+TS in rMD17) are GFN1-xTB of the same frames.
"""

# Its programs are those of data/demo/requirements.txt.
# pyright: reportMissingImports=false

import pathlib

import ase
from ase import units
import ase.md.langevin
import ase.md.velocitydistribution
import numpy as np
import tblite.ase

from data.demo import molecules

_OUTPUT = pathlib.Path(__file__).parent / "raw" / "rmd17"
_FRAMES, _STEPS_BETWEEN, _STEP_FS = 1500, 20, 0.5
_EQUILIBRATION_STEPS = 2000
_SPLITS, _TRAIN = 5, 1000


def _trajectory(atoms: ase.Atoms, rng: np.random.Generator) -> np.ndarray:
  """[M, N, 3] positions of the dynamics, with the precision of float32."""
  ase.md.velocitydistribution.MaxwellBoltzmannDistribution(
    atoms, temperature_K=500, rng=rng
  )
  dynamics = ase.md.langevin.Langevin(
    atoms, _STEP_FS * units.fs, temperature_K=500, friction=0.01 / units.fs, rng=rng
  )
  dynamics.run(_EQUILIBRATION_STEPS)
  frames = []
  for _ in range(_FRAMES):
    dynamics.run(_STEPS_BETWEEN)
    frames.append(atoms.positions - atoms.get_center_of_mass())
  return np.array(frames, np.float32).astype(np.float64)


def _labels(
  numbers: np.ndarray, frames: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray]:
  """Energies [M] in kcal/mol and forces [M, N, 3] in kcal/mol/angstrom."""
  atoms = ase.Atoms(numbers, frames[0])
  atoms.calc = tblite.ase.TBLite(method=method, verbosity=0)
  energies, forces = [], []
  for positions in frames:
    atoms.positions = positions
    energies.append(atoms.get_potential_energy())
    forces.append(atoms.get_forces())
  unit = units.kcal / units.mol
  forces = (np.array(forces) / unit).astype(np.float32).astype(np.float64)
  return np.array(energies) / unit, forces


def main() -> None:
  """Writes the npz file and the five pairs of split files."""
  rng = np.random.default_rng(17)
  atoms = molecules.embed("CCO")
  molecules.relax(atoms)
  frames = _trajectory(atoms, rng)
  order = rng.permutation(_FRAMES)
  frames = frames[order]
  energies, forces = _labels(atoms.numbers, frames, "GFN2-xTB")
  old_energies, old_forces = _labels(atoms.numbers, frames, "GFN1-xTB")
  for folder in ("npz_data", "splits"):
    (_OUTPUT / folder).mkdir(parents=True, exist_ok=True)
  np.savez_compressed(
    _OUTPUT / "npz_data" / "rmd17_ethanol.npz",
    nuclear_charges=atoms.numbers.astype(np.uint8),
    coords=frames,
    energies=energies,
    forces=forces,
    old_indices=order,
    old_energies=old_energies,
    old_forces=old_forces,
  )
  for split in range(1, _SPLITS + 1):
    mixed = rng.permutation(_FRAMES)
    parts = {"train": mixed[:_TRAIN], "test": mixed[_TRAIN:]}
    for name, indices in parts.items():
      np.savetxt(
        _OUTPUT / "splits" / f"index_{name}_{split:02d}.csv", np.sort(indices), fmt="%d"
      )
  print(
    f"{_FRAMES} frames, energy std {energies.std():.2f} kcal/mol, "
    f"force std {forces.std():.1f} kcal/mol/angstrom"
  )


if __name__ == "__main__":
  main()
