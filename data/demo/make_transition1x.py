"""Makes ``raw/transition1x/Transition1x.h5``: reactions of small CHNO molecules.

Run from the repository root, after ``pip install -r data/demo/requirements.txt``:
``OMP_NUM_THREADS=1 python -m data.demo.make_transition1x``. Geometries: see
``reactions.py``. Labels: ``dft.LEVEL_OF_THEORY``, in eV and eV/angstrom.
"""

import collections
import pathlib
import time

from ase import units
import ase.data
import h5py
import numpy as np

from data.demo import dft
from data.demo import reactions

_OUTPUT = pathlib.Path(__file__).parent / "raw" / "transition1x" / "Transition1x.h5"
_ENERGY, _FORCES = "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"
_LARGEST_FORCE = 40.0  # eV/angstrom, of the initial paths; beyond it is a collision
_REACTIONS = {
  "train": (
    "C=O +0h0-0h1 -0-0h0 -0-0h1",
    "CO +0h0-1h0 -0-0h0 -1-1h0",
    "CO +1-0h0 -0-0h0",
    "C=CN +0-2h0 -2-2h0",
    "CC=O +0-1h0 -0-1 -1-1h0",
    "C=N +0h0-1h0 -0-0h0 -1-1h0",
    "CN +0h0-1h0 -0-0h0 -1-1h0",
    "OC=O +0-1h0 -0-1 -1-1h0",
    "OC=O +2-0h0 -0-0h0",
    "NC=O +2-0h0 -0-0h0",
    "NC=O +0-1h0 -0-1 -1-1h0",
    "C=C +0h0-1h0 -0-0h0 -1-1h0",
    "C#C +1-0h0 -0-0h0",
    "N=C=O +2-0h0 -0-0h0",
    "C=C=O +2-0h0 -0-0h0",
    "CC +0h0-1h0 -0-0h0 -1-1h0",
    "CCO +2-0h0 -1-2 -0-0h0",
    "COC +0-2h0 -0-1 -2-2h0",
    "OO +0-1h0 -1-1h0",
    "NN +0-1h0 -1-1h0",
    "NN +0h0-1h0 -0-0h0 -1-1h0",
    "NO +0-1h0 -1-1h0",
    "N=N +0-1h0 -1-1h0",
    "C=CC +0-2 +1-2h0 -2-2h0",
    "C=C=C +2-0h0 -0-0h0",
    "C1CO1 +0-1h0 -0-2 -1-1h0",
    "OCO +2-0h0 -1-2 -0-0h0",
    "NCO +2-0h0 -1-2 -0-0h0",
    "N#CN +0-2h0 -2-2h0",
    "NC=N +2-0h0 -0-0h0",
    "O=CC=O +1-2h0 -1-2 -2-2h0",
    "C=C +1-0h0 -0-0h0",
    "CC=N +0-1h0 -0-1 -1-1h0",
    "C1CN1 +0-1h0 -0-2 -1-1h0",
    "CC=O +2-0h0 -0-0h0",
    "CCN +2-0h0 -1-2 -0-0h0",
    "CO +0-1h0 -1-1h0",
  ),
  "val": (
    "CN +1-0h0 -0-0h0",
    "CC=N +2-0h0 -0-0h0",
    "NCO +0-2h0 -0-1 -2-2h0",
    "ON=O +2-0h0 -0-0h0",
    "CCC +0h0-1h0 -0-0h0 -1-1h0",
  ),
  "test": (
    "NO +0h0-1h0 -0-0h0 -1-1h0",
    "OCO +0h0-1h0 -0-0h0 -1-1h0",
    "NC=N +0-1h0 -0-1 -1-1h0",
    "C#CO +0-2h0 -2-2h0",
    "C#CN +0-2h0 -2-2h0",
    "NN=C +2-0h0 -0-0h0",
    "OC(C)=O +3-0h0 -0-0h0",
  ),
}


def _lowest(
  numbers: np.ndarray, positions: np.ndarray, density: np.ndarray | None
) -> dft.Label | None:
  """The lower of the states reached from atomic densities and from ``density``.

  Where bonds break, the density of the last frame can hold the calculation in an
  excited state, several eV up.
  """
  starts = [None] if density is None else [None, density]
  made = [dft.label(numbers, positions, start) for start in starts]
  return min((m for m in made if m), key=lambda m: m.energy, default=None)


def _label(numbers: np.ndarray, frames: np.ndarray) -> list[tuple]:
  """(positions, energy in eV, forces in eV/angstrom) of all frames that converge."""
  rows, density = [], None
  for positions in frames:
    made = _lowest(numbers, positions, density)
    if made is None:
      continue
    density = made.density
    forces = made.forces * units.Hartree
    if np.abs(forces).max() < _LARGEST_FORCE:
      rows.append((positions, made.energy * units.Hartree, forces))
  return rows


def _write(group: h5py.Group, numbers: np.ndarray, rows: list[tuple]) -> None:
  """Writes the four arrays of one group."""
  positions, energies, forces = zip(*rows, strict=True)
  group["atomic_numbers"] = numbers.astype(np.uint8)
  group["positions"] = np.array(positions)
  group[_ENERGY] = np.array(energies)
  group[_FORCES] = np.array(forces)


def _write_reaction(
  file: h5py.File, split: str, name: str, numbers: np.ndarray, rows: list[tuple]
) -> None:
  """Writes a reaction with its three named states, and its hard link in ``data``."""
  counts = collections.Counter(ase.data.chemical_symbols[z] for z in numbers)
  formula = "".join(
    f"{s}{counts[s] if counts[s] > 1 else ''}" for s in "CHNO" if counts[s]
  )
  group = file.require_group(f"{split}/{formula}").create_group(name)
  _write(group, numbers, rows)
  band = rows[reactions.IMAGES :] or rows
  states = {
    "reactant": rows[0],
    "product": rows[reactions.IMAGES - 1],
    "transition_state": max(band, key=lambda row: row[1]),
  }
  for state, row in states.items():
    _write(group.create_group(state), numbers, [row])
  file.require_group(f"data/{formula}")[name] = group


def main() -> None:
  """Labels all reactions and writes the file."""
  start, number = time.time(), 0
  _OUTPUT.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(_OUTPUT, "w") as file:
    file.attrs["level_of_theory"] = dft.LEVEL_OF_THEORY
    file.attrs["units"] = "positions angstrom, energy eV, forces eV/angstrom"
    file.attrs["licence"] = "CC0-1.0"
    for split, lines in _REACTIONS.items():
      for line in lines:
        numbers, frames = reactions.elements_and_path(line)
        rows = [] if frames is None else _label(numbers, frames)
        kept = len(rows) == 2 * reactions.IMAGES - 2
        if kept:
          _write_reaction(file, split, f"rxn{number:04d}", numbers, rows)
          number += 1
        energies = np.array([row[1] for row in rows])
        print(
          f"{time.time() - start:5.0f} s {split} {line}: {len(rows)}",
          "kept" if kept else "left out",
          np.round(energies - energies[:1], 1),
          flush=True,
        )


if __name__ == "__main__":
  main()
