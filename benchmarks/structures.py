"""Structures that the benchmarks make themselves; needs ASE and NumPy only.

`bench_slabs` and `toluenes` are the structures that the published implementation was
timed with. The random ones have the sizes and densities of the published datasets.
"""

import ase
import ase.build
import numpy as np

from jmp_hk import structure as structure_lib

Structure = structure_lib.Structure

_METALS = ("Cu", "Pt", "Ag", "Au", "Pd", "Ni", "Al", "Rh", "Ir", "Pb")
_OXIDES = {"MgO": 4.21, "CaO": 4.81, "NiO": 4.18, "TiO": 4.18, "FeO": 4.33, "ZnO": 4.28}
_ADSORBATES = ("CO", "OH", "H2O", "NH3", "CH3OH", "CH3CH2OH", "C2H4", "HCOOH", "N2H4")
_LAYERS = 4


def bench_slabs() -> list[Structure]:
  """Two slabs of 74 atoms each, with which the published implementation was timed."""
  return [
    _bench_slab("Cu", "CO", 1.9, "ontop", 1, seed=201),
    _bench_slab("Pt", "OH", 2.0, "bridge", 0, seed=202),
  ]


def toluenes(count: int = 8) -> list[Structure]:
  """Distorted toluene molecules, with which the published implementation was timed."""
  return [_toluene(100 + i) for i in range(count)]


def _bench_slab(
  metal: str, adsorbate: str, height: float, site: str, lowest: int, seed: int
) -> Structure:
  slab = ase.build.fcc111(metal, (3, 6, 4), vacuum=10.0)
  strain = np.eye(3)
  strain[:2, :2] += np.random.RandomState(seed + 1000).uniform(-0.03, 0.03, (2, 2))
  slab.set_cell(slab.cell.array @ strain, scale_atoms=True)
  tags = np.where(slab.get_tags() == 1, 1, 0)
  ase.build.add_adsorbate(
    slab, ase.build.molecule(adsorbate), height, site, mol_index=lowest
  )
  shift = np.random.RandomState(seed).uniform(-0.05, 0.05, slab.positions.shape)
  slab.positions += shift
  slab.pbc = True
  return _structure(slab, np.append(tags, np.full(len(slab) - len(tags), 2)))


def _toluene(seed: int) -> Structure:
  """Benzene with one hydrogen replaced by a methyl group."""
  benzene = ase.build.molecule("C6H6")
  positions, numbers = benzene.positions, benzene.numbers
  hydrogen = int(np.flatnonzero(numbers == 1)[0])
  distances = np.linalg.norm(positions - positions[hydrogen], axis=1)
  carbon = int(np.argmin(distances + 10 * (numbers == 1)))
  axis = (positions[hydrogen] - positions[carbon]) / distances[carbon]
  methyl = positions[carbon] + 1.51 * axis
  up = np.array([0.0, 0.0, 1.0])
  side = np.cross(axis, up)
  hydrogens = [
    methyl
    + 1.09
    * (
      np.cos(1.2305) * axis
      + np.sin(1.2305) * (np.cos(angle) * up + np.sin(angle) * side)
    )
    for angle in (0.0, 2 * np.pi / 3, 4 * np.pi / 3)
  ]
  keep = np.arange(len(numbers)) != hydrogen
  atoms = ase.Atoms(
    np.concatenate([numbers[keep], [6, 1, 1, 1]]),
    np.concatenate([positions[keep], methyl[None], hydrogens]),
  )
  atoms.positions += np.random.RandomState(seed).uniform(-0.03, 0.03, (len(atoms), 3))
  return _structure(atoms)


def random_slab(rng: np.random.Generator, mean_atoms: float = 73) -> Structure:
  """A metal alloy slab with an adsorbate, as large as OC20's on average."""
  wanted = np.clip(mean_atoms * rng.lognormal(-0.06, 0.35), 20, 220)
  metals = rng.choice(_METALS, 2, replace=False)
  sites = max(wanted / _LAYERS - 1, 4)
  rows = max(round(np.sqrt(sites)), 2)
  slab = ase.build.fcc111(
    metals[0], (rows, max(round(sites / rows), 2), _LAYERS), vacuum=10.0
  )
  slab.symbols[rng.random(len(slab)) < 0.4] = metals[1]
  tags = np.where(slab.get_tags() == 1, 1, 0)
  return _adsorbed(slab, tags, rng)


def random_oxide_slab(rng: np.random.Generator) -> Structure:
  """A rock-salt oxide slab with an adsorbate, as large as OC22's on average."""
  name = rng.choice(sorted(_OXIDES))
  cell = ase.build.bulk(name, "rocksalt", a=_OXIDES[name], cubic=True)
  slab = ase.build.surface(cell, (1, 0, 0), 2, vacuum=10.0)
  slab = slab.repeat((2, int(rng.choice([1, 2, 3], p=[0.25, 0.45, 0.3])), 1))
  height = slab.positions[:, 2]
  tags = np.where(height > height.max() - 0.1, 1, 0)
  return _adsorbed(slab, tags, rng)


def _adsorbed(slab: ase.Atoms, tags: np.ndarray, rng: np.random.Generator) -> Structure:
  """Adds an adsorbate and rattles everything."""
  adsorbate = ase.build.molecule(str(rng.choice(_ADSORBATES)))
  adsorbate.rotate(rng.uniform(0, 360), "z")
  place = rng.random(2) @ slab.cell.array[:2]
  place[2] = slab.positions[:, 2].max() + 2.0
  lowest = adsorbate.positions[adsorbate.positions[:, 2].argmin()]
  adsorbate.positions += place - lowest
  slab = slab + adsorbate
  slab.positions += rng.normal(0, 0.05, slab.positions.shape)
  slab.pbc = True
  return _structure(slab, np.append(tags, np.full(len(adsorbate), 2)))


def random_molecule(rng: np.random.Generator, num_atoms: int) -> Structure:
  """A branched organic molecule with sensible distances; about half hydrogen."""
  heavy = max(round(num_atoms * 0.48), 1)
  numbers = rng.choice([6, 7, 8], heavy, p=[0.75, 0.13, 0.12])
  positions = np.zeros((num_atoms, 3))
  for i in range(1, num_atoms):
    bond, apart = (1.45, 2.2) if i < heavy else (1.09, 1.6)
    positions[i] = _attach(positions[:i], min(i, heavy), bond, apart, rng)
  numbers = np.append(numbers, np.ones(num_atoms - heavy, int))
  return _structure(ase.Atoms(numbers, positions))


def _attach(
  placed: np.ndarray,
  parents: int,
  bond: float,
  apart: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """A place at bond length from one of the first atoms, apart from all others."""
  while True:
    parent = rng.integers(parents)
    direction = rng.normal(size=3)
    place = placed[parent] + bond * direction / np.linalg.norm(direction)
    distances = np.linalg.norm(placed - place, axis=1)
    distances[parent] = np.inf
    if distances.min() > apart:
      return place
    apart *= 0.998  # Crowded molecules have to give way in the end.


def sized_molecule(
  rng: np.random.Generator, mean: float, spread: float, smallest: int, largest: int
) -> Structure:
  """A molecule whose number of atoms is drawn from a clipped normal distribution."""
  size = int(np.clip(round(rng.normal(mean, spread)), smallest, largest))
  return random_molecule(rng, size)


def bulk_supercell(num_atoms: int) -> Structure:
  """A rattled copper crystal of at least this many atoms, for scaling."""
  per_side = num_atoms ** (1 / 3) / 4 ** (1 / 3)
  repeat = [max(int(np.floor(per_side)), 1)] * 3
  for axis in range(3):
    if 4 * np.prod(repeat) < num_atoms:
      repeat[axis] += 1
  atoms = ase.build.bulk("Cu", cubic=True).repeat(repeat)
  atoms.rattle(0.05, seed=0)
  return _structure(atoms)


def _structure(atoms: ase.Atoms, tags: np.ndarray | None = None) -> Structure:
  """A structure with random labels of a sensible size."""
  count = len(atoms)
  tags = np.full(count, 2) if tags is None else tags
  rng = np.random.default_rng(count)
  return Structure(
    positions=np.asarray(atoms.positions, np.float32),
    atomic_numbers=np.asarray(atoms.numbers, np.int32),
    cell=np.array(atoms.cell.array, np.float32),
    pbc=np.asarray(atoms.pbc, bool),
    tags=np.asarray(tags, np.int32),
    fixed=np.asarray(tags) == 0,
    energy=float(rng.normal()),
    forces=rng.normal(size=(count, 3)).astype(np.float32),
    record_id=atoms.get_chemical_formula(),
  )
