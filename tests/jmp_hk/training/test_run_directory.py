"""The directory of a run: its configuration."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest

from jmp_hk.training import run_directory
from tests.jmp_hk.training import toy_run


class RunDirectoryTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def test_only_what_is_computed_must_agree(self):
    config = toy_run.make_config(5)
    run_directory.check_config({"trainer": config}, self.directory)
    run_directory.store_config({"trainer": config}, self.directory)
    slower = dataclasses.replace(
      config,
      pipeline=dataclasses.replace(config.pipeline, num_workers=3),
      validation_limit=7,
    )
    run_directory.check_config({"trainer": slower}, self.directory)
    other = toy_run.make_config(6, ema_decay=0.8)
    with self.assertRaisesRegex(
      run_directory.OtherRunError,
      "num_steps: 5 → 6; trainer.train.ema_decay: 0.9 → 0.8",
    ):
      run_directory.check_config({"trainer": other}, self.directory)

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
