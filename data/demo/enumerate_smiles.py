"""Small stable CHNOF molecules by exhaustive growth, in the spirit of GDB."""

# Its programs are those of data/demo/requirements.txt.
# pyright: reportMissingImports=false

from collections.abc import Iterator

from rdkit import Chem
from rdkit import RDLogger

# Bonds and rings that do not survive or that GDB leaves out.
_UNWANTED = [
  Chem.MolFromSmarts(smarts)
  for smarts in (
    "[#8,#9]-[#8,#9]",
    "[#7]-[#9]",
    "[#7]-[#7]-[#7]",
    "[#7]-[#7]-[#8]",
    "[#7]=[#7]",
    "*=*=*",
    "[r3,r4]=*",
    "[r]#[r]",
    "[CX4]([OH,NH2,F])([OH])",
    "[C]=[C]-[OH,NH2]",
    "[NX3]-[OX2]-[NX3]",
    "[#7]=[#8]",
    "C(F)[OH,NH2]",
    "[+,-]",
    "[R2]",
    "[a;r3,r4]",
    "[#7,#8,#9]~[#7,#8,#9]~[#7,#8,#9]",
    "O=O",
    "C#[#6]-[#7,#8,#9]",
  )
]


def _valid(mol: Chem.RWMol) -> str | None:
  """Canonical SMILES of a molecule that passes the filters, else None."""
  copy = Chem.Mol(mol)
  try:
    Chem.SanitizeMol(copy)
  except Chem.MolSanitizeException:
    return None
  if any(copy.HasSubstructMatch(pattern) for pattern in _UNWANTED):
    return None
  return Chem.MolToSmiles(copy)


def _grown(smiles: str) -> Iterator[str | None]:
  """Molecules with one more heavy atom, or one more ring bond."""
  mol = Chem.MolFromSmiles(smiles)
  Chem.Kekulize(mol, clearAromaticFlags=True)
  orders = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
  for atom in range(mol.GetNumAtoms()):
    for symbol in "CNOF":
      for order in orders:
        bigger = Chem.RWMol(mol)
        bigger.AddBond(atom, bigger.AddAtom(Chem.Atom(symbol)), order)
        yield _valid(bigger)
    for other in range(atom):
      if not mol.GetBondBetweenAtoms(atom, other):
        ring = Chem.RWMol(mol)
        ring.AddBond(atom, other, Chem.BondType.SINGLE)
        yield _valid(ring)


def molecules_up_to(size: int) -> list[str]:
  """Canonical SMILES of all molecules with 1 to ``size`` heavy atoms, by size."""
  RDLogger.DisableLog("rdApp.*")
  level, found = {"C", "N", "O"}, []
  for heavy in range(1, size + 1):
    frontier = set(level)
    while frontier:  # ring closures stay within the level
      made = {s for smiles in frontier for s in _grown(smiles) if s}
      same = {s for s in made if Chem.MolFromSmiles(s).GetNumAtoms() == heavy}
      frontier, level = same - level, level | same
    found += sorted(level)
    made = {s for smiles in level for s in _grown(smiles) if s}
    level = {s for s in made if Chem.MolFromSmiles(s).GetNumAtoms() == heavy + 1}
  return found
