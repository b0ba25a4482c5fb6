"""What makes two runs different, and what such runs are called."""

import json

from absl.testing import absltest
from absl.testing import parameterized

from experiments.reports import settings
from tests.experiments import run_files


class SettingsTest(parameterized.TestCase):
  def _of(self, **train):
    return settings.of_run(run_files.config(**train))

  def test_seed_and_what_only_watches_the_run_are_no_settings(self):
    self.assertEmpty(settings.differences(self._of(seed=1), self._of(seed=2)))

  @parameterized.parameters(
    {"optimizer": {"schedule": {"learning_rate": 2e-3}, "frozen": []}},
    {"optimizer": {"schedule": {"learning_rate": 1e-3}, "frozen": ["^head"]}},
    {"plateau": {"factor": 0.8}},
    {"num_steps": 2000},
    {"num_microbatches": 4},  # A larger batch.
  )
  def test_what_decides_the_model_is_a_setting(self, **train):
    self.assertNotEmpty(settings.differences(self._of(), self._of(**train)))
    self.assertNotEmpty(settings.differences(self._of(**train), self._of()))

  def test_steps_may_differ_as_the_sizes_of_folds_do(self):
    # 500 epochs of 508 and of 509 structures in batches of 3.
    steps = settings.differences(self._of(num_steps=84_667), self._of(num_steps=84_833))
    self.assertEmpty(steps)
    few = settings.differences(self._of(warmup_steps=5), self._of(warmup_steps=6))
    self.assertEmpty(few)

  def test_a_setting_that_one_version_does_not_know_is_no_difference(self):
    self.assertEmpty(settings.differences(self._of(), self._of(novelty=3)))

  def test_batch_sizes_of_old_and_new_configurations_are_equal(self):
    new = run_files.config(batch_size=8)
    new["trainer"]["budget"]["structures"] = None
    self.assertEmpty(settings.differences(self._of(), settings.of_run(new)))

  def test_dropout_is_a_setting_and_no_size_of_the_model(self):
    other = json.loads(json.dumps(run_files.config()))
    other["trainer"]["model"]["backbone"]["edge_dropout"] = 0.1
    self.assertEqual(settings.of_model(run_files.config()), settings.of_model(other))
    self.assertEqual(
      settings.differences(self._of(), settings.of_run(other)), ["edge_dropout"]
    )

  def test_namesakes_are_told_apart_by_what_differs(self):
    one, two = {"a.rate": 1e-3, "n": 1}, {"a.rate": 2e-3, "n": 1}
    self.assertEqual(
      settings.distinguish([("x", one), ("x", two), ("y", one), ("x", dict(one))]),
      ["x (rate=0.001)", "x (rate=0.002)", "y", "x (rate=0.001)"],
    )

  def test_namesakes_that_differ_in_much_are_numbered(self):
    one = {str(i): 0 for i in range(6)}
    two, three = one | {"5": 1}, {str(i): 1 for i in range(6)}
    labels = settings.distinguish([("x", one), ("x", two), ("x", three)])
    self.assertLen(set(labels), 3)
    self.assertIn("and 2 more", labels[0])

  def test_no_names_for_nothing(self):
    self.assertEmpty(settings.distinguish([]))


if __name__ == "__main__":
  absltest.main()
