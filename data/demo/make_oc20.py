"""Makes ``raw/oc20/s2ef_{train,val_id}/N.{extxyz,txt}.xz``: EMT relaxations.

Run from the repository root, after ``pip install -r data/demo/requirements.txt``:
``OMP_NUM_THREADS=1 python -m data.demo.make_oc20``. Small fcc slabs of one or two
metals with H, C, N, O, CO, OH, NO, NH or C2 on top, relaxed with ASE's effective
medium theory (EMT). Layout and precision are those of the OC20 S2EF release.
"""

from collections.abc import Sequence
import io
import lzma
import pathlib

import ase
import ase.build
import ase.calculators.emt
import numpy as np

from data.demo import slabs

_OUTPUT = pathlib.Path(__file__).parent / "raw" / "oc20"
_LATTICE = {
  "Al": 4.00,
  "Ni": 3.49,
  "Cu": 3.59,
  "Pd": 3.88,
  "Ag": 4.06,
  "Pt": 3.92,
  "Au": 4.06,
}  # equilibrium of EMT, angstrom
_ADSORBATES = {
  "H": 0.0,
  "C": 0.0,
  "N": 0.0,
  "O": 0.0,
  "CO": 1.15,
  "OH": 0.98,
  "NO": 1.16,
  "NH": 1.03,
  "CC": 1.30,
}  # bond length, angstrom
_FRAMES = 8  # kept per relaxation
_SHARDS = {"s2ef_train": ((0, 80), (80, 160)), "s2ef_val_id": ((160, 180),)}
_HEADER = (
  "Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 "
  'energy={:.8f} free_energy={:.8f} pbc="T T T"'
)


def _slab(rng: np.random.Generator) -> ase.Atoms:
  """A three-layer slab of one or two metals, tagged."""
  host, guest = rng.choice(list(_LATTICE), 2, replace=False)
  share = rng.choice([0.0, 0.25, 0.5], p=[0.5, 0.25, 0.25])
  lattice = (1 - share) * _LATTICE[host] + share * _LATTICE[guest]
  builder = [ase.build.fcc111, ase.build.fcc100][rng.integers(2)]
  slab = builder(host, (2, 2, 3), a=lattice, vacuum=7.0)
  swapped = rng.permutation(len(slab))[: round(share * len(slab))]
  slab.symbols[swapped] = guest
  layer = slab.get_tags()  # ASE: 1 is the top layer
  slab.set_tags(np.where(layer >= 3, slabs.SUBSURFACE, slabs.SURFACE))
  return slab


def _adsorbate(rng: np.random.Generator) -> ase.Atoms:
  """An atom or a tilted diatomic molecule."""
  name = list(_ADSORBATES)[rng.integers(len(_ADSORBATES))]
  length = _ADSORBATES[name]
  if not length:
    return ase.Atoms(name)
  adsorbate = ase.Atoms(name, [[0, 0, 0], [0, 0, length * rng.uniform(0.95, 1.15)]])
  adsorbate.rotate(rng.uniform(0, 50), "x")
  return adsorbate


def relaxation(number: int) -> tuple[ase.Atoms, list[slabs.Frame]]:
  """The slab and the kept frames of relaxation ``number``."""
  rng = np.random.default_rng([20, number])
  slab = _slab(rng)
  for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.7, 0.2])):
    slabs.add_adsorbate(slab, _adsorbate(rng), rng.uniform(1.0, 1.8), rng)
  slab.center(vacuum=7.0, axis=2)
  slabs.prepare(slab, rng.uniform(0.03, 0.15), rng)
  calculator = ase.calculators.emt.EMT()
  frames = slabs.relax(
    slab, calculator, 60, lambda frame: np.abs(frame.forces).max() < 20.0
  )
  return slab, slabs.spread(frames, _FRAMES)


def format_frame(slab: ase.Atoms, frame: slabs.Frame) -> str:
  """One extended-XYZ block in the column order of the release."""
  lattice = " ".join(f"{round(x, 8)}" for x in np.asarray(slab.cell).ravel())
  header = _HEADER.format(frame.energy, frame.energy)
  lines = [f"{len(slab)}", f'Lattice="{lattice}" {header}']
  for symbol, tag, position, force in zip(
    slab.symbols, slab.get_tags(), frame.positions, frame.forces, strict=True
  ):
    numbers = "".join(f"{x:17.8f}" for x in position)
    moves = "F" if tag == slabs.SUBSURFACE else "T"
    lines.append(
      f"{symbol:<2}{numbers}  {moves} {tag:8d}" + "".join(f"{x:17.8f}" for x in force)
    )
  return "\n".join(lines) + "\n"


def _reference(slab: ase.Atoms, frames: Sequence[slabs.Frame]) -> float:
  """Reference energy: the clean slab as last relaxed (EMT atoms in vacuum cost 0)."""
  clean = slab[slab.get_tags() != slabs.ADSORBATE]
  clean.positions = frames[-1].positions[: len(clean)]
  clean.calc = ase.calculators.emt.EMT()
  return float(clean.get_potential_energy())


def main() -> None:
  """Writes all shards."""
  for split, ranges in _SHARDS.items():
    folder = _OUTPUT / split
    folder.mkdir(parents=True, exist_ok=True)
    for shard, (first, last) in enumerate(ranges):
      frames_text, index_text = io.StringIO(), io.StringIO()
      for number in range(first, last):
        slab, frames = relaxation(number)
        reference = _reference(slab, frames)
        for frame in frames:
          frames_text.write(format_frame(slab, frame))
          index_text.write(f"random{number},frame{frame.index},{reference:.8f}\n")
        energies = [frame.energy for frame in frames]
        print(
          split,
          shard,
          number,
          slab.get_chemical_formula(),
          len(frames),
          np.round(energies, 2),
          flush=True,
        )
      for suffix, text in (("extxyz", frames_text), ("txt", index_text)):
        data = lzma.compress(text.getvalue().encode(), preset=9)
        (folder / f"{shard}.{suffix}.xz").write_bytes(data)


if __name__ == "__main__":
  main()
