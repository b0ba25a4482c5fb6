"""Dynamics and relaxations of more kinds of structures than the fast tests have.

Every kind compiles a program of its own.
"""

from absl.testing import absltest
from ase import constraints
from ase import optimize
import ase.build
import chex
import numpy as np

from jmp_hk import dynamics
from jmp_hk.inference import calculator
from tests.jmp_hk.dynamics import test_dynamics

_crystal, _model = test_dynamics._crystal, test_dynamics._model


class ManyStructuresTest(absltest.TestCase):
  def test_fixed_atoms_rest_in_a_thermostat(self):
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.set_constraint(constraints.FixAtoms([0, 2]))
    ours = dynamics.run_langevin(_model(), atoms, temperature_K=300, num_steps=5)
    moved = np.abs(ours.positions - atoms.positions).max(axis=1)
    self.assertEqual(np.flatnonzero(moved == 0).tolist(), [0, 2])
    self.assertFalse(ours.get_momenta()[[0, 2]].any())
    self.assertGreater(ours.get_temperature(), 10)

  def test_relaxation_finds_the_minima_of_ase(self):
    rattled = _crystal(0)
    rattled.rattle(0.05, seed=3)
    structures = [rattled, *map(ase.build.molecule, ("H2O", "CH3OH"))]
    results = dynamics.relax(
      _model(), structures, fmax=0.03, batch_edges=160, max_steps=200
    )
    for atoms, result in zip(structures, results, strict=True):
      theirs = atoms.copy()
      theirs.calc = calculator.JMPCalculator(_model())
      search = optimize.FIRE(theirs, logfile=None)
      search.run(fmax=0.03, steps=200)
      self.assertTrue(result.converged)
      self.assertEqual(result.num_steps, search.get_number_of_steps())
      self.assertLess(result.fmax, 0.03)
      chex.assert_trees_all_close(
        result.atoms.positions, theirs.positions, rtol=0, atol=1e-7
      )
      self.assertAlmostEqual(
        result.atoms.get_potential_energy(), theirs.get_potential_energy(), places=7
      )


if __name__ == "__main__":
  absltest.main()
