"""What would end a run after hours is found before it computes anything."""

import dataclasses
import os
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import statistics
from jmp_hk.models import parameters
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import config as train_config
from jmp_hk.training import preflight
from tests.jmp_hk.targets import examples
from tests.jmp_hk.training import small
from tests.jmp_hk.training import toy_run

_ENERGY = tasks_lib.TargetConfig("energy", "energy")
_FORCES = tasks_lib.TargetConfig("forces", "direct_forces")
_MOST_ELEMENTS = 118


def _problems(
  held_out,
  *targets,
  training=None,
  num_elements=_MOST_ELEMENTS,
  stored=True,
  **declared,
) -> list[str]:
  """Problems of structures to validate on beside some to train on."""
  task = tasks_lib.TaskConfig("mine", targets)
  declaration = dataset_summary.Declaration(
    "mine",
    examples.info().graph,
    optional=frozenset({"energy", "gap"}),
    targets={
      "gap": dataset_summary.Label("eV", references=True),
      "lattice": dataset_summary.Label("", "class"),
    },
    **declared,
  )
  training = training or [examples.structure(seed) for seed in range(4)]
  info = dataset_summary.build_info(
    declaration,
    {
      split: statistics.of_structures(structures, declaration.optional)
      for split, structures in (("train", training), ("val", held_out))
    },
  )
  dataset = datasets_lib.Dataset(
    "mine",
    "val",
    len(held_out),
    info if stored else dataclasses.replace(info, splits={}),
    0,
    datasets_lib.MemorySource(held_out),
  )
  return preflight.find_problems(dataset, task, num_elements)


def _with_element(number: int, **labels):
  structure = examples.structure(9, **labels)
  numbers = structure.atomic_numbers.copy()
  numbers[0] = number
  return dataclasses.replace(structure, atomic_numbers=numbers)


class DataTest(parameterized.TestCase):
  @parameterized.parameters(True, False)
  def test_good_data_have_no_problems(self, stored):
    held_out = [examples.structure(5), examples.structure(6)]
    targets = _ENERGY, _FORCES, examples.TARGETS["scalar"]
    self.assertEqual(_problems(held_out, *targets, stored=stored), [])

  @parameterized.product(stored=(True, False), target=(_ENERGY, "scalar"))
  def test_elements_that_only_the_validation_has(self, stored, target):
    target = examples.TARGETS.get(target, target) if target == "scalar" else target
    (problem,) = _problems([_with_element(78)], target, stored=stored)
    self.assertRegex(problem, f"'val' of 'mine' has the elements Pt.*{target.name!r}")
    # Direct forces need no references.
    self.assertEqual(_problems([_with_element(78)], _FORCES, stored=stored), [])

  def test_references_come_from_structures_with_the_label(self):
    training = [examples.structure(seed) for seed in range(4)]
    training.append(_with_element(78, energy=None))
    (problem,) = _problems([_with_element(78)], _ENERGY, training=training)
    self.assertRegex(problem, "elements Pt, which no training structure with the label")

  def test_elements_beyond_the_embedding(self):
    problems = _problems([_with_element(78)], _FORCES, num_elements=54)
    self.assertRegex(problems[0], "elements Pt, but the model knows the first 54 only")

  @parameterized.parameters(True, False)
  def test_missing_labels(self, stored):
    bare = examples.structure(5, energy=None)
    some, all_of_them = [examples.structure(6), bare], [bare, bare]
    (problem,) = _problems(some, _ENERGY, stored=stored)
    self.assertRegex(problem, "1 of 2 structures without the label 'energy'")
    allowed = dataclasses.replace(_ENERGY, allow_missing=True)
    self.assertEqual(_problems(some, allowed, stored=stored), [])
    # There would be no metric to go by.
    (problem,) = _problems(all_of_them, allowed, stored=stored)
    self.assertRegex(problem, "has no structure with the label 'energy'")

  def test_classes_that_the_head_does_not_have(self):
    structures = [
      examples.structure(
        i, targets={"gap": np.float64(i), "lattice": np.asarray(float(i))}
      )
      for i in range(4)
    ]
    target = examples.TARGETS["multiclass"]  # Three classes.
    (problem,) = _problems(structures[:2], target, training=structures)
    self.assertRegex(problem, "has 4 classes of 'lattice', but its head has 3")

  def test_energies_without_references(self):
    info = examples.info(energy_references={})
    dataset = datasets_lib.Dataset(
      "mine", "val", 1, info, 0, datasets_lib.MemorySource([examples.structure()])
    )
    task = tasks_lib.TaskConfig("mine", (_ENERGY,))
    (problem,) = preflight.find_problems(dataset, task, _MOST_ELEMENTS)
    self.assertRegex(problem, "no reference energies: they are fitted on a split")

  def test_all_problems_are_told_at_once(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    source = datasets_lib.MemorySource([_with_element(78, energy=None)])
    info = dataclasses.replace(
      toy_run.INFO,
      energy_references={1: 1.0},
      splits={"val": dataset_info.SplitFacts((1, 78), {"energy": 1})},
    )
    dataset = datasets_lib.Dataset("toy", "val", 2, info, 0, source)
    with self.assertRaisesRegex(
      preflight.PreflightError, "without the label 'energy'.*elements Pt"
    ):
      preflight.check(toy_run.make_config(1), [dataset], directory / "run")


class OutputsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def test_a_directory_is_made(self):
    preflight.check_directory(self.directory / "new" / "run")
    self.assertTrue((self.directory / "new" / "run").is_dir())
    self.assertEqual(os.listdir(self.directory / "new" / "run"), [])

  def test_patterns_of_parameters_are_checked_before_anything_is_written(self):
    for changes, message in (
      ({"frozen": (".",)}, "nothing to train"),
      ({"frozen": ("nowhere",)}, "'nowhere' matches no parameter"),
      ({"learning_rate_factors": (("nowhere", 0.5),)}, "matches no parameter"),
    ):
      optimizer = train_config.OptimizerConfig(**changes)
      config = train_config.TrainerConfig(
        small.MODEL, train_config.TrainConfig(1, 2, optimizer=optimizer)
      )
      with tempfile.TemporaryDirectory() as folder:
        with self.assertRaisesRegex(parameters.PatternError, message):
          preflight.check(config, (), pathlib.Path(folder))
        self.assertEqual(os.listdir(folder), [])

  def test_a_file_in_its_place_is_named(self):
    (self.directory / "run").write_text("")
    with self.assertRaisesRegex(preflight.PreflightError, "directory .*run of the run"):
      preflight.check_directory(self.directory / "run")

  def test_checkpoints_need_room(self):
    train = toy_run.make_config(1).train
    small = {"w": jax.ShapeDtypeStruct((10, 3), jnp.float32), "n": jnp.zeros(2)}
    self.assertEqual(preflight.checkpoint_bytes(small), 4 * 32)
    preflight.check_disk(train, small, self.directory)
    huge = {"w": jax.ShapeDtypeStruct((2**50,), jnp.float32)}
    with self.assertRaisesRegex(
      preflight.PreflightError, r"GiB left, but the run needs \d+\.\d GiB: .* up to 4"
    ):
      preflight.check_disk(train, huge, self.directory)

  def test_the_metric_that_validation_goes_by(self):
    train = toy_run.make_config(1).train
    preflight.check_metric(train, ["score", "toy/score"])
    train = dataclasses.replace(train, primary_metric="toy/energy_mae")
    with self.assertRaisesRegex(
      preflight.PreflightError, "'toy/energy_mae' .*only score, toy/score"
    ):
      preflight.check_metric(train, ["score", "toy/score"])


if __name__ == "__main__":
  absltest.main()
