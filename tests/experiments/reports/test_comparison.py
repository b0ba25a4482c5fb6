"""Which runs are averaged, which are compared, and over what."""

import dataclasses
import json
import pathlib
import statistics

import pytest

from experiments.reports import comparison
from experiments.reports import origins
from experiments.reports import runs as runs_lib
from experiments.reports import summaries
from tests.experiments import run_files

_JOINT = run_files.JOINT


def _compare(directories):
  found = runs_lib.find(directories)
  assert not found.left_out
  return comparison.compare(found.runs)


@pytest.fixture(name="runs")
def _runs(tmp_path):
  rows = [
    ("a", "rmd17_aspirin", 20.0, [9, 7, 5, 6], None),
    ("b", "rmd17_aspirin", 5.0, [4, 3, 2], _JOINT),
    ("c", "rmd17_benzene", 1.0, [3, 2], None),
    ("d", "rmd17_benzene", 0.9, [5, 4], _JOINT),
    ("e", "qmof", 0.2, [4, 3], None),
    ("f", "qmof", 0.1, [3.5, 3], _JOINT),
  ]
  return [
    run_files.write(tmp_path / name, task, error, values, origin=origin)
    for name, task, error, values, origin in rows
  ]


def test_improvements_are_averaged_over_tasks(runs):
  (pairs,) = summaries.pairs_by_arm(_compare(runs)).values()
  means = summaries.mean_improvements(pairs)
  assert means["rmd17"].mean == pytest.approx((75 + 10) / 2)
  assert means["qmof"].mean == pytest.approx(50)
  # Over tasks, not over datasets, as in the paper.
  assert means["all"].mean == pytest.approx((75 + 10 + 50) / 3)
  assert means["all"].count == 3 and means["all"].spread is None


def test_device_hours_and_steps_until_the_scratch_models_best(runs):
  aspirin, benzene, qmof = (c.pairs[0].to_best for c in _compare(runs))
  # Scratch was best (5) at its third validation; fine-tuned was there at its first.
  # Two devices for half an hour each are one device-hour.
  assert (aspirin.scratch_hours, aspirin.tuned_hours) == pytest.approx((3.0, 1.0))
  assert (aspirin.scratch_steps, aspirin.tuned_steps) == (300, 100)
  assert (benzene.scratch_hours, benzene.tuned_hours) == (2.0, None)
  assert (benzene.num_reached, benzene.num_pairs) == (0, 1)
  assert (qmof.scratch_hours, qmof.tuned_hours) == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize(
  "change",
  [
    {"stored": run_files.config("gemnet_oc_small")},
    {"stored": run_files.config(num_steps=2000)},
    {"num_structures": 50},
    {"origin": _JOINT},
    {"origin": dataclasses.replace(_JOINT, name="oc20")},
  ],
  ids=["model", "steps", "structures", "weights", "other weights"],
)
def test_unlike_runs_are_never_averaged(change, tmp_path):
  known = {"origin": None} | (
    {"origin": _JOINT} if change.get("origin", _JOINT) != _JOINT else {}
  )
  one = run_files.write(tmp_path / "a", "qmof", 1.0, [1.0], **known)
  two = run_files.write(tmp_path / "b", "qmof", 3.0, [1.0], **(known | change))
  comparisons = _compare([one, two])
  groups = [group for c in comparisons for group in c.groups]
  assert [group.error().mean for group in groups] == [1.0, 3.0]
  names = [(c.num_structures, g.label) for c in comparisons for g in c.groups]
  assert len(set(names)) == 2


def test_copies_of_weights_and_other_seeds_of_their_training_are_one_group(tmp_path):
  for index, seed in enumerate((0, 0, 1)):
    origin = dataclasses.replace(_JOINT, seed=seed)
    stored = run_files.config(seed=index)
    run_files.write(
      tmp_path / str(index), "qmof", float(index), [1.0], origin=origin, stored=stored
    )
  (compared,) = _compare([tmp_path])
  (group,) = compared.groups
  assert group.label == "tiny from oc20+ani1x"
  assert group.error() == comparison.Estimate(1.0, 1.0, 3)


def test_weights_of_the_same_data_are_told_apart_by_their_training(tmp_path):
  uniform = dataclasses.replace(_JOINT, settings={"pipeline.temperature": "inf"})
  for name, origin in (("a", _JOINT), ("b", uniform)):
    run_files.write(tmp_path / name, "qmof", 1.0, [1.0], origin=origin)
  (compared,) = _compare([tmp_path])
  assert [group.label for group in compared.groups] == [
    "tiny from oc20+ani1x (temperature=2)",
    "tiny from oc20+ani1x (temperature=inf)",
  ]


def test_spread_is_over_seeds_and_the_mean_over_folds(tmp_path):
  errors = {(0, 1): 10.0, (1, 1): 30.0, (0, 2): 12.0, (1, 2): 36.0, (0, 3): 50.0}
  for (fold, seed), error in errors.items():
    run_files.write(
      tmp_path / f"{fold}{seed}",
      "matbench_phonons",
      error,
      [1.0],
      fold=fold,
      stored=run_files.config(seed=seed),
    )
  (compared,) = _compare([tmp_path])
  (group,) = compared.groups
  error = group.error()
  # Every fold counts alike, although one has three seeds and the other two.
  assert error.mean == pytest.approx((24 + 33) / 2)
  # The third seed lacks a fold, so its mean would be that of easier data.
  assert error.spread == pytest.approx(statistics.stdev([20, 24]))
  assert group.error((0,)).spread == pytest.approx(statistics.stdev([10, 12, 50]))


def test_one_fold_is_never_compared_with_the_mean_of_five(tmp_path):
  run_files.write(tmp_path / "s", "matbench_jdft2d", 30.0, [1.0])
  for fold in range(5):
    run_files.write(
      tmp_path / f"t{fold}",
      "matbench_jdft2d",
      20.0 + 10 * fold,
      [1.0],
      origin=_JOINT,
      fold=fold,
    )
  (compared,) = _compare([tmp_path])
  (pair,) = compared.pairs
  assert pair.folds == (0,)
  assert pair.improvement().mean == pytest.approx(100 / 3)
  assert compared.scopes == ((0,), (0, 1, 2, 3, 4))


def test_without_a_common_fold_nothing_is_compared(tmp_path):
  run_files.write(tmp_path / "s", "matbench_jdft2d", 30.0, [1.0])
  run_files.write(tmp_path / "t", "matbench_jdft2d", 20.0, [1.0], origin=_JOINT, fold=1)
  (compared,) = _compare([tmp_path])
  (pair,) = compared.pairs
  assert pair.improvement() is None and pair.to_best is None


def test_scratch_is_that_of_the_same_model_with_the_nearest_settings(tmp_path):
  other = {"optimizer": {"schedule": {"learning_rate": 5e-3}, "frozen": []}}
  run_files.write(tmp_path / "a", "qmof", 9.0, [1.0], stored=run_files.config(**other))
  run_files.write(tmp_path / "b", "qmof", 8.0, [1.0])
  large = run_files.config("gemnet_oc_large")
  run_files.write(tmp_path / "c", "qmof", 7.0, [1.0], stored=large)
  run_files.write(tmp_path / "d", "qmof", 4.0, [1.0], origin=_JOINT)
  (compared,) = _compare([tmp_path])
  (pair,) = compared.pairs
  assert pair.before.error().mean == 8.0 and not pair.differences
  labels = [group.label for group in compared.groups]
  assert labels[:2] == [
    "tiny from scratch (learning_rate=0.005)",
    "tiny from scratch (learning_rate=0.001)",
  ]


def test_spread_of_an_improvement(tmp_path):
  for seed, before, after in ((1, 9.0, 4.0), (2, 11.0, 6.0)):
    stored = run_files.config(seed=seed)
    run_files.write(tmp_path / f"s{seed}", "qmof", before, [1.0], stored=stored)
    run_files.write(
      tmp_path / f"t{seed}", "qmof", after, [1.0], origin=_JOINT, stored=stored
    )
  (compared,) = _compare([tmp_path])
  improvement = compared.pairs[0].improvement()
  relative = 2**0.5 * ((1 / 10) ** 2 + (1 / 5) ** 2) ** 0.5
  assert improvement.mean == pytest.approx(50)
  assert improvement.spread == pytest.approx(50 * relative)


def test_a_run_that_is_named_twice_counts_once(tmp_path):
  directory = run_files.write(tmp_path / "a", "qmof", 1.0, [1.0])
  assert len(runs_lib.find([directory, directory, tmp_path]).runs) == 1


def test_runs_of_the_same_fold_and_seed_are_named(tmp_path):
  for name in "ab":
    run_files.write(tmp_path / name, "qmof", 1.0, [1.0])
  (compared,) = _compare([tmp_path])
  assert sorted(map(pathlib.Path, compared.groups[0].repeated())) == [
    tmp_path / "a",
    tmp_path / "b",
  ]


def test_nothing_gives_nothing():
  assert comparison.compare([]) == []
  assert summaries.mean_improvements([]) == {}


def test_the_origin_of_weights_that_are_gone_is_their_path(tmp_path):
  gone = origins.unknown("runs/gone")
  assert gone.name == "gone" and not gone.is_same(origins.unknown("other/gone"))
  # A result of a version that did not store it.
  stored = run_files.write(tmp_path / "a", "qmof", 1.0, [1.0], origin=_JOINT)
  path = pathlib.Path(stored) / "finetune_result.json"
  old = json.loads(path.read_text()) | {"origin": None}
  path.write_text(json.dumps(old))
  (run,) = runs_lib.find([stored]).runs
  assert run.origin.is_same(origins.unknown("some/where"))
