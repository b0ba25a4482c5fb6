"""Labels under the names of other programs."""

from absl.testing import absltest
from absl.testing import parameterized
import ase
import ase.build
from ase.calculators import emt
from ase.calculators import singlepoint
import numpy as np

from jmp_hk import ase_labels

_BOTH = ("energy", "forces")


def _atoms(info=(), arrays=(), results=()) -> ase.Atoms:
  """A molecule with one number or a vector per atom under each of the names."""
  atoms = ase.build.molecule("H2O")
  atoms.info |= dict.fromkeys(info, 1.5)
  atoms.arrays |= {name: np.ones((3, 3)) for name in arrays}
  values = {"energy": 2.5, "free_energy": 3.5, "forces": np.zeros((3, 3))}
  if results:
    atoms.calc = singlepoint.SinglePointCalculator(
      atoms, **{name: values[name] for name in results}
    )
  return atoms


def _choose(*structures: ase.Atoms, labels=_BOTH) -> dict[str, str]:
  return ase_labels.choose_keys(ase_labels.survey(structures), labels)


class ChooseKeysTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("ase", (), (), _BOTH, ("energy", "forces")),
    ("mace", ("REF_energy",), ("REF_forces",), (), ("REF_energy", "REF_forces")),
    (
      "reference_beside_another_calculation",
      ("REF_energy",),
      ("REF_forces",),
      _BOTH,
      ("REF_energy", "REF_forces"),
    ),
    ("own_names", ("dft_energy",), ("force",), (), ("dft_energy", "force")),
    ("upper_case", ("Energy",), ("Forces",), (), ("Energy", "Forces")),
    ("two_energies_of_vasp", (), (), ("energy", "free_energy", "forces"), _BOTH),
    (
      "free_energy_alone",
      (),
      (),
      ("free_energy", "forces"),
      ("free_energy", "forces"),
    ),
  )
  def test_names_of_other_programs(self, info, arrays, results, expected):
    found = _choose(_atoms(info, arrays, results))
    self.assertEqual(found, dict(zip(_BOTH, expected, strict=True)))

  def test_what_is_not_plain_is_refused(self):
    with self.assertRaisesRegex(
      ase_labels.KeyNotFoundError, "'energy' could be any of 'dft_energy'.*'energy'"
    ):
      _choose(_atoms(("dft_energy",), (), _BOTH))
    # Energies of one calculation beside forces of another.
    with self.assertRaisesRegex(ase_labels.KeyNotFoundError, "different calculations"):
      _choose(_atoms(("REF_energy",), (), _BOTH))
    # Few structures have what would come first.
    with self.assertRaisesRegex(ase_labels.KeyNotFoundError, "in 1 of 2 structures"):
      _choose(_atoms(("REF_energy",), ("REF_forces",), _BOTH), _atoms((), (), _BOTH))

  def test_a_reference_without_a_rival_is_taken(self):
    found = _choose(_atoms(("REF_energy",), ("forces",)))
    self.assertEqual(found, {"energy": "REF_energy", "forces": "forces"})

  def test_stress_comes_before_virials_and_other_calculations(self):
    atoms = ase.build.bulk("Cu")
    atoms.info |= {"virial": np.eye(3), "stress_of_atoms": np.ones(6)}
    self.assertEqual(_choose(atoms, labels=["stress"]), {"stress": "virial"})
    atoms.info["stress"] = np.ones(6)
    self.assertEqual(_choose(atoms, labels=["stress"]), {"stress": "stress"})
    atoms.info |= {"REF_virials": np.eye(3), "REF_energy": 1.0}
    self.assertEqual(_choose(atoms, labels=["stress"]), {"stress": "REF_virials"})
    atoms.info |= {"REF_stress": np.ones(6), "energy": 2.0}
    chosen = {"energy": "REF_energy", "stress": "REF_stress"}
    self.assertEqual(_choose(atoms, labels=["energy", "stress"]), chosen)
    del atoms.info["REF_stress"], atoms.info["REF_virials"]
    with self.assertRaisesRegex(ase_labels.KeyNotFoundError, "different calculations"):
      _choose(atoms, labels=["energy", "stress"])
    # Of three atoms, a matrix has the shape of forces.
    trimer = ase.build.bulk("Cu").repeat((3, 1, 1))
    trimer.info["stress"] = np.eye(3)
    self.assertEqual(_choose(trimer, labels=["stress"]), {"stress": "stress"})

  def test_shapes_count(self):
    atoms = _atoms(arrays=("energy", "force"))  # Energies of atoms.
    with self.assertRaises(ase_labels.KeyNotFoundError) as caught:
      _choose(atoms)
    self.assertEqual(caught.exception.label, "energy")
    self.assertRegex(str(caught.exception), "no label 'energy'.*have: energy, force")

  def test_other_labels_have_their_name_in_any_case(self):
    atoms = _atoms(("Gap", "gaps"))
    self.assertEqual(_choose(atoms, labels=["gap"]), {"gap": "Gap"})
    atoms.info["gap"] = 1.0
    self.assertEqual(_choose(atoms, labels=["gap"]), {"gap": "gap"})

  def test_text_is_no_label(self):
    atoms = _atoms()
    atoms.info["energy"] = "low"
    with self.assertRaisesRegex(ase_labels.KeyNotFoundError, "no numbers but"):
      _choose(atoms, labels=["energy"])

  def test_optional_labels_are_those_that_all_have(self):
    everywhere, nowhere = _atoms(results=("energy",)), _atoms()
    survey = ase_labels.survey([everywhere, everywhere])
    self.assertTrue(ase_labels.can_choose(survey, "energy"))
    survey = ase_labels.survey([everywhere, nowhere])
    self.assertFalse(ase_labels.can_choose(survey, "energy"))


class FindTest(absltest.TestCase):
  def test_places(self):
    atoms = _atoms(("gap",), ("shift",), _BOTH)
    atoms.info["key_value_pairs"] = {"volume": 3.0}
    atoms.info["data"] = {"dos": np.arange(4)}
    self.assertEqual(ase_labels.find(atoms, "gap"), 1.5)
    self.assertEqual(ase_labels.find(atoms, "energy"), 2.5)
    self.assertEqual(ase_labels.find(atoms, "volume"), 3.0)
    self.assertLen(ase_labels.find(atoms, "dos"), 4)
    self.assertIsNone(ase_labels.find(atoms, "positions"))
    self.assertEqual(
      ase_labels.names(atoms), ["dos", "energy", "forces", "gap", "shift", "volume"]
    )

  def test_results_of_other_positions_do_not_count(self):
    atoms = ase.build.bulk("Cu")
    atoms.calc = emt.EMT()
    atoms.get_potential_energy()
    self.assertIsNotNone(ase_labels.find(atoms, "energy"))
    atoms.positions += [[0.1, 0.0, 0.0]]
    self.assertIsNone(ase_labels.find(atoms, "energy"))


class DescribeKeysTest(absltest.TestCase):
  def test_plain_names_need_no_words(self):
    survey = ase_labels.survey([_atoms(results=_BOTH)])
    self.assertEqual(ase_labels.describe_keys(survey, dict(zip(_BOTH, _BOTH))), "")

  def test_what_is_left_aside_is_said(self):
    survey = ase_labels.survey([_atoms(("REF_energy",), (), ("energy",))])
    self.assertEqual(
      ase_labels.describe_keys(survey, {"energy": "REF_energy"}),
      "The label 'energy' is read from 'REF_energy', not from 'energy'.",
    )


if __name__ == "__main__":
  absltest.main()
