"""The report over runs: pairing, averages, device-hours, published numbers."""

import csv
import json
import pathlib

import pytest

from experiments import report
from experiments.command_line import command
from experiments.command_line import tasks
from experiments.reports import comparison
from experiments.reports import result as result_lib
from jmp_hk import serialization

_METRIC = "forces_mae"


def _write_run(directory, task, error, values, initial="", fold=0, devices=2):
  """A run directory as the runner leaves it; a validation every 1800 s."""
  declared = tasks.TASKS.get(task)
  result = result_lib.Result(
    task=task,
    dataset=declared.dataset if declared else task,
    unit=declared.unit if declared else "eV",
    model="",
    initial=initial,
    fold=fold,
    num_structures=10,
    num_devices=devices,
    seconds=1800.0 * len(values),
    steps=len(values),
    best_step=1,
    validation_metric=_METRIC,
    validation=min(values),
    error=error,
    metrics={},
  )
  directory.mkdir()
  serialization.save(result, directory / result_lib.FILE)
  lines = [
    {"step": i + 1, "kind": "val", "seconds": 1800.0 * (i + 1), _METRIC: value}
    for i, value in enumerate(values)
  ]
  (directory / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
  return str(directory)


@pytest.fixture(name="runs")
def _runs(tmp_path):
  return [
    _write_run(tmp_path / "a", "rmd17_aspirin", 20.0, [9, 7, 5, 6]),
    _write_run(tmp_path / "b", "rmd17_aspirin", 5.0, [4, 3, 2], "pre"),
    _write_run(tmp_path / "c", "rmd17_benzene", 1.0, [3, 2]),
    _write_run(tmp_path / "d", "rmd17_benzene", 0.9, [5, 4], "pre"),
    _write_run(tmp_path / "e", "qmof", 0.2, [4, 3]),
    _write_run(tmp_path / "f", "qmof", 0.1, [3.5, 3], "pre"),
  ]


def test_improvements_are_averaged_over_tasks(runs):
  comparisons = comparison.compare(
    comparison.load_run(pathlib.Path(run)) for run in runs
  )
  means = comparison.mean_improvements(comparisons)
  assert means["rmd17"] == pytest.approx((75 + 10) / 2)
  assert means["qmof"] == pytest.approx(50)
  # Over tasks, not over datasets, as in the paper.
  assert means["all"] == pytest.approx((75 + 10 + 50) / 3)


def test_device_hours_until_the_scratch_models_best(runs):
  comparisons = comparison.compare(
    comparison.load_run(pathlib.Path(run)) for run in runs
  )
  aspirin, benzene, qmof = (c.hours_to_best for c in comparisons)
  # Scratch was best (5) at its third validation; fine-tuned was there at its first.
  # Two devices for half an hour each are one device-hour.
  assert aspirin == pytest.approx((3.0, 1.0))
  assert benzene == (2.0, None)
  assert qmof == pytest.approx((2.0, 2.0))
  scratch, fine_tuned, count = comparison.speed_up(comparisons)
  assert (scratch, fine_tuned, count) == pytest.approx((5.0, 3.0, 2))


def test_report_is_written(runs, tmp_path):
  output = tmp_path / "report"
  text = report.run(runs, output)
  assert (output / "report.md").read_text(encoding="utf-8") == text
  assert (
    "| rmd17_aspirin | meV/Å | 20 | 5 | +75.0 % | 24.3 | 24.7 | 6.7 | 5.1 |" in text
  )
  assert "not reached" in text and "12×" in text
  rows = list(csv.DictReader((output / "report.csv").open(encoding="utf-8")))
  assert rows[0]["published_JMP-L"] == "5.1"
  assert rows[1]["fine_tuned_hours_to_scratch_best"] == ""
  assert (output / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_folds_are_averaged_with_their_spread(tmp_path):
  runs = [
    _write_run(
      tmp_path / f"{start}{fold}", "matbench_phonons", error, [1.0], start, fold
    )
    for fold, error in enumerate((20.0, 24.0))
    for start in ("", "pre")
  ]
  text = report.run(runs, tmp_path / "report")
  assert "22 ± 2.8 (2 runs)" in text


def test_only_scratch_runs_of_a_task_of_ones_own(tmp_path):
  text = report.run([_write_run(tmp_path / "a", "mine", 2.0, [3.0])], tmp_path / "r")
  assert "| mine | eV | 2 |  |  |  |  |  |  |" in text


def test_unfinished_runs_and_no_runs_are_errors(tmp_path):
  with pytest.raises(command.FlagError, match="no finished fine-tuning run"):
    report.run([str(tmp_path)], tmp_path / "report")
  with pytest.raises(command.FlagError, match="Name the working directories"):
    report.run([], tmp_path / "report")


def test_published_results_are_those_of_the_paper():
  published = comparison.load_published()
  assert len(published.tasks) == 40
  assert set(published.tasks) == {n for n in tasks.TASKS if n != "matbench_mp_is_metal"}
  for name, task in published.tasks.items():
    assert task.unit == tasks.TASKS[name].unit, name
    assert set(task.mae) == set(published.models), name
  # The means over the forty tasks that the paper states follow from its table.
  for name, stated in published.overall_relative_improvement_percent.items():
    after, before = name.split(" over ")
    improvements = [
      100 * (t.mae[before] - t.mae[after]) / t.mae[before]
      for t in published.tasks.values()
    ]
    assert sum(improvements) / 40 == pytest.approx(stated, abs=0.5)
