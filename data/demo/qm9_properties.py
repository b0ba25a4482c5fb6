"""The fifteen QM9 properties of a molecule, from GFN2-xTB (and one from Hartree-Fock).

Rotational constants from the geometry; dipole, orbital energies, Mulliken-type
charges and total energy from the GFN2-xTB wave function; polarisability from its
dipole in finite fields; zero-point energy and the functions of temperature (298.15 K,
1 atm, symmetry number 1) from the numerical Hessian with rigid rotor and harmonic
oscillator. The electronic spatial extent needs a density in real space: it is
HF/STO-3G (PySCF) at the GFN2-xTB geometry.
"""

# Its programs are those of data/demo/requirements.txt.
# pyright: reportMissingImports=false

import dataclasses

import ase
from ase import units
import numpy as np
from pyscf import gto
from pyscf import scf
from tblite import interface
from tblite import library

from data.demo import molecules

_TEMPERATURE, _PRESSURE = 298.15, 101325.0  # K, Pa
_KT = units.kB * _TEMPERATURE / units.Hartree
_CAL = units.Hartree / (units.kcal / units.mol) * 1e3  # hartree/K -> cal/(mol K)
_DEBYE = units.Bohr / units.Debye  # e*bohr -> debye
_FIELD = 0.002  # atomic units


@dataclasses.dataclass(frozen=True)
class Properties:
  """What one QM9 file holds beside the geometry.

  Attributes:
    scalars: A, B, C (GHz), mu (debye), alpha (bohr^3), homo, lumo, gap (hartree), r2
      (bohr^2), zpve, U0, U, H, G (hartree), Cv (cal/(mol K)).
    charges: [N] partial charges.
    wavenumbers: Harmonic vibrations in 1/cm.
  """

  scalars: tuple[float, ...]
  charges: np.ndarray
  wavenumbers: np.ndarray


def _single_point(
  numbers: np.ndarray, positions: np.ndarray, field: np.ndarray | None = None
) -> interface.Result:
  """GFN2-xTB wave function, in an electric field (atomic units) if given."""
  calculator = interface.Calculator("GFN2-xTB", numbers, positions / units.Bohr)
  calculator.set("verbosity", 0)
  calculator.set("accuracy", 0.01)
  if field is not None:
    calculator.add("electric-field", library.ffi.new("double[3]", list(field)))
  return calculator.singlepoint()


def _polarisability(numbers: np.ndarray, positions: np.ndarray) -> float:
  """Isotropic polarisability in bohr^3."""
  diagonal = []
  for axis in np.eye(3):
    up, down = (
      _single_point(numbers, positions, sign * _FIELD * axis).get("dipole")
      for sign in (1, -1)
    )
    diagonal.append((up - down) @ axis / (2 * _FIELD))
  return float(np.mean(diagonal))


def _spatial_extent(numbers: np.ndarray, positions: np.ndarray) -> float:
  """HF/STO-3G expectation of r^2 about the centre of nuclear charge, in bohr^2."""
  origin = numbers @ positions / numbers.sum()
  mol = gto.M(
    atom=[(int(z), tuple(p - origin)) for z, p in zip(numbers, positions, strict=True)],
    basis="sto-3g",
    verbose=0,
  )
  field = scf.RHF(mol)
  field.kernel()
  return float(np.einsum("ij,ji", mol.intor("int1e_r2"), field.make_rdm1()))


def _rotational_constants(atoms: ase.Atoms) -> np.ndarray:
  """A, B, C in GHz, descending; 0 for the axis of a linear molecule."""
  moments = np.asarray(atoms.get_moments_of_inertia()) * units._amu * 1e-20
  constants = [
    units._hplanck / (8 * np.pi**2 * m) * 1e-9 if m > 1e-48 else 0.0 for m in moments
  ]
  return np.array(constants)


def thermochemistry(
  wavenumbers: np.ndarray, rotations: np.ndarray, mass: float
) -> tuple[float, float, float, float]:
  """Rigid rotor, harmonic oscillator, ideal gas at 298.15 K and 1 atm.

  Args:
    wavenumbers: In 1/cm.
    rotations: Non-zero rotational constants in GHz; empty for an atom.
    mass: In amu.

  Returns:
    Zero-point energy, U - U0 and entropy times T in hartree, Cv in cal/(mol K).
  """
  quanta = wavenumbers * units.invcm / units.Hartree
  x = quanta / _KT
  occupied = quanta / np.expm1(x)
  thermal = 1.5 * _KT + occupied.sum()
  heat = 1.5 + (x**2 * np.exp(x) / np.expm1(x) ** 2).sum()
  si_kt = units._k * _TEMPERATURE
  volume = si_kt / _PRESSURE
  wave = (2 * np.pi * mass * units._amu * si_kt / units._hplanck**2) ** 1.5
  entropy = np.log(wave * volume) + 2.5
  entropy += (occupied / _KT - np.log1p(-np.exp(-x))).sum()
  if len(rotations):
    degrees = 2 if len(rotations) == 2 else 3
    thermal, heat = thermal + degrees / 2 * _KT, heat + degrees / 2
    ratio = si_kt / (units._hplanck * rotations * 1e9)
    if degrees == 2:
      entropy += np.log(ratio[0]) + 1
    else:
      entropy += 0.5 * np.log(np.pi * ratio.prod()) + 1.5
  heat *= units.kB / units.Hartree * _CAL
  return 0.5 * quanta.sum(), float(thermal), float(_KT * entropy), float(heat)


def compute(atoms: ase.Atoms) -> Properties | None:
  """All properties of a relaxed molecule; None where it is not a minimum."""
  numbers, positions = atoms.numbers, atoms.positions
  result = _single_point(numbers, positions)
  wavenumbers = _wavenumbers(atoms)
  if wavenumbers.min() < 20:
    return None
  orbitals, filled = result.get("orbital-energies"), result.get("orbital-occupations")
  homo, lumo = orbitals[filled > 1].max(), orbitals[filled <= 1].min()
  rotations = _rotational_constants(atoms)
  zero, thermal, entropy, heat = thermochemistry(
    wavenumbers, rotations[rotations > 0], atoms.get_masses().sum()
  )
  lowest = result.get("energy") + zero
  inner, enthalpy = lowest + thermal, lowest + thermal + _KT
  scalars = (
    *rotations,
    np.linalg.norm(result.get("dipole")) * _DEBYE,
    _polarisability(numbers, positions),
    homo,
    lumo,
    lumo - homo,
    _spatial_extent(numbers, positions),
    zero,
    lowest,
    inner,
    enthalpy,
    enthalpy - entropy,
    heat,
  )
  return Properties(tuple(map(float, scalars)), result.get("charges"), wavenumbers)


def _wavenumbers(atoms: ase.Atoms) -> np.ndarray:
  """Vibrations, without touching ``atoms``."""
  copy = atoms.copy()
  copy.calc = molecules.gfn2()
  return molecules.vibrations(copy).wavenumbers


def atom_reference() -> str:
  """``atomref.txt``: the same functions for the free atoms, in hartree, cal/(mol K)."""
  lines = [
    "Ele-\tZPVE\tU (0 K)\tU (298.15 K)\tH (298.15 K)\tG (298.15 K)\tCV",
    "ment\thartree\thartree\thartree\thartree\thartree\tCal/(Mol Kelvin)",
  ]
  for symbol in "HCNOF":
    atom = ase.Atoms(symbol, [[0, 0, 0]])
    energy = _single_point(atom.numbers, atom.positions).get("energy")
    _, thermal, entropy, heat = thermochemistry(
      np.zeros(0), np.zeros(0), atom.get_masses()[0]
    )
    enthalpy = energy + thermal + _KT
    values = (energy, energy + thermal, enthalpy, enthalpy - entropy)
    cells = ["0.000000", *(f"{v:.6f}" for v in values), f"{heat:.3f}"]
    lines.append("\t".join([symbol, *cells]))
  return "\n".join(lines) + "\n"
