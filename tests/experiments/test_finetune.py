"""Whole fine-tuning runs: from scratch and from a checkpoint, tested and reported."""

import csv
import json
import shutil

from absl import flags
import ase.io
import chex
import numpy as np
import pytest

from experiments import evaluate
from experiments import finetune
from experiments import report
from experiments import study
from experiments.command_line import command
from experiments.command_line import study_runs
from experiments.reports import origins
from experiments.reports import runs as runs_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import parameters
from tests.experiments import finetune_data

_RUN = (
  *finetune_data.FLAGS,
  "--num_steps=6",
  "--decay_epochs=2",
  "--evaluate_every=3",
  "--checkpoint_every=3",
  "--early_stopping_patience=0",
  "--compilation_cache=",
  "--ema_decay=0.5",
)
_TARGET = "--target=forces=conservative_forces,coefficient=10"


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
  return finetune_data.convert_all(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(name="scratch", scope="module")
def _scratch(data, tmp_path_factory):
  """A run from scratch."""
  workdir = tmp_path_factory.mktemp("scratch")
  finetune.run(
    finetune_data.parse(*_RUN, _TARGET, f"--data={data}", f"--workdir={workdir}")
  )
  return workdir


@pytest.fixture(name="tuned", scope="module")
def _tuned(data, scratch, tmp_path_factory):
  """A run that continues with another kind of target; the embedding is frozen."""
  workdir = tmp_path_factory.mktemp("tuned")
  finetune.run(
    finetune_data.parse(
      *(f for f in _RUN if not f.startswith("--model")),
      "--target=kind=multiclass",
      "--target=mu=scalar,reduction=mean",
      f"--data={data}",
      f"--workdir={workdir}",
      f"--checkpoint={scratch}",
      "--frozen=^atom_embedding/",
    )
  )
  return workdir


def _evaluate(*arguments: str):
  values = flags.FlagValues()
  evaluate.define_flags(values)
  values(["evaluate", "--compilation_cache=", *map(str, arguments)])
  return evaluate.run(values)


def test_a_run_ends_with_its_test(scratch, data):
  result = runs_lib.load(scratch).result
  assert result.task == "mine" and result.initial == ""
  assert result.unit == "meV/Å" and result.num_structures == 18
  assert result.steps == 6 and result.best_step in (3, 6)
  test = json.loads((scratch / "test" / "metrics.json").read_text())
  assert test["structures"] == 6
  # The energy of a conservative model has no loss and is not scored.
  assert set(test["targets"]) == {"forces"}
  assert result.error == pytest.approx(1000 * test["targets"]["forces"]["mae"])
  assert (scratch / "test" / "parity.png").read_bytes()[:4] == b"\x89PNG"


def test_predictions_and_metrics_agree(scratch):
  frames = ase.io.read(scratch / "test" / "predictions.extxyz", ":")
  error = np.concatenate([f.arrays["jmp_forces"] - f.get_forces() for f in frames])
  test = json.loads((scratch / "test" / "metrics.json").read_text())
  assert np.abs(error).mean() == pytest.approx(
    test["targets"]["forces"]["mae"], rel=1e-4
  )
  rows = list(csv.DictReader((scratch / "test" / "predictions.csv").open()))
  assert [row["record"] for row in rows] == [frame.info["record"] for frame in frames]
  expected = np.abs(frames[0].arrays["jmp_forces_error"]).mean()
  assert float(rows[0]["jmp_forces_mae"]) == pytest.approx(expected, rel=1e-4)
  # Without a net force and independent of the reference energies.
  assert np.abs(frames[0].arrays["jmp_forces"].sum(axis=0)).max() < 1e-3


def test_best_weights_are_chosen_in_validation(scratch):
  lines = (scratch / "metrics.jsonl").read_text().splitlines()
  metrics = [json.loads(line) for line in lines]
  name = "mine/force_mae_mev_per_angstrom"
  values = {m["step"]: m[name] for m in metrics if m["kind"] == "val"}
  best = min(values, key=values.get)
  assert runs_lib.load(scratch).result.best_step == best
  assert int(model_directory.find_checkpoint(scratch).name) == best


def test_evaluation_of_a_checkpoint_equals_validation(scratch, data, tmp_path):
  metrics = _evaluate(
    f"--checkpoint={scratch}", f"--data={data}", "--split=val", f"--output={tmp_path}"
  )
  result = runs_lib.load(scratch).result
  assert 1000 * metrics["forces"]["mae"] == pytest.approx(result.validation, rel=1e-4)
  assert (tmp_path / "predictions.csv").exists()
  # The same quantities under the same names and in the same units.
  stored = json.loads((tmp_path / "metrics.json").read_text())["validation_metrics"]
  lines = [json.loads(line) for line in (scratch / "metrics.jsonl").open()]
  (validated,) = (
    l for l in lines if l["kind"] == "val" and l["step"] == result.best_step
  )
  assert set(stored) == {"mine/force_mae_mev_per_angstrom", "mine/force_cosine"}
  for name, value in stored.items():
    assert value == pytest.approx(validated[name], rel=1e-4)


def test_evaluations_do_not_replace_each_other(scratch, data, tmp_path):
  arguments = [f"--checkpoint={scratch}", f"--data={data}", f"--output={tmp_path}"]
  _evaluate(*arguments, "--split=val")
  with pytest.raises(command.FlagError, match="split: 'val' → 'test'.*--overwrite"):
    _evaluate(*arguments, "--split=test")
  _evaluate(*arguments, "--split=test", "--limit=2", "--overwrite")
  stored = json.loads((tmp_path / "metrics.json").read_text())
  assert stored["structures"] == 2 and stored["settings"]["split"] == "test"


def test_training_tells_errors_in_the_units_of_validation(scratch):
  lines = [json.loads(line) for line in (scratch / "metrics.jsonl").open()]
  name = "mine/force_mae_mev_per_angstrom"
  errors = {
    kind: [l[name] for l in lines if l["kind"] == kind] for kind in ("train", "val")
  }
  assert errors["train"] and errors["val"]
  # An untrained model is about as wrong on what it trains and validates on.
  assert 0.2 < np.mean(errors["train"]) / np.mean(errors["val"]) < 5
  units = json.loads((scratch / "metric_units.json").read_text())
  assert units[name] == "meV/Å" and units["mine/force_cosine"] == ""


def test_a_run_ends_with_what_is_next(scratch, data, capsys):
  finetune.run(
    finetune_data.parse(*_RUN, _TARGET, f"--data={data}", f"--workdir={scratch}")
  )
  text = capsys.readouterr().out
  assert "Test of mine on 6 structures" in text and "meV/Å" in text
  assert f"experiments.predict --checkpoint={scratch}" in text


def test_loaded_parameters_are_in_one_table(tuned, scratch):
  rows = list(csv.DictReader((tuned / "parameters.csv").open(encoding="utf-8")))
  statuses = {}
  for row in rows:
    statuses.setdefault(row["parameter"].split("/")[0], set()).add(row["status"])
  assert statuses["out_kind"] == statuses["out_mu"] == {"fresh"}
  assert statuses["out_energy"] == {"ignored"}
  assert statuses["backbone"] == statuses["atom_embedding"] == {"loaded"}


def test_sizes_scales_and_frozen_parameters_come_from_the_checkpoint(tuned, scratch):
  before = model_directory.load_model_directory(scratch)  # The averaged weights.
  after = model_directory.load_model_directory(tuned)
  assert (
    after.config.backbone.atom_channels == before.config.backbone.atom_channels == 8
  )
  name = "atom_embedding/embeddings"
  old, new = parameters.flatten(before.variables), parameters.flatten(after.variables)
  frozen = [path for path in new if "atom_embedding" in path or "scale_factor" in path]
  assert any(name in path for path in frozen) and len(frozen) > 5
  for path in frozen:
    chex.assert_trees_all_close(new[path], old[path], rtol=1e-6)
  assert any(not np.allclose(new[p], old[p]) for p in new if "dense" in p and p in old)


def test_classes_and_scalars_are_tested(tuned):
  result = runs_lib.load(tuned).result
  assert result.initial and result.validation_metric == "mine/score"
  assert set(result.metrics) == {"kind", "mu"}
  assert {"accuracy", "f1", "cross_entropy"} <= set(result.metrics["kind"])
  header = (tuned / "test" / "predictions.csv").read_text().splitlines()[0]
  assert {"kind", "jmp_kind_2", "jmp_kind_class", "mu", "jmp_mu"} <= set(
    header.split(",")
  )


def test_other_flags_in_the_same_directory_are_refused(scratch, data):
  with pytest.raises(command.FlagError, match="learning_rate: 0.001 → 0.002"):
    finetune.run(
      finetune_data.parse(
        *_RUN,
        _TARGET,
        f"--data={data}",
        f"--workdir={scratch}",
        "--learning_rate=0.002",
      )
    )


def test_a_backbone_that_does_not_fit_is_refused(scratch, data):
  arguments = ("--target=mu=scalar", f"--data={data}", f"--checkpoint={scratch}")
  with pytest.raises(command.FlagError, match="num_blocks: 1 → 4"):
    finetune.check_flags(
      finetune_data.parse(*arguments, "--workdir=w", "--model=gemnet_oc_small")
    )


def test_report_of_both(scratch, tuned, tmp_path):
  written = report.run([str(scratch), str(tuned)], tmp_path)
  assert "| mine | 18 |" in written.markdown and (tmp_path / "errors.png").exists()
  # They learn different things, so neither is averaged or compared with the other.
  with (tmp_path / "groups.csv").open(encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert [row["runs"] for row in rows] == ["1", "1"]
  assert not any(row["improvement_percent"] for row in rows)


def test_initial_weights_are_known_by_their_origin(tuned, scratch, tmp_path):
  origin = runs_lib.load(tuned).origin
  assert origin.name == "mine" and origin.seed == 42
  assert origin.settings["train.optimizer.schedule.learning_rate"] == 1e-3
  assert origin.settings["mine.num_structures"] == 18
  assert runs_lib.load(scratch).origin is None
  # A copy has the same origin; a copy without its run's files is known by its weights.
  shutil.copytree(scratch, tmp_path / "copy")
  assert origins.describe(str(tmp_path / "copy")).is_same(origin)
  step = model_directory.find_checkpoint(scratch)
  for name in ("one", "two"):
    shutil.copytree(step, tmp_path / name)
  alone = origins.describe(str(tmp_path / "one"))
  assert alone.is_same(origins.describe(str(tmp_path / "two")))
  assert alone.name == "mine" and not alone.is_same(origin)
  # Of another step, which is not the best, they are other weights.
  assert not origins.describe(str(step)).is_same(origin)


def test_a_study_skips_what_is_finished_and_names_what_fails(data, capsys, tmp_path):
  task = tmp_path / "mine.flags"
  task.write_text("\n".join((*_RUN, _TARGET, f"--data={data}")) + "\n")
  arguments = [f"--tasks={task}", f"--workdir={tmp_path / 'study'}"]
  (planned,) = study_runs.plan(
    study_runs.StudyConfig([str(task)], {}, tmp_path / "study")
  )
  finetune.run(finetune_data.parse(*planned.arguments))
  assert planned.is_finished
  # The second one is run by a process of its own, and there is no model in the folder.
  (tmp_path / "none").mkdir()
  code = study.PROGRAM.execute([*arguments, f"--checkpoint={tmp_path / 'none'}"])
  shown = capsys.readouterr()
  assert code == 1 and "Test errors: mine" in shown.out
  assert "1 of 2 runs failed. mine_none_fold0_seed42: --checkpoint: There is no" in (
    shown.err
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "--checkpoint is required"),
    (["--checkpoint=nowhere", "--data={data}"], "no checkpoint in nowhere"),
    (["--checkpoint={scratch}", "--data=nowhere"], "nowhere of 'data' does not exist"),
    (
      ["--checkpoint={scratch}", "--data={data}", "--head=oc20"],
      "name one of the model",
    ),
    (["--checkpoint={scratch}", "--data={data}", "--split=dev"], "dev"),
  ],
)
def test_wrong_flags_of_evaluation(arguments, message, scratch, data):
  with pytest.raises(command.FlagError, match=message):
    _evaluate(*(a.format(scratch=scratch, data=data) for a in arguments))
