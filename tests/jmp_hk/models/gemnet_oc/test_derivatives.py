"""Conservative forces and stress are derivatives of the energy, in float64."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import chex
import numpy as np

from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.models.gemnet_oc import small_model

_STEP = 1e-6  # Å


def _acetylene(bend: float = 0.0):
  """H-C-C-H, linear but for a bend (Å) of the last atom."""
  positions = np.array([[0, 0, -1.67], [0, 0, -0.6], [0, 0, 0.6], [0, bend, 1.66]])
  # Not along an axis, so that nothing is zero by accident.
  turn, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((3, 3)))
  return helpers.make_structure(positions @ turn, np.array([1, 6, 6, 1], np.int32))


def _rocksalt():
  """Two atoms, ideal: nearly every triple of neighbors is collinear somewhere."""
  cell = 2.6 * (np.ones((3, 3)) - np.eye(3))
  return helpers.make_structure(
    np.array([[0, 0, 0], [2.6, 0, 0]]),
    numbers=np.array([11, 17], np.int32),
    cell=cell,
    pbc=True,
  )


def _slope(structure, direction, step=_STEP) -> float:
  """Central difference of the energy along a displacement of all atoms."""
  evaluate = small_model.conservative()
  moved = [
    dataclasses.replace(structure, positions=structure.positions + sign * direction)
    for sign in (step, -step)
  ]
  energies = evaluate(moved)["energy"]
  return (energies[0] - energies[1]) / (2 * step)


class DerivativesTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("molecule", small_model.molecule),
    ("crystal", small_model.crystal),
    (
      "slab",
      lambda: dataclasses.replace(
        small_model.crystal(),
        pbc=np.array([True, True, False]),
        tags=np.array([0, 1, 2], np.int32),
      ),
    ),
    ("nearly_linear", lambda: _acetylene(bend=0.01)),
  )
  def test_forces_are_finite_differences_of_the_energy(self, make):
    structure = make()
    forces = small_model.conservative()([structure])["forces"]
    rng = np.random.default_rng(0)
    for _ in range(3):
      direction = rng.standard_normal(forces.shape)
      expected = _slope(structure, direction)
      scale = np.linalg.norm(forces) * np.linalg.norm(direction)
      self.assertLess(abs(-(forces * direction).sum() - expected), 1e-6 * scale)

  @parameterized.parameters(0.0, 2e-5)
  def test_collinear_atoms(self, bend):
    # Below the threshold of collinearity forces are finite, and still the derivative
    # along motions that stay below it.
    structure = _acetylene(bend)
    forces = small_model.conservative()([structure])["forces"]
    self.assertTrue(np.isfinite(forces).all())
    ends = structure.positions[2] - structure.positions[1]
    axis = ends / np.linalg.norm(ends)
    for stretch in ([1.0, 0.2, -0.4, 0.6], [0.0, 0.0, 1.0, 0.0]):
      direction = np.array(stretch)[:, None] * axis
      expected = _slope(structure, direction)
      scale = np.linalg.norm(forces) * np.linalg.norm(direction)
      self.assertLess(abs(-(forces * direction).sum() - expected), 1e-7 * scale)

  def test_forces_of_an_ideal_crystal_vanish_by_symmetry(self):
    predictions = small_model.conservative()([_rocksalt()])
    self.assertTrue(np.isfinite(predictions["energy"]).all())
    scale = np.abs(predictions["stress"]).max()
    self.assertLess(np.abs(predictions["forces"]).max(), 1e-9 * scale)
    # Cubic symmetry leaves pressure alone.
    pressure = predictions["stress"][0].trace() / 3
    chex.assert_trees_all_close(
      predictions["stress"][0], pressure * np.eye(3), atol=1e-9 * scale, rtol=1e-7
    )

  def test_stress_is_the_derivative_with_respect_to_strain(self):
    evaluate, crystal = small_model.conservative(), small_model.crystal()
    stress = evaluate([crystal])["stress"][0]
    chex.assert_trees_all_close(
      stress, stress.T, atol=1e-12 * np.abs(stress).max(), rtol=1e-7
    )
    volume = abs(np.linalg.det(crystal.cell))
    rng = np.random.default_rng(1)
    for _ in range(3):
      strain = rng.standard_normal((3, 3))
      strain = strain + strain.T
      strained = []
      for step in (1e-6, -1e-6):
        deformation = np.eye(3) + step * strain
        strained.append(
          dataclasses.replace(
            crystal,
            positions=crystal.positions @ deformation,
            cell=crystal.cell @ deformation,
          )
        )
      energies = evaluate(strained)["energy"]
      expected = (energies[0] - energies[1]) / 2e-6 / volume
      scale = np.linalg.norm(stress) * np.linalg.norm(strain)
      self.assertLess(abs((stress * strain).sum() - expected), 1e-6 * scale)

  def test_structures_without_volume_have_no_stress(self):
    chex.assert_trees_all_equal(
      small_model.conservative()([small_model.molecule()])["stress"], 0
    )

  def test_no_net_force_and_no_net_torque(self):
    evaluate, molecule = small_model.conservative(), small_model.molecule()
    for structure in (molecule, small_model.crystal(), _acetylene(0.3)):
      forces = evaluate([structure])["forces"]
      self.assertLess(np.abs(forces.sum(0)).max(), 1e-10 * np.abs(forces).max())
    forces = evaluate([molecule])["forces"]
    torque = np.cross(molecule.positions, forces).sum(0)
    self.assertLess(np.abs(torque).max(), 1e-10 * np.abs(forces).max())


if __name__ == "__main__":
  absltest.main()
