"""Declarations: names and kinds, what a task says, how they are stored."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized

from jmp_hk import serialization
from jmp_hk.targets import config as tasks_lib
from tests.jmp_hk.targets import examples

_ENERGY = tasks_lib.TargetConfig("energy", "energy")
_DIRECT = tasks_lib.TargetConfig("forces", "direct_forces")
_CONSERVATIVE = tasks_lib.TargetConfig("forces", "conservative_forces")
_GAP = tasks_lib.TargetConfig("gap", "scalar")


class TargetConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ("mu", "energy", "only for the label 'energy'; kinds for 'mu' are .*scalar"),
    ("energies", "direct_forces", "only for the label 'forces'"),
    ("energy", "scalar", "not for the label 'energy'; kinds for 'energy' are energy"),
    ("forces", "vector", "kinds for 'forces' are direct_forces, conservative_forces"),
    ("mu", "number", "no kind of target 'number'; known are .*scalar.*Import"),
  )
  def test_names_that_a_kind_cannot_have(self, name, kind, reason):
    with self.assertRaisesRegex(ValueError, reason):
      tasks_lib.TargetConfig(name, kind)

  def test_stored_targets_name_their_kind(self):
    stored = {
      "name": "lattice",
      "kind": "multiclass",
      "reduction": "mean",
      "loss_coefficient": 2.0,
      "num_classes": 3,
      "head_bias": False,
    }
    target = serialization.from_json(tasks_lib.TargetConfig, stored)
    self.assertEqual(target.spec.prediction_shape, (3,))
    upgraded = stored | {"allow_missing": False}
    self.assertEqual(serialization.to_json(target), upgraded)
    with self.assertRaisesRegex(
      serialization.SerializationError, "no kind of target 'dipole'"
    ):
      serialization.from_json(tasks_lib.TargetConfig, stored | {"kind": "dipole"})


class TaskConfigTest(parameterized.TestCase):
  @parameterized.parameters(
    ((_ENERGY, _DIRECT), False, True, 7.0),
    ((_ENERGY, _CONSERVATIVE), True, False, 0.5),
    ((_GAP,), False, False, 7.0),
  )
  def test_what_follows_from_the_targets(self, targets, conservative, edges, scale):
    task = tasks_lib.TaskConfig("mine", targets)
    self.assertEqual(task.is_conservative, conservative)
    self.assertEqual(task.needs_edges, edges)
    # The energy's derivatives are forces, whose scale is then its unit too.
    info = examples.info()
    self.assertEqual(task.energy_scale(info), scale)
    self.assertEqual(task.constants(info).energy_scale, scale)
    self.assertEqual(task.constants(info).force_scale, 0.5)

  def test_learned_targets_and_those_of_atoms(self):
    silent = dataclasses.replace(_ENERGY, loss_coefficient=0.0)
    task = tasks_lib.TaskConfig("mine", (silent, _CONSERVATIVE, _GAP))
    self.assertEqual(task.learned, (_CONSERVATIVE, _GAP))
    self.assertEqual(task.per_atom, {"forces"})

  @parameterized.parameters(
    (("energy", "forces", "gap"), "forces"),
    (("energy", "gap"), "energy"),
    (("gap",), "gap"),
  )
  def test_forces_stand_for_a_task_then_the_first_target(self, names, expected):
    task = tasks_lib.TaskConfig("mine", (_ENERGY, _GAP, _DIRECT))
    self.assertEqual(task.headline(names).name, expected)

  def test_pretraining_learns_energies_and_direct_forces(self):
    task = tasks_lib.pretraining_task("oc20", 2.0, 73.0)
    self.assertEqual([t.kind for t in task.targets], ["energy", "direct_forces"])
    self.assertEqual([t.loss_coefficient for t in task.targets], [2.0, 73.0])

  def test_conservative_pretraining_shares_one_kind_of_energy(self):
    make = functools.partial(tasks_lib.pretraining_task, conservative=True)
    both = make("oc20", 2.0, 73.0)
    energies = make("qm9", labels=["energy"])
    forces = make("mine", labels=["forces"], optional=["forces"])
    tasks_lib.check_tasks((both, energies, forces))
    self.assertEqual([t.kind for t in both.targets], ["energy", "conservative_forces"])
    self.assertEqual([t.name for t in energies.targets], ["energy"])
    self.assertFalse(energies.is_conservative)
    # The energy that forces are derivatives of has no labels of its own there.
    self.assertEqual([t.loss_coefficient for t in forces.targets], [0.0, 1.0])
    self.assertEqual([t.allow_missing for t in forces.targets], [False, True])
    with self.assertRaisesRegex(ValueError, "forces have a head of their own|one kind"):
      tasks_lib.check_tasks((both, tasks_lib.pretraining_task("direct")))

  def test_pretraining_learns_what_a_dataset_has(self):
    task = tasks_lib.pretraining_task("qm9", labels={"energy": "eV", "gap": "eV"})
    self.assertEqual([t.name for t in task.targets], ["energy"])
    task = tasks_lib.pretraining_task("mine", optional=["forces"])
    self.assertEqual([t.allow_missing for t in task.targets], [False, True])
    with self.assertRaisesRegex(ValueError, "'gaps' has neither energies nor forces"):
      tasks_lib.pretraining_task("gaps", labels=["gap"])


if __name__ == "__main__":
  absltest.main()
