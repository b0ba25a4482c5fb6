"""Metrics as people read them: lines, tables, the best so far."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized

from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import metric_table
from tests.jmp_hk.targets import examples

_SCALARS = tasks_lib.TaskConfig(
  "crystals", (examples.TARGETS["scalar"], examples.TARGETS["multiclass"])
)
_TASKS = (
  tasks_lib.pretraining_task("oc20"),
  tasks_lib.pretraining_task("ani1x"),
)
_INFOS = {
  name: dataclasses.replace(examples.info(), name=name)
  for name in ("oc20", "ani1x", "crystals")
}
_ENERGY, _FORCES = "energy_mae_mev_per_atom", "force_mae_mev_per_angstrom"


def _metrics(factor=1.0):
  """What validation gives for both datasets."""
  return {
    "oc20/energy_mae_mev": 370.0 * factor,
    f"oc20/{_ENERGY}": 26.91 * factor,
    f"oc20/{_FORCES}": 132.2 * factor,
    "oc20/force_cosine": 0.694 / factor,
    "oc20/score": 0.472 * factor,
    f"ani1x/{_ENERGY}": 70.08 * factor,
    "score": 0.6059 * factor,
  }


class MetricTableTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.described = metric_table.describe(_TASKS, _INFOS)

  def test_every_column_has_its_unit(self):
    lines = metric_table.table(self.described, _metrics()).splitlines()
    self.assertEqual(
      lines,
      [
        "       energy MAE  forces MAE  forces cosine  score",
        "       (meV/atom)     (meV/Å)",
        "oc20         26.9         132          0.694  0.472",
        "ani1x        70.1",
      ],
    )

  def test_further_values_have_rows_of_their_own(self):
    more = {"raw weights": {f"oc20/{_FORCES}": 140.0}}
    lines = metric_table.table(self.described, _metrics(), more).splitlines()
    self.assertEqual(lines[3].split(), ["raw", "weights", "140"])
    self.assertEqual(len(lines), 6)

  def test_many_metrics_are_written_one_below_the_other(self):
    targets = tuple(tasks_lib.TargetConfig(f"p{i}", "scalar") for i in range(5))
    task = tasks_lib.TaskConfig("crystals", targets)
    described = metric_table.describe([task], _INFOS)
    metrics = {f"crystals/p{i}_mae": 0.5 for i in range(5)}
    metrics |= {f"crystals/p{i}_rmse": 1.5 for i in range(5)}
    lines = metric_table.table(described, metrics).splitlines()
    self.assertEqual(lines[0].split(), ["crystals"])
    self.assertEqual(lines[1].split(), ["p0", "MAE", "0.500"])
    self.assertLen(lines, 11)

  def test_kinds_of_targets_say_their_titles_and_units(self):
    described = metric_table.describe([_SCALARS], _INFOS)
    shown = {name: (m.title, m.unit) for name, m in described.items()}
    self.assertEqual(
      shown,
      {
        "crystals/gap_mae": ("gap MAE", "eV"),
        "crystals/gap_rmse": ("gap RMSE", "eV"),
        "crystals/lattice_cross_entropy": ("lattice cross-entropy", "nat"),
        "crystals/lattice_accuracy": ("lattice accuracy", ""),
        "crystals/score": ("score", ""),
      },
    )
    self.assertTrue(described["crystals/lattice_accuracy"].higher_is_better)

  def test_lines_average_over_datasets_and_stay_short(self):
    values = {f"oc20/{_ENERGY}": 20.0, f"ani1x/{_ENERGY}": 60.0, "loss": 1.0}
    parts = metric_table.training_errors(self.described, values)
    self.assertEqual(parts, ["energy 40.0 meV/atom"])
    targets = tuple(tasks_lib.TargetConfig(f"p{i}", "scalar") for i in range(9))
    task = tasks_lib.TaskConfig("crystals", targets)
    described = metric_table.describe([task], _INFOS)
    values = {f"crystals/p{i}_mae": 0.5 for i in range(9)}
    parts = metric_table.training_errors(described, values)
    self.assertEqual(parts, [*(f"p{i} 0.500" for i in range(4)), "5 more targets"])
    self.assertEqual(metric_table.training_errors(described, {}), [])

  def test_the_best_so_far_is_marked(self):
    log = metric_table.ValidationLog(self.described, "score")
    first = log.tell(100, _metrics())
    self.assertStartsWith(first, "Validation after step 100, the best so far:")
    self.assertNotIn("*", first)  # There is nothing to compare with.
    better = log.tell(200, _metrics(0.5) | {f"oc20/{_FORCES}": 133.0})
    self.assertIn("step 200, the best so far (* better", better)
    self.assertIn("13.5*", better)  # Energies.
    self.assertIn("1.39*", better)  # Of cosines more is better.
    self.assertIn("133 ", better)
    worse = log.tell(300, _metrics())
    self.assertStartsWith(worse, "Validation after step 300 (the best is step 200):")
    self.assertNotIn("*", worse)

  def test_a_continued_run_remembers(self):
    log = metric_table.ValidationLog(
      self.described,
      "score",
      [
        {"step": 50, "kind": "train", "score": 0.0},
        {"step": 100, "kind": "val", **_metrics(), f"oc20/{_FORCES}": "nan"},
      ],
    )
    self.assertIn("(the best is step 100)", log.tell(200, _metrics(2.0)))

  def test_numbers_that_are_not_finite(self):
    text = metric_table.table(self.described, {f"oc20/{_ENERGY}": float("nan")})
    self.assertIn("nan", text)
    # As metrics files have them.
    self.assertIn("inf", metric_table.table(self.described, {f"oc20/{_ENERGY}": "inf"}))


if __name__ == "__main__":
  absltest.main()
