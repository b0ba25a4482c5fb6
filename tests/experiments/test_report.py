"""The report over runs: its tables, files and pictures, and what it cannot use."""

import csv
import dataclasses
import pathlib

import pytest

from experiments import report
from experiments.command_line import command
from experiments.command_line import tasks
from experiments.reports import comparison
from experiments.reports import plot
from experiments.reports import published as published_lib
from experiments.reports import runs as runs_lib
from experiments.reports import summaries
from tests.experiments import run_files

_JOINT = run_files.JOINT
_OC20 = dataclasses.replace(_JOINT, name="oc20")
_SMALL, _LARGE = "gemnet_oc_small", "gemnet_oc_large"


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
  with path.open(encoding="utf-8") as file:
    return list(csv.DictReader(file))


@pytest.fixture(name="written", scope="module")
def _written(tmp_path_factory):
  """The report of two sizes, from scratch and from two pre-trainings."""
  root = tmp_path_factory.mktemp("study")
  for task, fold_errors in (("rmd17_aspirin", [1.0]), ("matbench_jdft2d", [1, 2])):
    for model, factor, size in ((_SMALL, 1.0, 10), (_LARGE, 0.5, 20)):
      starts = (("s", None, 20.0), ("j", _JOINT, 5.0), ("o", _OC20, 10.0))
      for start, origin, error in starts:
        for fold, of_fold in enumerate(fold_errors):
          for seed in (1, 2):
            run_files.write(
              root / f"{task}{model}{start}{fold}{seed}",
              task,
              error * factor * of_fold + 0.2 * seed,
              [9, 7] if origin is None else [6, 5],
              origin=origin,
              fold=fold,
              num_parameters=size,
              stored=run_files.config(model, seed),
            )
  output = root / "report"
  return report.run([str(root)], output), output


def test_errors_stand_beside_the_published_ones(written):
  text = written[0].markdown
  heads = [line for line in text.splitlines() if "(published)" in line]
  assert any(
    head.endswith("| JMP-S (published) | JMP-L (published) |") for head in heads
  )
  row = next(line for line in text.splitlines() if line.startswith("| rmd17_aspirin"))
  assert "| 20.3 ± 0.14, 2 runs |" in row and "(+73.9 ± 0.7 %)" in row
  assert row.endswith("| 24.3 | 24.7 | 6.7 | 5.1 |")
  assert "Shoghi et al." in text


def test_folds_as_published_and_their_mean_have_rows_of_their_own(written):
  lines = written[0].markdown.splitlines()
  names = [line.split("|")[1].strip() for line in lines if "matbench_jdft2d, " in line]
  assert names == ["matbench_jdft2d, fold 0", "matbench_jdft2d, mean of folds 0, 1"]
  (mean,) = (line for line in lines if "mean of folds 0, 1" in line)
  assert mean.count("|") == 10 + 1 + 4  # No published number stands beside it.
  assert mean.endswith("|  |  |  |  |  |")


def test_mean_of_five_folds_stands_beside_the_published_one(tmp_path):
  for fold in range(5):
    run_files.write(
      tmp_path / str(fold), "matbench_jdft2d", 30.0 + fold, [1.0], fold=fold
    )
  text = report.run([str(tmp_path)], tmp_path / "r").markdown
  (row,) = (line for line in text.splitlines() if "mean of 5 folds |" in line)
  assert "| 32, 5 runs |" in row or "| 32 |" in row
  assert row.endswith("|  |  | 30.16 | 29.94 | 37.1652 |")
  (first,) = (line for line in text.splitlines() if "jdft2d, fold 0 |" in line)
  assert first.endswith("| 26.19 | 25.34 | 20.72 | 23.12 | 22.25 |")


def test_tables_of_improvement_size_ablation_and_time(written):
  text = written[0].markdown
  sections = {part.splitlines()[0]: part for part in text.split("\n## ")}
  improvement = sections["Relative improvement over training from scratch"]
  assert "| JMP-S over GN-OC-S (published) |" in improvement and "+59 %" in improvement
  size = sections["Larger over smaller models"]
  assert f"| {_LARGE} over {_SMALL}, from scratch |" in size
  ablation = sections["Ablations"]
  assert f"| {_SMALL} from oc20, over oc20+ani1x |" in ablation
  assert "-9.9 %" in ablation
  time = sections["Training time"]
  assert "on 2 of 2 tasks" in time and "12×" in time


def test_ablations_are_compared_with_the_reference(written, tmp_path):
  root = str(written[1].parent)
  other = report.run([root], tmp_path, reference=f"{_SMALL} from oc20+").markdown
  assert f"| {_SMALL} from oc20, over oc20+ani1x |" in other
  stored = run_files.config(_SMALL)
  run_files.write(tmp_path / "1", "qmof", 2.0, [1.0], origin=_JOINT, stored=stored)
  run_files.write(tmp_path / "2", "qmof", 1.0, [1.0], origin=_OC20, stored=stored)
  runs = [str(tmp_path / "1"), str(tmp_path / "2")]
  first = report.run(runs, tmp_path).markdown
  assert f"| {_SMALL} from oc20, over oc20+ani1x | +50.0 % (1 task) |" in first
  # A whole name is meant rather than the first that has it in its name.
  named = report.run(runs, tmp_path, reference="oc20").markdown
  assert f"| {_SMALL} from oc20+ani1x, over oc20 | -100.0 % (1 task) |" in named
  with pytest.raises(command.FlagError, match="no 'oc23'"):
    report.run([root], tmp_path, reference="oc23")


def test_files_hold_every_group_and_run(written):
  output = written[1]
  assert (output / "report.md").read_text(encoding="utf-8") == written[0].markdown
  groups = _rows(output / "groups.csv")
  (row,) = (
    r
    for r in groups
    if r["task"] == "matbench_jdft2d"
    and r["folds"] == "0 1"
    and r["model"] == _SMALL
    and r["start"] == "from oc20+ani1x"
  )
  assert float(row["error"]) == pytest.approx(7.8)
  assert row["runs"] == "4" and row["published_JMP-L"] == ""
  assert float(row["improvement_percent"]) == pytest.approx(100 * (1 - 7.8 / 30.3))
  assert row["compared_with"] == f"{_SMALL} from scratch"
  runs = _rows(output / "runs.csv")
  assert len(runs) == 2 * 3 * 2 * (1 + 2)
  assert {row["seed"] for row in runs} == {"1", "2"}


def test_pictures_are_drawn_of_what_there_is(written, tmp_path):
  names = {path.name for path in written[0].paths if path.suffix == ".png"}
  assert names == {
    plot.ERRORS_FILE,
    plot.IMPROVEMENTS_FILE,
    plot.SIZES_FILE,
    plot.ABLATIONS_FILE,
    plot.HOURS_FILE,
  }
  for name in names:
    assert (written[1] / name).read_bytes()[:4] == b"\x89PNG"
    assert f"]({name})" in written[0].markdown
  # Pictures of an earlier report that have nothing to show any more go.
  one = run_files.write(tmp_path / "a", "mine", 2.0, [3.0])
  (tmp_path / "r").mkdir()
  (tmp_path / "r" / plot.SIZES_FILE).write_bytes(b"old")
  report.run([one], tmp_path / "r")
  assert [path.name for path in (tmp_path / "r").glob("*.png")] == [plot.ERRORS_FILE]


def test_device_hours_are_drawn_of_tasks_that_all_groups_solved(tmp_path):
  for task, tuned in (("qmof", [6, 5]), ("rmd17_aspirin", [9, 8])):
    run_files.write(tmp_path / f"{task}_s", task, 2.0, [9, 7])
    run_files.write(tmp_path / f"{task}_j", task, 1.0, [7, 6], origin=_JOINT)
    run_files.write(tmp_path / f"{task}_o", task, 1.0, tuned, origin=_OC20)
  found = runs_lib.find([tmp_path])
  hours = summaries.hours_to_best(comparison.compare(found.runs))
  # On aspirin the model of OC20 was never as good as from scratch.
  assert hours == {
    "tiny from scratch": {"qmof": [2.0]},
    "tiny from oc20+ani1x": {"qmof": [1.0]},
    "tiny from oc20": {"qmof": [1.0]},
  }


def test_what_is_said_in_a_terminal_is_what_is_written(written):
  for line in ("Test errors: rmd17\n===", "Ablations\n===", "Training time\n==="):
    assert line in written[0].text
  assert "| ---" not in written[0].text
  # A table with a column for every model is too wide, so each has a line.
  lines = written[0].text.splitlines()
  assert any(line.startswith(f"{_SMALL} from oc20 ") for line in lines)
  assert max(map(len, lines)) < 130


def test_only_scratch_runs_of_a_task_of_ones_own(tmp_path):
  one = run_files.write(tmp_path / "a", "mine", 2.0, [3.0])
  text = report.run([one], tmp_path / "r").markdown
  assert "| mine | 950 | eV | 2 |" in text
  assert "ublished" not in text.partition("Training time")[0]


def test_other_settings_are_told(tmp_path):
  run_files.write(tmp_path / "a", "qmof", 2.0, [3.0])
  other = run_files.config(num_steps=3000)
  run_files.write(tmp_path / "b", "qmof", 1.0, [3.0], origin=_JOINT, stored=other)
  text = report.run([str(tmp_path)], tmp_path / "r").markdown
  assert "differs from tiny from scratch in train.num_steps, too." in text


def test_unfinished_and_damaged_runs_are_named(tmp_path):
  run_files.write(tmp_path / "good", "qmof", 2.0, [3.0])
  run_files.write(tmp_path / "result", "qmof", 2.0, [3.0])
  (tmp_path / "result" / "finetune_result.json").write_text("{")
  run_files.write(tmp_path / "config", "qmof", 2.0, [3.0])
  (tmp_path / "config" / "config.json").write_text("{}")
  run_files.write(tmp_path / "metrics", "qmof", 2.0, [3.0])
  (tmp_path / "metrics" / "metrics.jsonl").write_text('{"kind": "val"}\n' * 2)
  (tmp_path / "begun").mkdir()
  (tmp_path / "begun" / "flags.txt").write_text("--test_split=test\n")
  (tmp_path / "pretraining").mkdir()
  (tmp_path / "pretraining" / "flags.txt").write_text("--temperature=2\n")
  text = report.run([str(tmp_path)], tmp_path / "r").markdown
  left_out = [line for line in text.splitlines() if line.startswith("Left out")]
  assert len(left_out) == 4 and "pretraining" not in text
  for name in ("result", "config", "metrics", "begun"):
    assert any(f"{tmp_path / name} " in line for line in left_out), name
  (begun,) = (line for line in left_out if "begun" in line)
  assert "no finished fine-tuning run" in begun


def test_no_finished_runs_are_errors(tmp_path):
  with pytest.raises(command.FlagError, match="no finished fine-tuning run"):
    report.run([str(tmp_path)], tmp_path / "report")
  with pytest.raises(command.FlagError, match="nowhere .*it does not exist"):
    report.run([str(tmp_path / "nowhere")], tmp_path / "report")
  with pytest.raises(command.FlagError, match="Name the working directories"):
    report.run([], tmp_path / "report")


def test_values_that_are_not_finite_are_never_the_best(tmp_path):
  directory = run_files.write(tmp_path / "a", "qmof", 2.0, [3.0])
  (tmp_path / "a" / "metrics.jsonl").write_text(
    '{"step": 1, "kind": "val", "seconds": 1.0, "score": "nan"}\n'
    '{"step": 2, "kind": "val", "seconds": 2.0, "score": 4.0}\n'
  )
  (run,) = runs_lib.find([directory]).runs
  assert run.best == 4.0 and run.first_at(4.0).step == 2


def test_published_results_are_those_of_the_paper():
  published = published_lib.load()
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
  for name, baseline in published.baselines.items():
    known = {*baseline.mae, *baseline.mae_mean_of_5_folds}
    assert known <= set(published.tasks) and baseline.source, name


def test_published_errors_stand_beside_as_many_structures():
  published = published_lib.load()
  all_of_them = published.errors("rmd17_ethanol", (0,), 950)
  assert all_of_them["GN-OC-S"] == published.error("GN-OC-S", "rmd17_ethanol", (0,))
  assert published.errors("rmd17_ethanol", (0,), 50) == {}
  assert published.errors("mine", (0,), 50) == {}
  # Of QMOF the number is not stated.
  assert published.errors("qmof", (0,), 10)


def test_published_errors_are_those_of_the_same_folds():
  published = published_lib.load()
  error = lambda model, folds: published.error(model, "matbench_jdft2d", folds)
  assert error("JMP-S", (0,)) == 20.72
  assert error("JMP-S", range(5)) == 30.16
  assert error("GN-OC-S", range(5)) is None and error("JMP-S", (0, 1)) is None
  assert error("coGN", range(5)) == 37.1652
  assert published.error("JMP-S", "mine", (0,)) is None
