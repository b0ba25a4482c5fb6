"""The trainer from Python: datasets in memory, resuming, evaluation, prediction."""

import dataclasses
import pathlib
import shutil
import tempfile

from absl.testing import absltest
import ase
import chex
import numpy as np
import pytest

from jmp_hk import dataset_info
from jmp_hk import training
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import run_directory
from jmp_hk.training import trainer as trainer_lib
from jmp_hk.training import writers
from tests.jmp_hk.training import toy_run

# The second dataset has no forces.
_TASKS = (
  tasks_lib.pretraining_task("first"),
  tasks_lib.pretraining_task("second", labels=("energy",)),
)
_TIMING = ("seconds", "steps_per_second", "structures_per_second")


def _dataset(name: str, split: str, count: int, seed: int) -> datasets_lib.Dataset:
  """Random molecules in memory."""
  structures = [toy_run.structure(seed + i, f"{name}:{i}") for i in range(count)]
  if name == "second":
    structures = [dataclasses.replace(s, forces=None) for s in structures]
  return datasets_lib.Dataset(
    name=name,
    split=split,
    num_structures=count,
    info=dataclasses.replace(
      toy_run.INFO, name=name, energy_references={1: 0.5, 6: 1.0}, elements=(1, 6)
    ),
    task=[task.name for task in _TASKS].index(name),
    source=datasets_lib.MemorySource(structures),
  )


def _trainer(
  workdir: str | pathlib.Path, num_steps: int, **kwargs
) -> trainer_lib.Trainer:
  """Two datasets, of which one is validated on."""
  backbone = dataclasses.replace(toy_run.BACKBONE, edge_dropout=0.1)
  toy = toy_run.make_config(num_steps, checkpoint_every=4, evaluate_every=4, **kwargs)
  config = config_lib.TrainerConfig(
    model=model_lib.ModelConfig(backbone=backbone, tasks=_TASKS),
    train=toy.train,
  )
  training = [_dataset("second", "train", 7, 100), _dataset("first", "train", 9, 200)]
  return trainer_lib.Trainer(
    config, training, [_dataset("first", "val", 5, 300)], workdir
  )


def _lines(workdir: pathlib.Path) -> list[dict]:
  """Metrics without what depends on the clock."""
  lines = writers.read_metrics(workdir / writers.METRICS_FILE)
  return [{k: v for k, v in line.items() if k not in _TIMING} for line in lines]


def test_the_class_is_found_by_the_name_of_its_package():
  assert training.Trainer is trainer_lib.Trainer
  with pytest.raises(AttributeError, match="Coach"):
    _ = training.Coach


class TrainerTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def test_a_continued_run_equals_an_uninterrupted_one(self):
    whole = self.directory / "whole"
    trainer = _trainer(whole, 12, keep_last=9)
    metrics = trainer.run()
    self.assertIn("first/energy_mae_mev", metrics)
    self.assertNotIn("second/energy_mae_mev", metrics)
    # As if it had been killed after the checkpoint of step 8.
    killed = self.directory / "killed"
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / model_directory.CHECKPOINTS / "12")
    continued = _trainer(killed, 12, keep_last=9)
    self.assertEqual(int(continued.state.step), 8)
    self.assertEqual(continued.run(), metrics)
    chex.assert_trees_all_equal(continued.state, trainer.state)
    self.assertEqual(_lines(killed), _lines(whole))

  def test_evaluation_and_predictor_agree_with_the_validation(self):
    trainer = _trainer(self.directory, 4)
    metrics = trainer.run()
    again = trainer.evaluate()
    chex.assert_trees_all_close(again, {name: metrics[name] for name in again})
    other = trainer.evaluate([_dataset("second", "val", 5, 400)])
    self.assertIn("second/energy_mae_mev", other)
    self.assertFalse([name for name in other if "forces" in name])
    model = trainer.predictor()
    errors = []
    for index in range(5):
      structure = toy_run.structure(300 + index, "")
      atoms = ase.Atoms(structure.atomic_numbers, structure.positions)
      [prediction] = model.predict([atoms], "first")
      errors.append(abs(prediction.energy - structure.energy))
    chex.assert_trees_all_close(
      1000 * np.mean(errors), metrics["first/energy_mae_mev"], rtol=1e-4
    )

  def test_a_new_trainer_knows_the_trained_weights(self):
    trainer = _trainer(self.directory, 4)
    metrics = trainer.run()
    again = _trainer(self.directory, 4)
    chex.assert_trees_all_equal(again.state.params, trainer.state.params)
    # There is nothing left to train.
    self.assertEqual(again.run(), metrics)
    loaded = model_directory.load_model_directory(self.directory)
    self.assertEqual(list(loaded.infos), ["first", "second"])
    self.assertIsInstance(loaded.infos["first"], dataset_info.DatasetInfo)

  def test_other_settings_in_the_same_directory_are_refused(self):
    _trainer(self.directory, 4)
    with self.assertRaisesRegex(run_directory.OtherRunError, "seed: 0 → 3"):
      _trainer(self.directory, 4, seed=3)
    # How often is logged changes nothing that is computed.
    _trainer(self.directory, 4, log_every=7)

  def test_datasets_and_tasks_must_agree(self):
    config = toy_run.make_config(1)
    with self.assertRaisesRegex(ValueError, r"\['toy'\], but there are \['first'\]"):
      trainer_lib.Trainer(
        config,
        [_dataset("first", "train", 3, 0)],
        [],
        self.directory,
      )


if __name__ == "__main__":
  absltest.main()
