"""Makes ``raw/oc22/s2ef-total/{train,val_id}/data.0000.lmdb``: GFN1-xTB oxides.

Run from the repository root, after ``pip install -r data/demo/requirements.txt``:
``OMP_NUM_THREADS=1 python -m data.demo.make_oc22``. Small rock-salt slabs of MgO,
CaO, SrO and ZnO and their mixtures, clean, with an oxygen vacancy or with H, O, OH,
CO or H2O on top, relaxed with periodic GFN1-xTB at the Gamma point. The records are
pickled ``torch_geometric`` Data objects with the keys of the OC22 release.
"""

# Its programs are those of data/demo/requirements.txt.
# pyright: reportMissingImports=false

import pathlib
import pickle
import time

import ase
import ase.build
import lmdb
import numpy as np
import tblite.ase
import torch
from torch_geometric import data as geometric

from data.demo import slabs

_OUTPUT = pathlib.Path(__file__).parent / "raw" / "oc22" / "s2ef-total"
_LATTICE = {"Mg": 4.21, "Ca": 4.70, "Sr": 5.05, "Zn": 4.30}  # oxides, angstrom
_STEPS = 7  # labels in each relaxation; forces above 20 eV/angstrom are left out
_SPLITS = {"train": (0, 44), "val_id": (44, 52)}


def _adsorbates() -> dict[str, ase.Atoms]:
  """What is put on top; the first atom points down."""
  water = ase.build.molecule("H2O")
  return {
    "H": ase.Atoms("H"),
    "O": ase.Atoms("O"),
    "OH": ase.Atoms("OH", [[0, 0, 0], [0.3, 0, 0.92]]),
    "CO": ase.Atoms("CO", [[0, 0, 0], [0.2, 0, 1.13]]),
    "H2O": ase.Atoms("OH2", water.positions * [1, 1, -1]),
  }


def _slab(rng: np.random.Generator) -> ase.Atoms:
  """Two layers of a rock-salt (100) surface with one or two kinds of cation."""
  host, guest = rng.choice(list(_LATTICE), 2, replace=False)
  share = rng.choice([0.0, 0.25], p=[0.5, 0.5])
  lattice = (1 - share) * _LATTICE[host] + share * _LATTICE[guest]
  bulk = ase.build.bulk(f"{host}O", "rocksalt", a=lattice, cubic=True)
  slab = bulk[np.argsort(bulk.positions[:, 2], kind="stable")]
  slab.center(vacuum=6.0, axis=2)
  cations = np.flatnonzero(slab.symbols == host)
  slab.symbols[rng.permutation(cations)[: round(share * len(cations))]] = guest
  low = slab.positions[:, 2] < slab.positions[:, 2].mean()
  slab.set_tags(np.where(low, slabs.SUBSURFACE, slabs.SURFACE))
  return slab


def relaxation(number: int) -> tuple[ase.Atoms, list[slabs.Frame]]:
  """The slab and the frames of relaxation ``number``."""
  rng = np.random.default_rng([22, number])
  slab = _slab(rng)
  kind = rng.choice(
    ["clean", "vacancy", "H", "O", "OH", "CO", "H2O"],
    p=[0.1, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2],
  )
  if kind == "vacancy":
    top = np.flatnonzero((slab.symbols == "O") & (slab.get_tags() == slabs.SURFACE))
    del slab[int(rng.choice(top))]
  elif kind != "clean":
    slabs.add_adsorbate(slab, _adsorbates()[kind], rng.uniform(1.6, 2.3), rng)
  slab.center(vacuum=6.0, axis=2)
  slabs.prepare(slab, rng.uniform(0.05, 0.18), rng)
  slab.positions = slab.positions.astype(np.float32)
  calculator = tblite.ase.TBLite(method="GFN1-xTB", verbosity=0)
  return slab, slabs.relax(
    slab, calculator, _STEPS - 1, lambda frame: np.abs(frame.forces).max() < 20.0
  )


def record(slab: ase.Atoms, frame: slabs.Frame, sid: int) -> geometric.Data:
  """One record of the release."""
  tags = slab.get_tags()
  return geometric.Data(
    y=frame.energy,
    pos=torch.tensor(frame.positions, dtype=torch.float32),
    cell=torch.tensor(slab.cell.array[None], dtype=torch.float32),
    atomic_numbers=torch.tensor(slab.numbers, dtype=torch.float32),
    natoms=len(slab),
    force=torch.tensor(frame.forces, dtype=torch.float32),
    fixed=torch.tensor(tags == slabs.SUBSURFACE, dtype=torch.float32),
    tags=torch.tensor(tags, dtype=torch.int64),
    nads=int((tags == slabs.ADSORBATE).any()),
    sid=sid,
    fid=frame.index,
    oc22=1,
  )


def _write(path: pathlib.Path, records: list[geometric.Data]) -> None:
  """Writes the LMDB file of one split, with its ``length``."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.unlink(missing_ok=True)
  with (
    lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24) as env,
    env.begin(write=True) as transaction,
  ):
    for index, item in enumerate(records):
      transaction.put(str(index).encode(), pickle.dumps(item, protocol=4))
    transaction.put(b"length", pickle.dumps(len(records), protocol=4))


def main() -> None:
  """Labels all relaxations and writes both splits."""
  start = time.time()
  for split, (first, last) in _SPLITS.items():
    records = []
    for number in range(first, last):
      slab, frames = relaxation(number)
      records += [record(slab, frame, number) for frame in frames]
      energies = np.round([frame.energy for frame in frames], 2)
      print(
        f"{time.time() - start:5.0f} s",
        split,
        number,
        slab.get_chemical_formula(),
        energies,
        flush=True,
      )
    _write(_OUTPUT / split / "data.0000.lmdb", records)


if __name__ == "__main__":
  main()
