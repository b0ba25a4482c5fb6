"""Molecules for the demo corpora: SMILES to GFN2-xTB minimum, normal modes."""

# Its programs are those of data/demo/requirements.txt.
# pyright: reportMissingImports=false

import dataclasses

import ase
from ase import units
import ase.calculators.calculator
import ase.optimize
import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem
import tblite.ase

# sqrt(eV / (amu * angstrom^2)) as a wave number in 1/cm.
_QUANTUM = units._hbar * 1e10 * np.sqrt(units._e / units._amu) / units._e  # eV
_WAVENUMBER = _QUANTUM / units.invcm


def gfn2() -> ase.calculators.calculator.Calculator:
  """A silent GFN2-xTB calculator."""
  return tblite.ase.TBLite(method="GFN2-xTB", verbosity=0)


def embed(smiles: str, seed: int = 1) -> ase.Atoms:
  """Three-dimensional structure; heavy atoms in SMILES order, then their hydrogens.

  Args:
    smiles: SMILES without explicit hydrogens.
    seed: Seed of the distance-geometry embedding.

  Raises:
    ValueError: If the SMILES cannot be embedded.
  """
  mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
  if AllChem.EmbedMolecule(mol, randomSeed=seed) != 0:
    raise ValueError(f"cannot embed {smiles}")
  numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
  return ase.Atoms(numbers, mol.GetConformer().GetPositions())


def relax(atoms: ase.Atoms, fmax: float = 1e-3, steps: int = 300) -> bool:
  """Relaxes in place with GFN2-xTB; returns whether it converged."""
  atoms.calc = gfn2()
  with ase.optimize.BFGS(atoms, logfile=None, maxstep=0.1) as optimizer:
    return optimizer.run(fmax=fmax, steps=steps)


@dataclasses.dataclass(frozen=True)
class Modes:
  """Vibrations of a minimum.

  Attributes:
    wavenumbers: [M] wave numbers in 1/cm, ascending; imaginary ones negative.
    vectors: [M, N, 3] mass-weighted unit vectors.
    masses: [N] masses in amu.
  """

  wavenumbers: np.ndarray
  vectors: np.ndarray
  masses: np.ndarray


def vibrations(atoms: ase.Atoms, step: float = 0.005) -> Modes:
  """Normal modes of a GFN2-xTB minimum, translations and rotations removed.

  Args:
    atoms: A relaxed molecule with its calculator.
    step: Displacement of the central finite difference in angstrom.
  """
  n, origin, masses = len(atoms), atoms.positions.copy(), atoms.get_masses()
  hessian = np.zeros((3 * n, 3 * n))
  for i in range(3 * n):
    for sign in (1, -1):
      atoms.positions.flat[i] = origin.flat[i] + sign * step
      hessian[i] -= sign * atoms.get_forces().ravel() / (2 * step)
      atoms.positions[:] = origin
  weight = np.repeat(masses, 3) ** -0.5
  hessian = 0.5 * (hessian + hessian.T) * weight[:, None] * weight[None]
  kept = _internal_space(origin - atoms.get_center_of_mass(), masses)
  values, vectors = np.linalg.eigh(kept.T @ hessian @ kept)
  wavenumbers = np.sign(values) * np.sqrt(np.abs(values)) * _WAVENUMBER
  return Modes(wavenumbers, (kept @ vectors).T.reshape(-1, n, 3), masses)


def _internal_space(positions: np.ndarray, masses: np.ndarray) -> np.ndarray:
  """[3N, M] orthonormal basis without translations and rotations."""
  root = np.sqrt(masses)[:, None]
  rigid = [root * axis * np.ones_like(positions) for axis in np.eye(3)]
  rigid += [root * np.cross(axis, positions) for axis in np.eye(3)]
  left, singular, _ = np.linalg.svd(np.array([r.ravel() for r in rigid]).T)
  rank = int((singular > 1e-2 * singular[0]).sum())
  return left[:, rank:]


def sample(
  atoms: ase.Atoms, modes: Modes, temperature: float, rng: np.random.Generator
) -> np.ndarray:
  """Positions displaced along normal modes, harmonic and classical, as in ANI-1x.

  Wave numbers below 400/cm count as 400/cm: soft rotors move along arcs, which a
  straight displacement cannot follow.

  Args:
    atoms: The minimum.
    modes: Its vibrations.
    temperature: In kelvin.
    rng: Source of the amplitudes.

  Returns:
    [N, 3] positions in angstrom.
  """
  stiffness = (np.maximum(modes.wavenumbers, 400.0) / _WAVENUMBER) ** 2
  amplitudes = np.sqrt(units.kB * temperature / stiffness) * rng.normal(
    size=len(stiffness)
  )
  shift = np.einsum("m,mni->ni", amplitudes, modes.vectors)
  return atoms.positions + shift / np.sqrt(modes.masses)[:, None]
