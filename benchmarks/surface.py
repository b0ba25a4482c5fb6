"""Properties of a potential energy surface: symmetry, minima, elasticity, dynamics.

Every function takes an ASE calculator and an fcc metal or a molecule, and returns
numbers in ASE's units unless their names say otherwise.
"""

from collections.abc import Callable
from collections.abc import Sequence
import time
from typing import Any

import ase
from ase import filters
from ase import geometry
from ase import optimize
from ase import units
import ase.build
from ase.calculators import calculator as ase_calculator
from ase.md import velocitydistribution
from ase.md import verlet
import numpy as np
from scipy import optimize as scipy_optimize

Result = dict[str, Any]
Calculator = ase_calculator.Calculator

BINS = 120  # Of the radial distribution function, up to RANGE.
RANGE = 7.0  # Å
FORCE = 0.005  # eV/Å, to which structures are relaxed.
_CELLS = (1, 4, 8, 27, 64)  # Atoms; that of 4 is the cubic one.
_EVERY = 10  # Steps between two samples of the energy.
_SETTLING = 0.2  # ps until a lattice has shared out its kinetic energy.
_STRAIN = 0.005
_RELAXATION = 60  # Steps at most.
_LAST = 5  # Steps whose energies are compared at the end of a relaxation.


def compare_cells(calc: Calculator, symbol: str = "Cu", a: float = 3.6) -> Result:
  """Energies per atom, forces and stress of one crystal in several cells."""
  energies, force, anisotropy = [], 0.0, 0.0
  for count in _CELLS:
    atoms = ase.build.bulk(symbol, "fcc", a=a, cubic=count == 4)
    if count != 4:
      atoms = atoms.repeat(round(count ** (1 / 3)))
    atoms.calc = calc
    energies.append(float(1e3 * atoms.get_potential_energy() / count))
    force = max(force, float(np.abs(atoms.get_forces()).max()))
    stress = atoms.get_stress(voigt=False)
    stress -= np.eye(3) * stress.trace() / 3
    anisotropy = max(anisotropy, float(np.abs(stress).max()) / units.GPa)
  return {
    "cells": _CELLS,
    "mev_per_atom": [round(energy, 3) for energy in energies],
    "largest_force": rounded(force),
    "anisotropic_stress_gpa": rounded(anisotropy),
  }


def relax(calc: Calculator, symbols: Sequence[str] = ("Cu",)) -> Result:
  """BFGS on the positions and the cell of a rattled and strained crystal."""
  atoms = ase.build.bulk("Cu", "fcc", a=3.7).repeat(2)
  rng = np.random.default_rng(1)
  atoms.symbols[:] = rng.choice(list(symbols), len(atoms))
  atoms.rattle(0.1, rng=rng)
  atoms.calc = calc
  largest, energies = [], []
  cell = filters.FrechetCellFilter(atoms)
  # ASE's optimisers take filters, too.
  optimizer = optimize.BFGS(cell, logfile=None)  # pyright: ignore[reportArgumentType]

  def sample():
    energies.append(atoms.get_potential_energy())
    largest.append(float(np.linalg.norm(cell.get_forces(), axis=1).max()))

  optimizer.attach(sample)
  is_converged = bool(optimizer.run(fmax=FORCE, steps=_RELAXATION))
  return {
    "relaxation_steps": len(largest) - 1 if is_converged else None,
    "last_largest_force": rounded(largest[-1]),
    "last_energies_range_mev": rounded(1e3 * float(np.ptp(energies[-_LAST:]))),
    "relaxation": largest,
  }


def elasticity(calc: Calculator, symbol: str = "Cu") -> Result:
  """Lattice constant in Å and elastic constants in GPa of an fcc crystal."""

  def primitive(a: float) -> ase.Atoms:
    atoms = ase.build.bulk(symbol, "fcc", a=a)
    atoms.calc = calc
    return atoms

  found = scipy_optimize.fminbound(
    lambda a: primitive(a).get_potential_energy(), 3.45, 3.8, xtol=1e-5
  )
  a = float(np.asarray(found))

  def stress(i: int, j: int, strain: float) -> np.ndarray:
    atoms = primitive(a)
    matrix = np.eye(3)
    matrix[i, j] += strain / 2
    matrix[j, i] += strain / 2
    atoms.set_cell(atoms.cell.array @ matrix, scale_atoms=True)
    return atoms.get_stress()

  def slope(i: int, j: int) -> np.ndarray:
    ends = stress(i, j, _STRAIN) - stress(i, j, -_STRAIN)
    return ends / (2 * _STRAIN) / units.GPa

  axial, shear = slope(0, 0), slope(1, 2)
  return {
    "lattice_constant": round(a, 4),
    "c11": round(float(axial[0]), 1),
    "c12": round(float(axial[1] + axial[2]) / 2, 1),
    "c44": round(float(shear[3]), 1),
  }


def constant_energy(
  atoms: ase.Atoms,
  time_step: float,
  picoseconds: float,
  on_sample: Callable[[ase.Atoms], None] = lambda atoms: None,
) -> Result:
  """Velocity Verlet, and the drift of the total energy.

  Args:
    atoms: with velocities and a calculator.
    time_step: fs.
    picoseconds: length of the run after the lattice has settled.
    on_sample: called at every sample.

  Returns:
    The slope of a line through the total energy in meV per atom and ps, its standard
    error, the spread around the line, temperature, ms per step, and the curve.
  """
  dynamics = verlet.VelocityVerlet(atoms, time_step * units.fs)
  dynamics.run(round(1e3 * _SETTLING / time_step))
  total, temperatures = [], []

  def sample():
    total.append(1e3 * atoms.get_total_energy() / len(atoms))
    temperatures.append(atoms.get_temperature())
    on_sample(atoms)

  dynamics.attach(sample, interval=_EVERY)
  start = time.perf_counter()
  steps = round(1e3 * picoseconds / time_step)
  dynamics.run(steps)
  seconds = time.perf_counter() - start
  times = np.arange(len(total)) * _EVERY * time_step * 1e-3
  line, covariance = np.polyfit(times, total, 1, cov=True)
  rest = np.array(total) - np.polyval(line, times)
  return {
    "temperature": round(float(np.mean(temperatures))),
    "picoseconds": picoseconds,
    "time_step_fs": time_step,
    "drift_mev_per_atom_ps": rounded(line[0]),
    "drift_error": rounded(covariance[0, 0] ** 0.5),
    "spread_mev_per_atom": rounded(rest.std()),
    "ms_per_step": round(1e3 * seconds / steps, 1),
    "times_ps": times.round(4).tolist(),
    "energies": (np.array(total) - total[0]).round(5).tolist(),
  }


class Pairs:
  """Gathers the radial distribution function of an fcc supercell."""

  def __init__(self):
    self._counts = np.zeros(BINS)
    self._scale = 0.0  # Pairs per volume of a shell at a uniform density.

  def add(self, atoms: ase.Atoms) -> None:
    """Counts the pairs of one configuration."""
    _, distances = geometry.get_distances(
      atoms.positions, cell=atoms.cell, pbc=atoms.pbc
    )
    found = distances[np.triu_indices(len(atoms), 1)]
    self._counts += np.histogram(found, BINS, (0, RANGE))[0]
    self._scale += len(atoms) * (len(atoms) - 1) / 2 / atoms.get_volume()

  def curve(self) -> list[float]:
    """g(r) at the middles of the bins."""
    edges = np.linspace(0, RANGE, BINS + 1)
    volumes = 4 / 3 * np.pi * np.diff(edges**3)
    return (self._counts / (self._scale * volumes)).round(4).tolist()


def copper_dynamics(calc: Calculator, picoseconds: float) -> Result:
  """256 atoms at 600 K."""
  atoms = ase.build.bulk("Cu", "fcc", a=3.65, cubic=True).repeat(4)
  atoms.calc = calc
  # Half of the kinetic energy goes into the potential one of the perfect lattice.
  velocitydistribution.thermalize_momenta(
    atoms, temperature_K=1200, rng=np.random.default_rng(0)
  )
  velocitydistribution.Stationary(atoms)
  pairs = Pairs()
  result = constant_energy(atoms, 1.0, picoseconds, pairs.add)
  return {"dynamics": result, "pairs": pairs.curve()}


def ethanol_dynamics(calc: Calculator, picoseconds: float) -> Result:
  """A relaxed molecule that gets the energy of 300 K."""
  atoms = ase.build.molecule("CH3CH2OH")
  atoms.calc = calc
  optimize.BFGS(atoms, logfile=None).run(fmax=0.01, steps=100)
  velocitydistribution.thermalize_momenta(
    atoms, temperature_K=600, rng=np.random.default_rng(0)
  )
  velocitydistribution.Stationary(atoms)
  velocitydistribution.ZeroRotation(atoms)
  return {"dynamics": constant_energy(atoms, 0.5, picoseconds)}


def rounded(value: float | np.floating) -> float:
  """Three significant digits."""
  return float(f"{value:.3g}")
