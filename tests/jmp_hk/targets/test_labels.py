"""Normalised labels of structures, and their shapes in batches."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import chex
import numpy as np

from jmp_hk.graphs import packing
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels
from tests.jmp_hk.targets import examples

_PRETRAINING = tasks_lib.pretraining_task("mine")


def _normalise(structure, *kinds, **changes):
  task = tasks_lib.TaskConfig("mine", tuple(examples.TARGETS[kind] for kind in kinds))
  return labels.normalise_labels(structure, examples.info(**changes), task)


class NormaliseLabelsTest(parameterized.TestCase):
  def test_energies_and_forces(self):
    structure, info = examples.structure(), examples.info()
    found = labels.normalise_labels(structure, info, _PRETRAINING)
    reference = info.reference_energy(structure.atomic_numbers)
    self.assertEqual(found["energy"], (structure.energy - reference) / 7.0)
    chex.assert_trees_all_equal(found["forces"], structure.forces / 0.5)

  def test_conservative_energies_have_the_unit_of_the_forces(self):
    structure, info = examples.structure(), examples.info()
    found = _normalise(structure, "energy", "conservative_forces")
    reference = info.reference_energy(structure.atomic_numbers)
    self.assertEqual(found["energy"], (structure.energy - reference) / 0.5)
    chex.assert_trees_all_equal(found["forces"], structure.forces / 0.5)

  def test_large_energies_keep_their_digits(self):
    # -1e5 eV with a residual of 0.1 eV would be off by 8e-3 in float32.
    structure = examples.structure(
      atomic_numbers=np.array([6], np.int32), energy=-1e5 + 0.1
    )
    found = _normalise(structure, "energy", energy_references={6: -1e5})
    chex.assert_trees_all_close(
      np.float32(found["energy"]), np.float32(0.1 / 7.0), rtol=1e-7
    )

  def test_further_labels(self):
    structure = examples.structure()
    found = _normalise(structure, "scalar", "multiclass", "vector")
    reference = -1.5 + 2 * 0.25
    expected = structure.targets["gap"] - reference
    chex.assert_trees_all_close(found["gap"], (expected + 2.0) / 3.0, rtol=1e-14)
    self.assertEqual(found["lattice"], structure.targets["lattice"])
    self.assertEqual(found["lattice"].dtype, np.int64)
    # A mean would single out a direction.
    chex.assert_trees_all_equal(found["velocity"], structure.targets["velocity"] / 0.25)

  def test_targets_without_a_loss_need_no_label(self):
    silent = dataclasses.replace(examples.TARGETS["energy"], loss_coefficient=0.0)
    task = tasks_lib.TaskConfig("mine", (silent, examples.TARGETS["direct_forces"]))
    structure = examples.structure(energy=None)
    found = labels.normalise_labels(structure, examples.info(), task)
    self.assertEqual(list(found), ["forces"])

  def test_what_is_missing_is_named(self):
    structure = examples.structure(2, energy=None)
    with self.assertRaisesRegex(
      labels.LabelError, "mine:2 .*'energy'.*forces.*extent.*gap"
    ):
      _normalise(structure, "energy")
    unknown = examples.structure(2, atomic_numbers=np.full(3, 79, np.int32))
    for kind in ("energy", "scalar"):
      with self.assertRaisesRegex(labels.LabelError, "mine:2.*atomic number 79"):
        _normalise(unknown, kind)


class LabelShapesTest(absltest.TestCase):
  def test_shapes_cover_all_tasks(self):
    targets = examples.TARGETS
    shapes = labels.label_shapes(
      [_PRETRAINING, tasks_lib.TaskConfig("other", (targets["multiclass"],))]
    )
    self.assertEqual(
      shapes,
      {
        "energy": packing.LabelShape(False),
        "forces": packing.LabelShape(True, (3,)),
        "lattice": packing.LabelShape(False, (), True),
      },
    )

  def test_tasks_cannot_disagree(self):
    tasks = [
      tasks_lib.TaskConfig(kind, (tasks_lib.TargetConfig("x", kind),))
      for kind in ("scalar", "vector")
    ]
    with self.assertRaisesRegex(ValueError, "disagree.*'x'"):
      labels.label_shapes(tasks)


class CheckStatisticsTest(absltest.TestCase):
  def test_labels_without_statistics_are_named(self):
    info = examples.info(targets={})
    labels.check_statistics(_PRETRAINING, info)
    task = tasks_lib.TaskConfig("mine", (examples.TARGETS["scalar"],))
    with self.assertRaisesRegex(ValueError, "'mine' has no label 'gap'"):
      labels.check_statistics(task, info)


class MissingLabelsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("energy", ()),
    ("direct_forces", (3, 3)),
    ("conservative_stress", (3, 3)),
    ("multiclass", ()),
    ("vector", (3, 3)),
  )
  def test_what_stands_for_them_is_told_from_labels(self, kind, shape):
    target = dataclasses.replace(examples.TARGETS[kind], allow_missing=True)
    task = tasks_lib.TaskConfig("mine", (target,))
    rows = []
    nothing = {"energy": None, "forces": None, "stress": None, "targets": {}}
    for changes in ({}, nothing):
      structure = examples.structure(**changes)
      found = labels.normalise_labels(structure, examples.info(), task)[target.name]
      chex.assert_shape(found, shape)
      rows.append(found if target.spec.per_atom else found[None])
    stacked = np.concatenate(rows)
    filled, has_label = target.spec.split_missing(stacked)
    half = len(stacked) // 2
    self.assertEqual(has_label.tolist(), [True] * half + [False] * half)
    chex.assert_trees_all_close(filled[:half], stacked[:half], rtol=1e-6)
    self.assertTrue((np.asarray(filled[half:]) == 0).all())


if __name__ == "__main__":
  absltest.main()
