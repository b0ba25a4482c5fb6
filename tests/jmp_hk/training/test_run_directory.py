"""The directory of a run: its configuration."""

import dataclasses
import json
import pathlib
import tempfile

from absl.testing import absltest
import jax

from jmp_hk import serialization
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import run_directory
from tests.jmp_hk.training import toy_run


class RunDirectoryTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def test_what_has_been_trained_must_agree(self):
    config = toy_run.make_config(5)
    run_directory.check_config({"trainer": config}, self.directory)
    run_directory.store_config({"trainer": config}, self.directory)
    slower = dataclasses.replace(
      config,
      pipeline=dataclasses.replace(config.pipeline, num_workers=3),
      budget=budget_lib.BudgetConfig(overrides={"num_atoms": 99}),
      validation_limit=7,
    )
    run_directory.check_config({"trainer": slower}, self.directory)
    longer = toy_run.make_config(
      6,
      log_every=3,
      evaluate_every=5,
      checkpoint_every=9,
      checkpoint_minutes=1.0,
      keep_last=4,
      keep_best=3,
      profile_steps=2,
      early_stopping=config_lib.EarlyStoppingConfig(),
      optimizer=config_lib.OptimizerConfig(config_lib.ScheduleConfig(1e-2, 3, 0.2, 60)),
    )
    with self.assertLogs("jmp_hk", "INFO") as logs:
      run_directory.check_config({"trainer": longer}, self.directory)
    self.assertIn("trainer.train.num_steps: 5 → 6", logs.output[0])
    other = toy_run.make_config(6, ema_decay=0.8)
    with self.assertRaisesRegex(
      run_directory.OtherRunError,
      "other settings: trainer.train.ema_decay: 0.9 → 0.8. .* another directory .* "
      "from the weights of this one",
    ):
      run_directory.check_config({"trainer": other}, self.directory)
    # What waits in a pool would not fit into a smaller one.
    pool = dataclasses.replace(
      config, pipeline=dataclasses.replace(config.pipeline, pool_size=8)
    )
    with self.assertRaisesRegex(run_directory.OtherRunError, "pool_size: 24 → 8"):
      run_directory.check_config({"trainer": pool}, self.directory)

  def test_the_number_of_microbatches_follows_and_stays(self):
    config = toy_run.make_config(5, num_microbatches=0, batch_size=6)
    new = run_directory.complete(config, self.directory)
    self.assertEqual(new.train.num_microbatches, min(6, jax.device_count()))
    # That of the directory's run counts more than the devices.
    stored = toy_run.make_config(5, num_microbatches=3, batch_size=6)
    run_directory.store_config({"trainer": stored}, self.directory)
    again = run_directory.complete(config, self.directory)
    self.assertEqual(again, stored)
    run_directory.check_config({"trainer": again}, self.directory)
    # A number that is given must be the same.
    other = toy_run.make_config(5, num_microbatches=2, batch_size=6)
    self.assertIs(run_directory.complete(other, self.directory), other)
    with self.assertRaisesRegex(run_directory.OtherRunError, "num_microbatches: 3 → 2"):
      run_directory.check_config({"trainer": other}, self.directory)
    fewer = toy_run.make_config(5, num_microbatches=3, batch_size=6, num_devices=1)
    run_directory.check_config({"trainer": fewer}, self.directory)

  def test_a_run_that_knew_the_size_of_a_microbatch_is_refused(self):
    config = {"trainer": toy_run.make_config(5)}
    stored = serialization.to_json(config)
    del stored["trainer"]["train"]["batch_size"]
    stored["trainer"]["budget"]["structures"] = 2.0
    path = self.directory / run_directory.CONFIG_FILE
    path.write_text(json.dumps(stored))
    with self.assertRaisesRegex(
      run_directory.OtherRunError, "of an earlier version.* --checkpoint="
    ):
      run_directory.check_config(config, self.directory)

  def test_parts_are_compared_and_stored_by_themselves(self):
    config = toy_run.make_config(5)
    datasets = [{"name": "a", "directory": "x"}]
    run_directory.store_config(
      {"trainer": config, "datasets": datasets}, self.directory
    )
    # The trainer knows nothing of the rest.
    run_directory.check_config({"trainer": config}, self.directory)
    run_directory.store_config({"trainer": config}, self.directory)
    moved = [{"name": "a", "directory": "y"}]
    with self.assertRaisesRegex(run_directory.OtherRunError, "'x' → 'y'"):
      run_directory.check_config({"datasets": moved}, self.directory)
    run_directory.check_config(
      {"datasets": moved}, self.directory, ["datasets.*.directory"]
    )
    with self.assertRaisesRegex(run_directory.OtherRunError, "says nothing of seeds"):
      run_directory.check_config({"seeds": 3}, self.directory)


if __name__ == "__main__":
  absltest.main()
