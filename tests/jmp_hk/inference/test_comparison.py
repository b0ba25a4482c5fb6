"""Predictions of labelled structures, their metrics and the files about them."""

import csv
import dataclasses
import functools
import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import ase.io
import chex
import numpy as np

from jmp_hk.inference import comparison
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import preparation
from jmp_hk.inference import reports
from jmp_hk.inference import scores
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.models.gemnet_oc import small_model
from tests.jmp_hk.targets import examples


@functools.cache
def _structures():
  """Molecules whose labels are predictions with known errors; some atoms are fixed."""
  names = ("H2O", "CH4", "CH3OH")
  bare = [small_model.molecule(name, index) for index, name in enumerate(names)]
  predicted = predictors.direct().predict_structures(bare, "first")
  rng = np.random.default_rng(0)
  return tuple(
    dataclasses.replace(
      structure,
      energy=prediction.energy - (0.5, -1.0, 1.5)[index],
      forces=prediction.forces + rng.choice([-0.1, 0.1], prediction.forces.shape),
      fixed=np.arange(structure.num_atoms) < 1,
      record_id=f"mine:{index}",
    )
    for index, (structure, prediction) in enumerate(zip(bare, predicted, strict=True))
  )


class PredictAndCompareTest(absltest.TestCase):
  def test_errors_are_in_physical_units(self):
    seen = []
    results = comparison.predict_and_compare(
      predictors.direct(),
      iter(_structures()),
      "first",
      units={"energy": "eV", "forces": "eV/Å"},
      on_progress=lambda done, total: seen.append((done, total)),
    )
    self.assertLen(results.predictions, 3)
    self.assertEqual(seen[-1], (3, 3))
    found = results.metrics()
    self.assertEqual(list(found), ["energy", "forces"])
    self.assertEqual([row["unit"] for row in found.values()], ["eV", "eV/Å"])
    self.assertAlmostEqual(found["energy"]["mae"], 1.0, places=6)
    self.assertAlmostEqual(found["energy"]["rmse"], (3.5 / 3) ** 0.5, places=6)
    self.assertAlmostEqual(found["forces"]["mae"], 0.1, places=6)
    self.assertAlmostEqual(found["forces"]["rmse"], 0.1, places=6)

  def test_elements_that_the_head_does_not_know_are_named(self):
    numbers = np.full_like(_structures()[1].atomic_numbers, 119)
    structures = list(_structures())
    structures[1] = dataclasses.replace(structures[1], atomic_numbers=numbers)
    with self.assertRaisesRegex(
      preparation.InvalidStructuresError, r"mine:1: there are no elements.*\[119\]"
    ):
      comparison.predict_and_compare(predictors.direct(), structures, "first")

  def test_targets_without_labels_are_left_out(self):
    structures = [dataclasses.replace(s, forces=None) for s in _structures()]
    results = comparison.predict_and_compare(predictors.direct(), structures, "second")
    self.assertEqual(list(results.metrics()), ["energy"])
    nothing = comparison.predict_and_compare(predictors.direct(), [], "second")
    self.assertEqual(nothing.metrics(), {})

  def test_files_tell_everything(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    results = comparison.predict_and_compare(
      predictors.direct(), _structures(), "first"
    )
    metrics = reports.write(results, directory / "new" / "folder")
    directory = directory / "new" / "folder"
    stored = json.loads((directory / reports.METRICS_FILE).read_text())
    self.assertEqual(stored["structures"], 3)
    self.assertEqual(stored["targets"], metrics)
    # The names and units of validation, so that the two can be compared.
    shown = stored["validation_metrics"]
    self.assertAlmostEqual(shown["first/force_mae_mev_per_angstrom"], 100.0, places=3)
    sizes = np.array([structure.num_atoms for structure in _structures()])
    expected = 1000 * (np.array([0.5, 1.0, 1.5]) / sizes).mean()
    self.assertAlmostEqual(shown["first/energy_mae_mev_per_atom"], expected, places=3)
    with (directory / reports.TABLE_FILE).open(encoding="utf-8") as file:
      rows = list(csv.DictReader(file))
    self.assertEqual([row["record"] for row in rows], ["mine:0", "mine:1", "mine:2"])
    errors = [float(row["jmp_energy"]) - float(row["energy"]) for row in rows]
    chex.assert_trees_all_close(np.array(errors), np.array([0.5, -1.0, 1.5]), atol=1e-6)
    for row in rows:
      self.assertAlmostEqual(float(row["jmp_forces_mae"]), 0.1, places=6)
    frames = ase.io.read(directory / reports.STRUCTURES_FILE, ":")
    for frame, structure in zip(frames, _structures(), strict=True):
      self.assertEqual(frame.info["record"], structure.record_id)
      # Labels have their usual names, predictions names of their own.
      chex.assert_trees_all_close(frame.get_forces(), structure.forces, atol=1e-6)
      self.assertAlmostEqual(frame.get_potential_energy(), structure.energy, places=6)
      error = frame.arrays["jmp_forces"] - frame.get_forces()
      chex.assert_trees_all_close(error, frame.arrays["jmp_forces_error"], atol=1e-6)
      chex.assert_trees_all_close(
        np.abs(error), np.full((structure.num_atoms, 3), 0.1), atol=1e-6
      )
    picture = (directory / reports.PLOT_FILE).read_bytes()
    self.assertStartsWith(picture, b"\x89PNG")

  def test_other_results_are_not_replaced(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    results = comparison.predict_and_compare(
      predictors.direct(), _structures(), "first"
    )
    write = functools.partial(reports.write, results, directory)
    write(settings={"split": "test", "step": 3})
    write(settings={"split": "test", "step": 3})
    with self.assertRaisesRegex(
      reports.OtherResultsError, "another evaluation: split: 'test' → 'val'"
    ):
      write(settings={"split": "val", "step": 3})
    write(settings={"split": "val", "step": 3}, overwrite=True)
    stored = json.loads((directory / reports.METRICS_FILE).read_text())
    self.assertEqual(stored["settings"], {"split": "val", "step": 3})


class CompareTest(parameterized.TestCase):
  def _compare(self, target, labelled, predicted, **kwargs):
    structures = [examples.structure(i, targets=row) for i, row in enumerate(labelled)]
    predictions = [prediction_lib.Prediction(properties=row) for row in predicted]
    return comparison.compare(target, "", structures, predictions, **kwargs)

  def test_two_classes_become_two_columns_of_probabilities(self):
    found = self._compare(
      tasks_lib.TargetConfig("metal", "binary"),
      [{"metal": 0.0}, {"metal": 1.0}, {"metal": 1.0}],
      [{"metal": 0.25}, {"metal": 0.75}, {"metal": 0.4}],
    )
    chex.assert_trees_all_equal(found.labels, np.array([0, 1, 1]))
    expected = np.array([[0.75, 0.25], [0.25, 0.75], [0.6, 0.4]])
    chex.assert_trees_all_close(found.predictions, expected, rtol=1e-12)
    self.assertEqual(
      found.metrics(), scores.classification(found.labels, found.predictions)
    )
    self.assertTrue(found.is_class)

  def test_more_classes(self):
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    found = self._compare(
      tasks_lib.TargetConfig("lattice", "multiclass", num_classes=3),
      [{"lattice": np.float64(0)}, {"lattice": np.float64(1)}],
      [{"lattice": row} for row in probabilities],
    )
    self.assertEqual(found.labels.dtype, np.int64)
    self.assertEqual(found.metrics()["accuracy"], 0.5)

  def test_tables_have_a_unit_in_every_cell_that_has_one(self):
    rng = np.random.default_rng(0)
    gaps, forces = rng.normal(size=5), rng.normal(size=(5, 3, 3))
    structures = [
      examples.structure(i, forces=forces[i], targets={"gap": gaps[i]})
      for i in range(5)
    ]
    predictions = [
      prediction_lib.Prediction(forces=1.1 * forces[i], properties={"gap": gaps[i] + 2})
      for i in range(5)
    ]
    targets = [examples.TARGETS["scalar"], examples.TARGETS["direct_forces"]]
    compared = [
      comparison.compare(target, unit, structures, predictions)
      for target, unit in zip(targets, ("log10(GPa)", "eV/Å"), strict=True)
    ]
    task = tasks_lib.TaskConfig("mine", tuple(targets))
    results = comparison.Results(task, structures, predictions, compared)
    head, gap, force = results.table().splitlines()
    self.assertEqual(head.split(), ["MAE", "RMSE", "R²", "cosine"])
    self.assertIn("2.000 log10(GPa)", gap)
    self.assertRegex(force, r"^forces +\d+\.\d+ meV/Å +\d+\.\d+ meV/Å .* 1\.000$")
    self.assertAlmostEqual(results.validation_metrics()["mine/gap_mae"], 2.0)

  def test_parity_plots_of_every_kind(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    structures = [examples.structure(seed) for seed in range(400)]
    predictions = [
      prediction_lib.Prediction(
        energy=s.energy + 0.1,
        forces=s.forces,
        properties=s.targets | {"metal": 0.75, "lattice": np.array([0.2, 0.5, 0.3])},
      )
      for s in structures
    ]
    for index, kinds in enumerate(
      (["energy", "direct_forces", "binary", "multiclass"], ["scalar"])
    ):
      compared = [
        comparison.compare(examples.TARGETS[kind], "eV", structures, predictions)
        for kind in kinds
      ]
      reports.plot(compared, directory / f"{index}.png")
      reports.plot([compared[0]], directory / "one.png")
      self.assertStartsWith((directory / f"{index}.png").read_bytes(), b"\x89PNG")
    # A single structure, whose labels do not vary.
    alone = comparison.compare(
      examples.TARGETS["scalar"], "", structures[:1], predictions[:1]
    )
    reports.plot([alone], directory / "alone.png")
    reports.plot([], directory / "none.png")
    self.assertFalse((directory / "none.png").exists())

  @parameterized.parameters(
    ("direct_forces", True, 4), ("direct_forces", False, 6), ("vector", True, 6)
  )
  def test_fixed_atoms_are_left_out_of_forces_where_wanted(self, kind, free, counted):
    target = examples.TARGETS[kind]
    structures = [examples.structure(seed) for seed in range(2)]
    predictions = [
      prediction_lib.Prediction(forces=s.forces, properties=s.targets)
      for s in structures
    ]
    found = comparison.compare(
      target, "eV/Å", structures, predictions, free_atoms_only=free
    )
    chex.assert_shape((found.labels, found.predictions), (6, 3))
    self.assertEqual(found.counted.sum(), counted)
    self.assertTrue(found.is_per_atom)
    self.assertEqual(found.metrics()["mae"], 0)

  def test_a_structure_without_the_label_is_named(self):
    with self.assertRaisesRegex(labels.LabelError, "mine:1 has no label 'gap'"):
      self._compare(
        tasks_lib.TargetConfig("gap", "scalar"),
        [{"gap": 1.0}, {}],
        [{"gap": 1.0}, {"gap": 2.0}],
      )


class MissingLabelsTest(absltest.TestCase):
  def test_they_do_not_count_and_leave_cells_empty(self):
    targets = [
      dataclasses.replace(examples.TARGETS[kind], allow_missing=True)
      for kind in ("energy", "direct_forces", "multiclass")
    ]
    structures = [
      examples.structure(0),
      examples.structure(1, energy=None, forces=None, targets={}),
      examples.structure(2),
    ]
    chances = np.eye(3)
    predictions = [
      prediction_lib.Prediction(
        energy=(structure.energy or 0.0) + 1.0,
        forces=np.ones((3, 3)) if structure.forces is None else structure.forces + 0.5,
        properties={"lattice": chances[int(structure.targets.get("lattice", 0))]},
      )
      for structure in structures
    ]
    task = tasks_lib.TaskConfig("mine", tuple(targets))
    compared = [comparison.compare(t, "", structures, predictions) for t in targets]
    results = comparison.Results(task, structures, predictions, compared)
    metrics = results.metrics()
    self.assertAlmostEqual(metrics["energy"]["mae"], 1.0)
    self.assertAlmostEqual(metrics["forces"]["mae"], 0.5)
    self.assertEqual(metrics["lattice"]["accuracy"], 1.0)
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    reports.write(results, directory)
    with (directory / reports.TABLE_FILE).open(encoding="utf-8") as file:
      rows = list(csv.DictReader(file))
    cells = [rows[1][name] for name in ("energy", "jmp_forces_mae", "lattice")]
    self.assertEqual(cells, ["", "", ""])
    self.assertEqual(float(rows[0]["jmp_forces_mae"]), 0.5)

  def test_labels_that_may_not_be_missing_are_named(self):
    structures = [examples.structure(0), examples.structure(1, energy=None)]
    predictions = [prediction_lib.Prediction(energy=0.0)] * 2
    with self.assertRaisesRegex(labels.LabelError, "mine:1 has no label 'energy'"):
      comparison.compare(examples.TARGETS["energy"], "", structures, predictions)


if __name__ == "__main__":
  absltest.main()
