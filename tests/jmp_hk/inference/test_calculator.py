"""The ASE calculator: dynamics, relaxation, cells, phonons."""

import functools
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest
import ase
from ase import filters
from ase import optimize
from ase import phonons
from ase import units
import ase.build
from ase.calculators import calculator as ase_calculator
from ase.md import velocitydistribution
from ase.md import verlet
import chex
import numpy as np

from jmp_hk.inference import calculator
from jmp_hk.inference import smoothness
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.models.gemnet_oc import small_model

_ROOT = pathlib.Path(__file__).resolve().parents[3]


@functools.cache
def _gentle():
  """A conservative model whose forces are some tenths of eV/Å."""
  return predictors.make_predictor(
    small_model.conservative_config(), force_scale=2e-4, energy_scale=1.0
  )


def _ethanol():
  atoms = ase.build.molecule("CH3CH2OH")
  atoms.rattle(0.05, seed=1)
  atoms.calc = calculator.JMPCalculator(_gentle())
  return atoms


def _crystal(seed=0):
  structure = small_model.crystal(seed)
  atoms = ase.Atoms(
    structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=True
  )
  atoms.calc = calculator.JMPCalculator(_capped())
  return atoms


@functools.cache
def _capped():
  """The gentle model with a cutoff that atoms of the crystal keep crossing."""
  config = small_model.conservative_config()
  graph = small_model.UNCAPPED.config
  return predictors.make_predictor(config, force_scale=2e-4, graph=graph)


class CalculatorTest(absltest.TestCase):
  def test_forces_and_stress_are_derivatives_of_the_energy(self):
    atoms = _crystal()
    forces = atoms.get_forces()
    numeric = _numeric_forces(atoms)
    chex.assert_trees_all_close(
      forces, numeric, rtol=0, atol=1e-4 * np.abs(forces).max()
    )
    stress = atoms.get_stress(voigt=False)
    step, identity = 1e-5, np.eye(3)
    for i, j in ((0, 0), (1, 2), (2, 0)):
      energies = []
      for sign in (1, -1):
        strained = atoms.copy()
        strained.calc = atoms.calc
        strain = np.zeros((3, 3))
        strain[i, j] += sign * step / 2
        strain[j, i] += sign * step / 2
        strained.set_cell(atoms.cell @ (identity + strain), scale_atoms=True)
        energies.append(strained.get_potential_energy())
      numeric = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
      self.assertAlmostEqual(stress[i, j], numeric, delta=2e-4 * np.abs(stress).max())

  def test_total_energy_is_conserved(self):
    spreads = []
    for femtoseconds in (0.5, 0.25):
      atoms = _ethanol()
      rng = np.random.default_rng(0)
      velocitydistribution.thermalize_momenta(atoms, temperature_K=100, rng=rng)
      dynamics = verlet.VelocityVerlet(atoms, femtoseconds * units.fs)
      energies = []
      dynamics.attach(
        lambda: energies.append((atoms.get_total_energy(), atoms.get_kinetic_energy()))
      )
      dynamics.run(round(25 / femtoseconds))
      total, kinetic = np.ptp(energies, axis=0)
      self.assertLess(total, 1e-3 * kinetic)
      self.assertEqual(atoms.calc.num_compilations, 1)
      spreads.append(total)
    # What is left is the integrator's error, of second order in the time step.
    self.assertBetween(spreads[0] / spreads[1], 3.5, 4.5)

  def test_it_warns_once_of_energies_that_jump(self):
    atoms = _crystal()
    with self.assertNoLogs(smoothness.logger):
      atoms.get_potential_energy()
    with self.assertLogs(smoothness.logger) as logs:
      for _ in range(2):
        atoms.rattle(0.01)
        atoms.get_forces()
    self.assertLen(logs.output, 1)
    self.assertIn("its energy jumps where a neighbor comes or goes", logs.output[0])

  def test_moving_atoms_compile_at_most_three_programs(self):
    atoms = _crystal()
    before = atoms.calc.num_compilations
    rng = np.random.default_rng(0)
    energies = set()
    for _ in range(100):
      atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
      energies.add(atoms.get_potential_energy())
    self.assertLen(energies, 100)
    self.assertLessEqual(atoms.calc.num_compilations - before, 3)

  def test_relaxation(self):
    atoms = _ethanol()
    before = atoms.get_potential_energy()
    optimize.BFGS(atoms, logfile=None).run(fmax=0.05, steps=15)
    self.assertLess(atoms.get_potential_energy(), before)

  def test_relaxation_of_the_cell(self):
    atoms = _crystal()
    before, volume = atoms.get_potential_energy(), atoms.get_volume()
    # Small steps: the energy jumps where an edge crosses the cutoff.
    cell = filters.FrechetCellFilter(atoms)
    optimize.BFGS(cell, logfile=None, maxstep=0.002).run(fmax=0.01, steps=5)
    self.assertLess(atoms.get_potential_energy(), before)
    self.assertNotAlmostEqual(atoms.get_volume(), volume, places=6)

  def test_phonons(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    atoms = _crystal()
    vibrations = phonons.Phonons(
      atoms, atoms.calc, supercell=(1, 1, 1), delta=0.01, name=str(directory / "ph")
    )
    vibrations.run()
    vibrations.read(acoustic=True)
    energies = vibrations.band_structure([[0, 0, 0]])
    self.assertEqual(energies.shape, (1, 9))
    chex.assert_tree_all_finite(energies)

  def test_a_molecule_has_no_stress(self):
    with self.assertRaises(ase_calculator.PropertyNotImplementedError):
      _ethanol().get_stress()

  def test_direct_forces_have_no_stress(self):
    model = predictors.direct()
    atoms = ase.build.molecule("H2O")
    atoms.calc = calculator.JMPCalculator(model, "second")
    [expected] = model.predict([atoms], "second")
    self.assertAlmostEqual(atoms.get_potential_energy(), expected.energy, places=8)
    chex.assert_trees_all_close(
      atoms.get_forces(), expected.forces, rtol=1e-7, atol=1e-8
    )
    self.assertNotIn("stress", atoms.calc.implemented_properties)

  def test_tensorflow_is_not_imported(self):
    program = (
      "import sys, jmp_hk.inference.calculator\n"
      "assert 'jax' in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=_ROOT, check=True)


def _numeric_forces(atoms, step=1e-4):
  """Forces by central differences."""
  forces = np.zeros((len(atoms), 3))
  for index in np.ndindex(forces.shape):
    energies = []
    for sign in (1, -1):
      moved = atoms.copy()
      moved.calc = atoms.calc
      moved.positions[index] += sign * step
      energies.append(moved.get_potential_energy())
    forces[index] = (energies[1] - energies[0]) / (2 * step)
  return forces


if __name__ == "__main__":
  absltest.main()
