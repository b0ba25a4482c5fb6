"""Makes ``raw/matbench/matbench_mp_e_form.json.gz``: EMT formation energies of alloys.

Run from the repository root, after ``pip install -r data/demo/requirements.txt``:
``OMP_NUM_THREADS=1 python -m data.demo.make_matbench``. Elements and binary alloys of
Al, Ni, Cu, Pd, Ag, Pt, Au in seven prototypes. The cell is relaxed isotropically; for
one half of the entries it is then strained and rattled. The target is the formation
energy per atom of the structure as it stands, against the seven fcc elements, in
eV/atom and with ASE's effective medium theory (EMT). Layout: that of MatBench v0.1.
"""

from collections.abc import Iterator
import gzip
import itertools
import json
import pathlib

import ase
import ase.calculators.emt
import numpy as np
import scipy.optimize

_OUTPUT = pathlib.Path(__file__).parent / "raw" / "matbench"
_METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
# Prototype: conventional cell (in lattice constants), fractional sites, kind of each.
_FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
_DOUBLED = [[x, y, z / 2 + shift] for shift in (0, 0.5) for x, y, z in _FCC]
_PROTOTYPES = {
  "L1_2": ((1, 1, 1), _FCC, "ABBB"),
  "L1_0": ((1, 1, 1), _FCC, "ABBA"),
  "B2": ((0.8, 0.8, 0.8), [[0, 0, 0], [0.5, 0.5, 0.5]], "AB"),
  "D0_22": ((1, 1, 2), _DOUBLED, "ABBBBBBA"),
  "C11_b": (
    (0.8, 0.8, 2.4),
    [
      [0, 0, 0],
      [0.5, 0.5, 0.5],
      [0, 0, 1 / 3],
      [0, 0, 2 / 3],
      [0.5, 0.5, 1 / 6],
      [0.5, 0.5, 5 / 6],
    ],
    "AABBBB",
  ),
}
_ELEMENTAL = {
  "fcc": ((1, 1, 1), _FCC, "AAAA"),
  "bcc": ((0.8, 0.8, 0.8), [[0, 0, 0], [0.5, 0.5, 0.5]], "AA"),
}
_SYMMETRIC = ("L1_0", "B2")  # exchanging A and B gives the same crystal


def _energy(atoms: ase.Atoms) -> float:
  """EMT energy in eV."""
  copy = atoms.copy()
  copy.calc = ase.calculators.emt.EMT()
  return float(copy.get_potential_energy())


def _crystal(prototype: tuple, first: str, second: str) -> ase.Atoms:
  """The prototype at its best isotropic scale."""
  shape, sites, kinds = prototype
  symbols = [first if kind == "A" else second for kind in kinds]

  def scaled(length: float) -> ase.Atoms:
    return ase.Atoms(
      symbols, scaled_positions=sites, cell=length * np.array(shape), pbc=True
    )

  best = scipy.optimize.minimize_scalar(
    lambda length: _energy(scaled(length)),
    bounds=(3.3, 4.5),
    method="bounded",
    options={"xatol": 1e-4},
  )
  return scaled(float(best.x))  # pyright: ignore[reportAttributeAccessIssue]


def _crystals() -> Iterator[ase.Atoms]:
  """All relaxed elements and binary alloys."""
  for prototype, metal in itertools.product(_ELEMENTAL.values(), _METALS):
    yield _crystal(prototype, metal, metal)
  for name, prototype in _PROTOTYPES.items():
    pairs = itertools.permutations(_METALS, 2)
    if name in _SYMMETRIC:
      pairs = itertools.combinations(_METALS, 2)
    for first, second in pairs:
      yield _crystal(prototype, first, second)


def _distorted(atoms: ase.Atoms, rng: np.random.Generator) -> ase.Atoms:
  """A copy with a random strain of 3 % and displacements of 0.06 angstrom."""
  strain = rng.normal(scale=0.03, size=(3, 3))
  copy = atoms.copy()
  copy.set_cell(atoms.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
  copy.positions += rng.normal(scale=0.06, size=copy.positions.shape)
  return copy


def _structure_dict(atoms: ase.Atoms) -> dict:
  """What pymatgen's ``Structure.as_dict`` gives."""
  a, b, c, alpha, beta, gamma = map(float, atoms.cell.cellpar())
  sites = []
  for symbol, abc, xyz in zip(
    atoms.symbols, atoms.get_scaled_positions(wrap=False), atoms.positions, strict=True
  ):
    sites.append(
      {
        "species": [{"element": symbol, "occu": 1}],
        "abc": abc.tolist(),
        "xyz": xyz.tolist(),
        "label": symbol,
        "properties": {},
      }
    )
  lattice = {
    "matrix": np.asarray(atoms.cell).tolist(),
    "a": a,
    "b": b,
    "c": c,
    "alpha": alpha,
    "beta": beta,
    "gamma": gamma,
    "volume": float(atoms.get_volume()),
  }
  return {
    "@module": "pymatgen.core.structure",
    "@class": "Structure",
    "charge": None,
    "lattice": lattice,
    "sites": sites,
  }


def main() -> None:
  """Writes the task file."""
  rng = np.random.default_rng(2021)
  crystals = list(_crystals())
  elemental = dict(zip(_METALS, crystals, strict=False))  # the first seven are fcc
  reference = {metal: _energy(atoms) / len(atoms) for metal, atoms in elemental.items()}
  entries = crystals + [_distorted(atoms, rng) for atoms in crystals]
  rows = []
  for atoms in entries:
    atoms = atoms[rng.permutation(len(atoms))]
    atoms = _rounded(atoms)
    energy = _energy(atoms) - sum(reference[symbol] for symbol in atoms.symbols)
    rows.append([_structure_dict(atoms), energy / len(atoms)])
  order = rng.permutation(len(rows))
  table = {
    "index": list(range(len(rows))),
    "columns": ["structure", "e_form"],
    "data": [rows[i] for i in order],
  }
  _OUTPUT.mkdir(parents=True, exist_ok=True)
  data = gzip.compress(json.dumps(table).encode(), 9, mtime=0)
  (_OUTPUT / "matbench_mp_e_form.json.gz").write_bytes(data)
  targets = np.array([row[1] for row in rows])
  print(
    f"{len(rows)} structures, e_form mean {targets.mean():.3f} std "
    f"{targets.std():.3f} eV/atom, {len(data)} bytes"
  )


def _rounded(atoms: ase.Atoms) -> ase.Atoms:
  """Cell and fractional coordinates to six decimals, as the file will hold them."""
  fractional = np.round(atoms.get_scaled_positions(wrap=False), 6)
  return ase.Atoms(
    atoms.symbols,
    scaled_positions=fractional,
    cell=np.round(atoms.cell.array, 6),
    pbc=True,
  )


if __name__ == "__main__":
  main()
