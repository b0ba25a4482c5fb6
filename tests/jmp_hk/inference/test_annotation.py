"""Predictions stand beside labels, and replace nothing."""

import csv
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import ase
from ase import units
import ase.build
from ase.calculators import singlepoint
import ase.db
import ase.io
import chex
import numpy as np

from jmp_hk import voigt
from jmp_hk.inference import annotation
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import prediction_files
from jmp_hk.targets import config as tasks_lib

_TASK = tasks_lib.TaskConfig(
  "mine",
  (
    tasks_lib.TargetConfig("energy", "energy"),
    tasks_lib.TargetConfig("forces", "direct_forces"),
    tasks_lib.TargetConfig("gap", "scalar"),
    tasks_lib.TargetConfig("shift", "vector"),
    tasks_lib.TargetConfig("metal", "binary"),
    tasks_lib.TargetConfig("kind", "multiclass", num_classes=3),
  ),
)
_UNITS = {"energy": "eV", "forces": "eV/Å", "gap": "eV"}


def _structure(name="H2O", **info):
  """A molecule with results of a calculator, info and an array of its own."""
  atoms = ase.build.molecule(name)
  atoms.info.update({"origin": "here", "gap": 2.0, **info})
  atoms.arrays["spread"] = np.linspace(0, 1, len(atoms))
  atoms.calc = singlepoint.SinglePointCalculator(
    atoms, energy=-10.0, forces=np.full((len(atoms), 3), 0.5)
  )
  return atoms


def _prediction(atoms, stress=None):
  """Each prediction differs from the label by a number of its own."""
  return prediction_lib.Prediction(
    energy=-10.0 + 0.3 * len(atoms),
    forces=np.full((len(atoms), 3), 0.6),
    stress=stress,
    properties={
      "gap": 1.5,
      "shift": np.ones((len(atoms), 3)),
      "metal": 0.75,
      "kind": np.array([0.1, 0.2, 0.7]),
    },
  )


def _annotated(*names):
  structures = [_structure(name) for name in names]
  return [annotation.annotate(s, _prediction(s), _TASK) for s in structures]


class AnnotateTest(parameterized.TestCase):
  def test_everything_that_was_there_stays(self):
    atoms = _structure()
    found = annotation.annotate(atoms, _prediction(atoms), _TASK)
    self.assertEqual(found.get_potential_energy(), -10.0)
    chex.assert_trees_all_equal(found.get_forces(), atoms.get_forces())
    chex.assert_trees_all_equal(found.arrays["spread"], atoms.arrays["spread"])
    self.assertContainsSubset({"origin": "here", "gap": 2.0}, found.info)
    # The given structure gets nothing.
    self.assertEqual(set(atoms.info), {"origin", "gap"})

  def test_predictions_and_errors_have_names_of_their_own(self):
    (found,) = _annotated("H2O")
    self.assertAlmostEqual(found.info["jmp_energy"], -9.1)
    self.assertAlmostEqual(found.info["jmp_energy_error"], 0.9)
    self.assertAlmostEqual(found.info["jmp_gap_error"], -0.5)
    chex.assert_trees_all_close(
      found.arrays["jmp_forces_error"], np.full((3, 3), 0.1), rtol=1e-12
    )
    self.assertEqual(found.info["jmp_metal_class"], 1)
    self.assertEqual(found.info["jmp_kind_class"], 2)
    # There is no label.
    self.assertIn("jmp_shift", found.arrays)
    self.assertNotIn("jmp_shift_error", found.arrays)

  def test_labels_are_found_under_the_names_of_other_programs(self):
    atoms = _structure(REF_energy=-9.0)
    found = annotation.annotate(atoms, _prediction(atoms), _TASK, prefix="new_")
    self.assertAlmostEqual(found.info["new_energy_error"], -0.1)

  def test_stress(self):
    atoms = _structure()
    stress = np.arange(6) / 100
    atoms.calc.results["stress"] = stress - 0.01
    targets = [tasks_lib.TargetConfig("energy", "energy")]
    targets.append(tasks_lib.TargetConfig("forces", "conservative_forces"))
    task = tasks_lib.TaskConfig("mine", tuple(targets))
    found = annotation.annotate(atoms, _prediction(atoms, stress), task)
    chex.assert_trees_all_equal(found.info["jmp_stress"], stress)
    chex.assert_trees_all_close(found.info["jmp_stress_error"], np.full(6, 0.01))
    errors = annotation.compare([atoms], [_prediction(atoms, stress)], task, _UNITS)
    (metric, value), *others = errors["stress"].items()
    self.assertEqual((metric.title, metric.unit), ("MAE", "meV/Å³"))
    self.assertAlmostEqual(value, 10.0)
    in_gpa = {metric.unit: value for metric, value in others}["GPa"]
    self.assertAlmostEqual(in_gpa, 0.01 / units.GPa)
    # A matrix is a label as well.
    atoms.calc.results["stress"] = voigt.to_matrix(stress - 0.01)
    found = annotation.annotate(atoms, _prediction(atoms, stress), task)
    chex.assert_trees_all_close(found.info["jmp_stress_error"], np.full(6, 0.01))

  def test_relative_energies_are_not_compared(self):
    atoms = _structure()
    prediction = _prediction(atoms)
    found = annotation.annotate(atoms, prediction, _TASK, is_relative=True)
    self.assertTrue(found.info["jmp_energy_is_relative_to_references"])
    self.assertNotIn("jmp_energy_error", found.info)
    self.assertNotIn(
      "energy",
      annotation.compare([atoms], [prediction], _TASK, _UNITS, is_relative=True),
    )

  def test_nothing_is_replaced(self):
    atoms = _structure(jmp_gap=1.0)
    with self.assertRaisesRegex(annotation.NameTakenError, "holds jmp_gap already"):
      annotation.annotate(atoms, _prediction(atoms), _TASK)
    with self.assertRaisesRegex(
      annotation.NameTakenError, r"Structure 1 \(H2O\) holds jmp_gap already"
    ):
      annotation.check_names([_structure(), atoms], _TASK)
    annotation.check_names([_structure(), atoms], _TASK, "other_")

  def test_without_prefix_predictions_are_results_where_there_are_none(self):
    atoms = ase.build.molecule("H2O")
    annotation.check_names([atoms], _TASK, "")
    found = annotation.annotate(atoms, _prediction(atoms), _TASK, prefix="")
    self.assertAlmostEqual(found.get_potential_energy(), -9.1)
    self.assertEqual(found.info["gap"], 1.5)
    with self.assertRaisesRegex(annotation.NameTakenError, "energy, forces, gap"):
      annotation.check_names([_structure()], _TASK, "")

  def test_results_of_other_positions_are_no_labels(self):
    atoms = _structure()
    atoms.positions += 1.0
    found = annotation.annotate(atoms, _prediction(atoms), _TASK)
    self.assertNotIn("jmp_energy_error", found.info)
    self.assertIsNone(found.calc)

  def test_errors_over_structures(self):
    structures = [_structure("H2O"), _structure("CH4"), ase.build.molecule("H2")]
    predictions = [_prediction(atoms) for atoms in structures]
    errors = annotation.compare(structures, predictions, _TASK, _UNITS)
    self.assertEqual(list(errors), ["energy", "forces", "gap"])
    shown = {
      name: {metric.title: (value, metric.unit) for metric, value in row.items()}
      for name, row in errors.items()
    }
    self.assertEqual(shown["energy"]["MAE"][1], "meV/atom")
    self.assertAlmostEqual(shown["energy"]["MAE"][0], 300.0)
    self.assertAlmostEqual(shown["forces"]["MAE"][0], 100.0)
    self.assertEqual(shown["gap"]["MAE"], (0.5, "eV"))
    self.assertEqual(annotation.compare([], [], _TASK, _UNITS), {})


class FilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  @parameterized.parameters("out.extxyz", "out.db")
  def test_files_hold_labels_and_predictions(self, name):
    frames = _annotated("H2O", "CH4")
    prediction_files.write(self.folder / name, frames)
    self.assertEqual([p.name for p in self.folder.iterdir()], [name])
    read = (
      list(prediction_files.read_db(self.folder / name))
      if name.endswith(".db")
      else ase.io.read(self.folder / name, ":")
    )
    for before, after in zip(frames, read, strict=True):
      self.assertEqual(after.get_potential_energy(), -10.0)
      self.assertEqual(after.info["origin"], "here")
      for key in ("jmp_energy", "jmp_energy_error", "jmp_gap", "jmp_kind_class"):
        self.assertAlmostEqual(after.info[key], before.info[key])
      chex.assert_trees_all_close(after.info["jmp_kind"], before.info["jmp_kind"])
      chex.assert_trees_all_close(
        after.arrays["jmp_forces"], before.arrays["jmp_forces"], rtol=1e-7
      )
      spread = after.arrays.get("spread", after.info.get("spread"))
      chex.assert_trees_all_close(spread, before.arrays["spread"], atol=1e-7)

  def test_databases_are_searched_by_predictions(self):
    path = self.folder / "out.db"
    prediction_files.write(path, _annotated("H2O", "CH4"))
    with ase.db.connect(path) as database:
      (row,) = database.select("jmp_energy>-9")
      self.assertEqual((row.formula, row.origin), ("CH4", "here"))
      chex.assert_shape(row.data["jmp_forces"], (5, 3))

  @parameterized.parameters(
    (":", 3), ("1:", 2), ("::2", 2), ("-1", 1), ("origin=here", 3)
  )
  def test_rows_of_databases(self, index, count):
    path = self.folder / "out.db"
    prediction_files.write(path, _annotated("H2O", "CH4", "H2"))
    self.assertLen(list(prediction_files.read_db(path, index)), count)

  def test_names_that_databases_cannot_search_are_data(self):
    atoms = _structure(**{"config-type": "slab", "energy": -3.0, "id": "12"})
    found = annotation.annotate(atoms, _prediction(atoms), _TASK)
    prediction_files.write(self.folder / "out.db", [found])
    (read,) = prediction_files.read_db(self.folder / "out.db")
    self.assertEqual(read.info["config-type"], "slab")
    self.assertEqual(read.info["id"], "12")

  def test_tables(self):
    path = self.folder / "out.csv"
    bare = ase.Atoms("He")
    empty = prediction_lib.Prediction(energy=1.0, forces=np.zeros((1, 3)))
    frames = [*_annotated("H2O"), annotation.annotate(bare, empty, _TASK)]
    prediction_files.write(path, frames)
    with path.open(encoding="utf-8", newline="") as file:
      water, helium = csv.DictReader(file)
    self.assertEqual((water["formula"], water["num_atoms"]), ("H2O", "3"))
    self.assertEqual((water["origin"], water["energy"]), ("here", "-10.0"))
    self.assertAlmostEqual(float(water["jmp_energy_error"]), 0.9)
    self.assertAlmostEqual(float(water["jmp_forces_mae"]), 0.1)
    self.assertAlmostEqual(float(water["jmp_forces_max"]), 0.6 * 3**0.5)
    self.assertEqual(float(water["jmp_kind_2"]), 0.7)
    # What a structure lacks is an empty cell.
    self.assertEqual((helium["energy"], helium["jmp_energy_error"]), ("", ""))
    self.assertEqual(helium["jmp_energy"], "1.0")

  def test_tables_have_no_column_for_each_atom(self):
    path = self.folder / "out.csv"
    atoms = _structure("C6H6")
    atoms.calc.results["charges"] = np.zeros(len(atoms))
    prediction_files.write_csv(
      path, [annotation.annotate(atoms, _prediction(atoms, np.zeros(6)), _TASK)]
    )
    names = path.read_text().splitlines()[0].split(",")
    self.assertIn("jmp_stress_5", names)
    self.assertFalse([name for name in names if name.startswith("charges")])

  def test_nothing_at_all(self):
    for suffix in prediction_files.SUFFIXES:
      prediction_files.write(self.folder / f"out{suffix}", [])
      self.assertTrue((self.folder / f"out{suffix}").exists())

  def test_other_files_are_refused(self):
    with self.assertRaisesRegex(ValueError, r"\.extxyz \(or \.xyz\), \.csv or \.db"):
      prediction_files.write(self.folder / "out.cif", [])


if __name__ == "__main__":
  absltest.main()
