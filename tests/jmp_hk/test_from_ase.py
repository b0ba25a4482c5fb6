"""ASE's `Atoms` as structures, with the conventions of a head's dataset."""

from absl.testing import absltest
from absl.testing import parameterized
from ase import constraints
import ase.build
import chex
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import structure as structure_lib
from tests.jmp_hk.inference import predictors


def _slab(**changes):
  atoms = ase.build.fcc111("Cu", (1, 1, 2), vacuum=5.0, periodic=False)
  atoms.set_tags(0)
  for name, value in changes.items():
    setattr(atoms, name, value)
  return atoms


class FromAtomsTest(parameterized.TestCase):
  @parameterized.parameters(
    (True, (True, True, False), (True, True, True)),
    (True, (False, False, False), (False, False, False)),
    (False, (True, True, False), (True, True, False)),
    (False, (False, False, False), (False, False, False)),
  )
  def test_periodic_directions(self, periodic_in_3d, given, expected):
    info = predictors.make_info("mine", periodic_in_3d=periodic_in_3d)
    structure = from_ase.from_atoms(_slab(pbc=given), info)
    self.assertEqual(tuple(structure.pbc), expected)

  def test_which_published_heads_are_periodic_in_3d(self):
    found = {name for name, x in dataset_info.PUBLISHED.items() if x.periodic_in_3d}
    self.assertEqual(found, {"oc20", "oc22"})

  def test_a_slab_without_a_third_vector_stays_as_it_is(self):
    atoms = _slab(pbc=(True, True, False))
    atoms.cell[2] = 0
    structure = from_ase.from_atoms(atoms, dataset_info.PUBLISHED["oc20"])
    self.assertEqual(tuple(structure.pbc), (True, True, False))

  @parameterized.parameters(([0, 1], [0, 1]), ([0, 0], [2, 2]), ([1, 2], [1, 2]))
  def test_tags(self, given, expected):
    atoms = _slab()
    atoms.set_tags(given)
    structure = from_ase.from_atoms(atoms, dataset_info.PUBLISHED["oc20"])
    chex.assert_trees_all_equal(structure.tags, np.array(expected, np.int32))

  def test_fixed_atoms(self):
    atoms = _slab()
    atoms.set_constraint(constraints.FixAtoms([1]))
    structure = from_ase.from_atoms(atoms, dataset_info.PUBLISHED["oc20"])
    chex.assert_trees_all_equal(structure.fixed, np.array([False, True]))

  @parameterized.parameters(
    ({"energy_references": {1: 0.0}}, "elements O"),
    ({"elements": (8,)}, "elements H"),
    (
      {"targets": {"gap": dataset_info.TargetStatistics("eV", 0, 1, {8: 1.0})}},
      "elements H",
    ),
  )
  def test_unknown_elements_are_named(self, changes, reason):
    info = predictors.make_info("mine", **changes)
    with self.assertRaisesRegex(structure_lib.InvalidStructureError, reason):
      from_ase.from_atoms(ase.build.molecule("H2O"), info)

  def test_atoms_beyond_the_elements_have_no_formula(self):
    atoms = ase.build.molecule("H2O")
    self.assertEqual(from_ase.name_of(atoms, 3), "structure 3 (H2O)")
    atoms.numbers[0] = 119
    self.assertEqual(from_ase.name_of(atoms, 3), "structure 3 (3 atoms)")
    with self.assertRaisesRegex(structure_lib.InvalidStructureError, "119"):
      from_ase.from_atoms(atoms, predictors.make_info("mine"))


if __name__ == "__main__":
  absltest.main()
