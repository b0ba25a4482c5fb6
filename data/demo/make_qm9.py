"""Makes ``raw/qm9``: about 400 CHNOF molecules in the files of the QM9 release.

Run from the repository root, after ``pip install -r data/demo/requirements.txt``:
``OMP_NUM_THREADS=1 python -m data.demo.make_qm9``. All molecules with up to four
heavy atoms of ``enumerate_smiles.py``, a sample with five and some with six. Every
property but ``r2`` is GFN2-xTB (see ``qm9_properties.py``).
"""

# Its programs are those of data/demo/requirements.txt.
# pyright: reportMissingImports=false

import collections
import io
import pathlib
import re
import tarfile
import time

import ase
import numpy as np
from rdkit import Chem
from rdkit import RDLogger
from rdkit.Chem import rdDetermineBonds

from data.demo import enumerate_smiles
from data.demo import molecules
from data.demo import qm9_properties

_OUTPUT = pathlib.Path(__file__).parent / "raw" / "qm9"
_TOTAL = 400
_EXTRA = (
  "c1ccccc1",
  "c1ccncc1",
  "c1ccoc1",
  "c1cc[nH]c1",
  "C1CCCCC1",
  "CCCCCC",
  "CC(C)(C)CO",
  "CCOCCO",
  "Fc1ccccc1",
  "[NH3+]CC(=O)[O-]",
  "c1cnccn1",
  "CC#CC#CC",
  "O=C1CCCC1",
  "NC(=O)CCO",
  "CC(=O)OCC",
  "FC(F)(F)CC",
  "N#CCCC#N",
  "CCCCCO",
)
_LIST_HEADER = """
Molecules of this demo whose relaxed geometry has other bonds than the SMILES they
were made from.

=====================================================================
#   Index                  SMILES                  SMILES of geometry
=====================================================================
"""


def number(value: float, digits: int) -> str:
  """A number as Mathematica writes it: ``0.``, ``1.5``, ``1.2345*^-6``."""
  text = f"{value:.{digits}f}"
  if 0 < abs(value) < 1e-5:
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{mantissa}*^{int(exponent)}"
  return re.sub(r"0+$", "", text) if float(text) else "0."


def _choose(rng: np.random.Generator) -> list[str]:
  """The SMILES of the corpus, small ones first as in GDB."""
  by_size = collections.defaultdict(list)
  for smiles in enumerate_smiles.molecules_up_to(5):
    by_size[Chem.MolFromSmiles(smiles).GetNumAtoms()].append(smiles)
  chosen = sum((by_size[size] for size in (1, 2, 3, 4)), [])
  missing = _TOTAL - len(_EXTRA) - len(chosen)
  fives = [by_size[5][i] for i in sorted(rng.permutation(len(by_size[5]))[:missing])]
  return chosen + fives + list(_EXTRA)


def _smiles_of(atoms: ase.Atoms) -> tuple[str, str]:
  """SMILES and InChI read from a geometry; '?' where the bonds make no sense."""
  lines = [
    f"{symbol} {x:.6f} {y:.6f} {z:.6f}"
    for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
  ]
  mol = Chem.MolFromXYZBlock("\n".join([str(len(atoms)), "", *lines, ""]))
  try:
    rdDetermineBonds.DetermineBonds(mol, allowChargedFragments=True)
    plain = Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)
    return Chem.MolToSmiles(Chem.MolFromSmiles(plain)), Chem.MolToInchi(mol)
  except (ValueError, RuntimeError):  # no bond orders fit
    return "?", "?"


def _block(
  index: int, atoms: ase.Atoms, values: qm9_properties.Properties, names: list[str]
) -> str:
  """The text of one file."""
  digits = (5, 5, 5, 4, 2, 4, 4, 4, 4, 6, 6, 6, 6, 6, 3)
  row = "".join(
    number(v, d) + "\t" for v, d in zip(values.scalars, digits, strict=True)
  )
  lines = [str(len(atoms)), f"gdb {index}\t{row}"]
  for symbol, position, charge in zip(
    atoms.symbols, atoms.positions, values.charges, strict=True
  ):
    cells = [f"{number(x, 10):>13}" for x in position] + [f"{number(charge, 6):>9}"]
    lines.append("\t".join([symbol, *cells]))
  lines.append("\t".join(number(w, 4) for w in values.wavenumbers))
  lines += ["\t".join(names[:2]) + "\t", "\t".join(names[2:])]
  return "\n".join(lines) + "\n"


def _computed(smiles: str) -> tuple[ase.Atoms, qm9_properties.Properties] | None:
  """A GFN2-xTB minimum and its properties, or None where three starts find none."""
  for seed in (1, 2, 3):
    try:
      atoms = molecules.embed(smiles, seed)
    except ValueError:
      continue
    if molecules.relax(atoms, fmax=2e-4):
      atoms.positions = np.round(atoms.positions, 10)
      values = qm9_properties.compute(atoms)
      if values is not None:
        return atoms, values
  return None


def _write(blocks: list[str], failed: list[tuple[int, str, str]]) -> None:
  """Writes the archive, the list of uncharacterised molecules and ``atomref.txt``."""
  _OUTPUT.mkdir(parents=True, exist_ok=True)
  with tarfile.open(_OUTPUT / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as archive:
    for index, text in enumerate(blocks, 1):
      info = tarfile.TarInfo(f"dsgdb9nsd_{index:06d}.xyz")
      info.size = len(text.encode())
      archive.addfile(info, io.BytesIO(text.encode()))
  lines = [f"{i:8d}{given:>24}{found:>28}" for i, given, found in failed]
  (_OUTPUT / "uncharacterized.txt").write_text(_LIST_HEADER + "\n".join(lines))
  (_OUTPUT / "atomref.txt").write_text(qm9_properties.atom_reference())


def main() -> None:
  """Computes all molecules and writes the release files."""
  RDLogger.DisableLog("rdApp.*")
  blocks, failed, start = [], [], time.time()
  for smiles in _choose(np.random.default_rng(9)):
    made = _computed(smiles)
    if made is None:
      print(f"{time.time() - start:5.0f} s {smiles} left out", flush=True)
      continue
    atoms, values = made
    found, inchi = _smiles_of(atoms)
    mol = Chem.MolFromSmiles(smiles)
    names = [smiles, found, Chem.MolToInchi(mol), inchi]
    if found != Chem.MolToSmiles(mol, isomericSmiles=False):
      failed.append((len(blocks) + 1, smiles, found))
    blocks.append(_block(len(blocks) + 1, atoms, values, names))
  _write(blocks, failed)
  print(
    f"{time.time() - start:5.0f} s {len(blocks)} molecules, {len(failed)} "
    f"uncharacterised: {failed}"
  )


if __name__ == "__main__":
  main()
