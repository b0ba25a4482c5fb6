"""Molecular dynamics and relaxations in compiled loops, against ASE's loops."""

import functools
import pathlib
import tempfile

from absl.testing import absltest
import ase
from ase import constraints
from ase import filters
from ase import io as ase_io
from ase import optimize
from ase import units
import ase.build
from ase.md import velocitydistribution
from ase.md import verlet
import chex
import jax
import numpy as np

from jmp_hk import dynamics
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import calculator
from jmp_hk.inference import predictor
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.models.gemnet_oc import small_model

_GRAPH = graph_config.GraphConfig(
  cutoff=4.5, max_neighbors=16, truncation=graph_config.Truncation.SMOOTH
)


def setUpModule():
  jax.config.update("jax_disable_most_optimizations", True)


def tearDownModule():
  jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def _model():
  """A smooth conservative model in float64 whose forces are some tenths of eV/Å."""
  return predictors.make_predictor(
    small_model.conservative_config(), force_scale=2e-4, graph=_GRAPH
  )


def _crystal(temperature: float = 400.0):
  structure = small_model.crystal(0)
  atoms = ase.Atoms(
    structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=True
  )
  if temperature:
    velocitydistribution.thermalize_momenta(
      atoms, temperature_K=temperature, rng=np.random.default_rng(0)
    )
  return atoms


def _same(first: ase.Atoms, second: ase.Atoms, tolerance: float = 1e-9) -> None:
  chex.assert_trees_all_close(
    (first.positions, first.get_momenta(), np.array(first.cell)),
    (second.positions, second.get_momenta(), np.array(second.cell)),
    rtol=0,
    atol=tolerance,
  )


class DynamicsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self._folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def test_constant_energy_is_the_trajectory_of_ase(self):
    atoms = _crystal()
    atoms.set_constraint(constraints.FixAtoms([1]))
    momenta = atoms.get_momenta()
    momenta[1] = 0
    atoms.set_momenta(momenta)
    path = self._folder / "md.traj"
    # A small skin: neighbors are searched for again on the way.
    ours = dynamics.run_nve(
      _model(), atoms, num_steps=24, interval=8, skin=0.04, trajectory=path
    )
    theirs = atoms.copy()
    theirs.calc = calculator.JMPCalculator(_model())
    frames = [theirs.copy()]
    motion = verlet.VelocityVerlet(theirs, 0.5 * units.fs)
    for _ in range(3):
      motion.run(8)
      frames.append(theirs.copy())
    self.assertGreater(np.abs(theirs.positions - atoms.positions).max(), 0.03)
    _same(ours, theirs)
    self.assertAlmostEqual(
      ours.get_potential_energy(), theirs.get_potential_energy(), places=9
    )
    chex.assert_trees_all_close(
      ours.calc.results["forces"], theirs.calc.results["forces"], atol=1e-9
    )
    chex.assert_trees_all_close(ours.get_stress(), theirs.get_stress(), atol=1e-9)
    written = ase_io.read(path, ":")
    self.assertEqual([frame.info["step"] for frame in written], [0, 8, 16, 24])
    for one, other in zip(written, frames, strict=True):
      _same(one, other)

  def test_a_run_that_was_stopped_continues(self):
    def run(name, num_steps, suffix=".extxyz"):
      return dynamics.run_npt(
        _model(),
        _crystal(0),
        temperature_K=500,
        pressure_GPa=1,
        num_steps=num_steps,
        interval=5,
        trajectory=self._folder / f"{name}{suffix}",
        logfile=self._folder / f"{name}.log",
        restart=self._folder / f"{name}.npz",
      )

    whole = run("whole", 15)
    run("parts", 10)
    # Killed after a frame was written and before the restart file was.
    log = self._folder / "parts.log"
    frames = self._folder / "parts.extxyz"
    frames.write_text(frames.read_text() + "3\nhalf a fra")
    log.write_text(log.read_text() + " 0.1")
    _same(whole, run("parts", 15), tolerance=0)
    for name in (".extxyz", ".log"):
      self.assertEqual(
        (self._folder / f"whole{name}").read_bytes(),
        (self._folder / f"parts{name}").read_bytes(),
      )
    self.assertLen(log.read_text().splitlines(), 5)
    self.assertNotAlmostEqual(whole.get_volume(), _crystal().get_volume(), places=6)
    with self.assertRaisesRegex(dynamics.OtherRunError, "friction_per_fs was 0.01"):
      dynamics.run_npt(
        _model(),
        _crystal(0),
        temperature_K=500,
        pressure_GPa=1,
        friction_per_fs=0.02,
        num_steps=20,
        restart=self._folder / "parts.npz",
      )
    with self.assertRaisesRegex(dynamics.OtherRunError, "weights was"):
      dynamics.run_npt(
        predictor.Predictor(
          _model().config,
          _model().infos,
          jax.tree.map(lambda x: 1.01 * x, _model().variables),
          precision=_model().precision,
        ),
        _crystal(0),
        temperature_K=500,
        pressure_GPa=1,
        num_steps=20,
        restart=self._folder / "parts.npz",
      )

  def test_cells_relax_to_the_minima_of_ase(self):
    structures = [_crystal(0) for _ in range(3)]
    for seed, atoms in enumerate(structures[1:]):
      atoms.rattle(0.03, seed=seed)
    # Two of them fit into a batch.
    results = dynamics.relax(
      _model(), structures, fmax=0.003, cell=True, max_steps=40, batch_edges=100
    )
    for atoms, result in zip(structures, results, strict=True):
      theirs = atoms.copy()
      theirs.calc = calculator.JMPCalculator(_model())
      before = theirs.get_potential_energy()
      search = optimize.FIRE(filters.UnitCellFilter(theirs), logfile=None)
      search.run(fmax=0.003, steps=40)
      self.assertEqual(result.num_steps, search.get_number_of_steps())
      self.assertEqual(result.converged, result.fmax < 0.003)
      self.assertLess(result.atoms.get_potential_energy(), before)
      chex.assert_trees_all_close(
        (result.atoms.positions, np.array(result.atoms.cell)),
        (theirs.positions, np.array(theirs.cell)),
        rtol=0,
        atol=1e-6,
      )

  def test_wrong_input_is_explained(self):
    atoms = _crystal()
    with self.assertRaisesRegex(ValueError, "timestep_fs must be a positive"):
      dynamics.run_nve(_model(), atoms, num_steps=1, timestep_fs=-1)
    with self.assertRaisesRegex(ValueError, "must end in .traj"):
      dynamics.run_nve(_model(), atoms, num_steps=1, trajectory="md.xtc")
    fixed = atoms.copy()
    fixed.set_constraint(constraints.FixBondLength(0, 1))
    with self.assertRaisesRegex(ValueError, "FixBondLength"):
      dynamics.run_nve(_model(), fixed, num_steps=1)
    with self.assertRaisesRegex(ValueError, "periodic in all directions"):
      dynamics.run_npt(
        _model(), ase.build.molecule("H2O"), temperature_K=300, num_steps=1
      )
    there = self._folder / "md.traj"
    there.write_bytes(b"")
    with self.assertRaisesRegex(dynamics.OtherRunError, "exists"):
      dynamics.run_nve(_model(), atoms, num_steps=1, trajectory=there)
    with self.assertRaises(structure_lib.InvalidStructureError):
      dynamics.relax(_model(), ase.Atoms("H2", [[0, 0, 0], [0, 0, 0]]))
    self.assertEqual(dynamics.relax(_model(), []), [])

  def test_an_explosion_is_an_error(self):
    atoms = _crystal()
    atoms.set_momenta(1e4 * np.ones((3, 3)) * [[1], [-1], [0]])
    with self.assertRaisesRegex(dynamics.DynamicsError, "shorter time step"):
      dynamics.run_nve(_model(), atoms, num_steps=3, skin=0.04)


if __name__ == "__main__":
  absltest.main()
