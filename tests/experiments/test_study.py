"""Studies: what they plan, skip, continue, and how they end."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from absl import flags
import pytest

from experiments import study
from experiments.command_line import command
from experiments.command_line import study_runs
from experiments.reports import result as result_lib
from jmp_hk.runtime import interruption
from tests.experiments import run_files


def _values(*arguments: str) -> flags.FlagValues:
  values = flags.FlagValues()
  study.PROGRAM.define(values)
  study.PROGRAM.parse(list(map(str, arguments)), values)
  return values


def _config(workdir: pathlib.Path, **changes) -> study_runs.StudyConfig:
  settings = {"tasks": ["qmof"], "checkpoints": {}, "workdir": workdir} | changes
  return study_runs.StudyConfig(**settings)


def _process(code: str) -> subprocess.Popen[bytes]:
  return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def _finish(run: study_runs.PlannedRun) -> None:
  """Leaves the files of a finished run."""
  error = 1.0 + len(run.name) / 1000
  run_files.write(run.directory, "qmof", error, [2.0])
  (run.directory / command.FLAGS_FILE).write_text(run.flags, encoding="utf-8")
  os.utime(run.directory / result_lib.FILE, (time.time() + 5,) * 2)


def test_every_task_seed_fold_and_start_is_planned_once(tmp_path):
  planned = study_runs.plan(
    _config(
      tmp_path,
      tasks=["qm9_u0", "matbench_jdft2d"],
      checkpoints={"joint": "runs/joint"},
      seeds=(1, 2),
      folds=(0, 3),
      extra=(
        "model=tiny",
        "noema",
        "model_override=num_blocks=1,atom_channels=8",
        "data=converted/{task}_{fold}",
      ),
    )
  )
  assert len({run.name for run in planned}) == len(planned) == 2 * 2 * 2 * 2
  first, second = planned[:2]
  assert first.name == "qm9_u0_scratch_fold0_seed1"
  assert second.name == "qm9_u0_joint_fold0_seed1"
  assert "--checkpoint=runs/joint\n" in second.flags
  assert "--checkpoint=\n" in first.flags
  for run in planned:
    lines = run.flags.splitlines()
    assert "--noema" in lines and "--model=tiny" in lines
    assert "--model_override=num_blocks=1,atom_channels=8" in lines
    assert f"--workdir={tmp_path / run.name}" in lines
  last = planned[-1].flags.splitlines()
  # The task's own flags count as well, and the fold is passed on.
  assert "--data=converted/matbench_jdft2d_{fold}" in last
  assert "--fold=3" in last and "--seed=2" in last and "--batch_size=3" in last


def test_flag_files_of_ones_own_are_tasks(tmp_path):
  path = tmp_path / "mine.flags"
  path.write_text("--target=gap=scalar\n--data=somewhere\n", encoding="utf-8")
  (run,) = study_runs.plan(_config(tmp_path, tasks=[str(path)]))
  assert run.name == "mine_scratch_fold0_seed42"
  assert "--target=gap=scalar" in run.flags.splitlines()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--tasks=rmd17_asprin"], "Did you mean rmd17_aspirin"),
    (["--tasks=no/where.flags"], "flag file no/where.flags does not exist"),
    (["--tasks=qmof,qmof"], "run twice; name each once"),
    (["--tasks=qmof", "--extra=num_step=3"], "qmof_scratch.*Did you mean --num_steps"),
    (["--tasks=qmof", "--seeds=1,x"], "--seeds: 'x' is no whole number"),
    (["--tasks=qmof", "--folds="], "--folds is empty"),
    (["--tasks=qmof", "--noscratch"], "leaves nothing to do without --checkpoint"),
    (["--tasks=qmof", "--checkpoint=a/x,b/x"], "both called 'x'"),
    (["--tasks=qmof", "--checkpoint=a/scratch"], "training from scratch are both"),
    ([], "--tasks is required"),
  ],
)
def test_wrong_flags_are_found_before_anything_runs(arguments, message, tmp_path):
  with pytest.raises(command.FlagError, match=message):
    study.run(_values(*arguments, f"--workdir={tmp_path / 'w'}"))
  assert not (tmp_path / "w").exists()


def test_a_dry_run_lists_what_would_be_done(tmp_path, capsys):
  planned = study_runs.plan(_config(tmp_path, checkpoints={"joint": "a/joint"}))
  _finish(planned[0])
  study.run(
    _values(
      "--tasks=qmof", "--checkpoint=a/joint", f"--workdir={tmp_path}", "--dry_run"
    )
  )
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].split() == ["qmof_scratch_fold0_seed42", "finished"]
  assert lines[2].split() == ["qmof_joint_fold0_seed42", "new"]
  assert lines[-1] == "1 of 2 runs are to be done."
  (line,) = (text for text in lines if "--checkpoint=a/joint" in text)
  assert line.startswith("python -m experiments.finetune --task=qmof ")
  assert [path.name for path in tmp_path.iterdir()] == [planned[0].name]


def test_finished_is_a_run_with_a_result_of_these_flags(tmp_path):
  (run,) = study_runs.plan(_config(tmp_path))
  assert run.state == "new"
  _finish(run)
  assert run.state == "finished"
  (longer,) = study_runs.plan(_config(tmp_path, extra=("num_steps=7",)))
  assert longer.state == "begun"
  # It was started again, with more steps, and has not come to its end.
  (run.directory / command.FLAGS_FILE).write_text(longer.flags, encoding="utf-8")
  os.utime(run.directory / command.FLAGS_FILE, (time.time() + 9,) * 2)
  assert longer.state == "begun" and run.state == "begun"


def test_flags_of_libraries_are_no_part_of_a_run():
  # Orbax and others define flags of their own in the process of a run.
  values = flags.FlagValues()
  flags.DEFINE_bool("of_a_library", True, "", flag_values=values)
  assert "of_a_library" in values and command.flags_text(values) == "\n"
  defined = {name.partition(".")[0] for name in flags.FLAGS.flags_by_module_dict()}
  assert "orbax" in defined and "orbax" not in command.flags_text(flags.FLAGS)


def test_a_failing_run_does_not_end_the_study(tmp_path):
  planned = study_runs.plan(_config(tmp_path, seeds=(1, 2, 3, 4, 5)))
  _finish(planned[0])
  started = []

  def start(run: study_runs.PlannedRun) -> subprocess.Popen[bytes]:
    started.append(run.name)
    log = study_runs.log_file(run, tmp_path)
    log.parent.mkdir(exist_ok=True)
    log.write_text("some line\nerror: the disk is full.\nRun … --help.\n")
    if run == planned[1]:
      return _process("raise SystemExit(1)")
    if run == planned[2]:
      return _process("import os; os.kill(os.getpid(), 9)")
    if run == planned[3]:
      return _process("")  # It ends well and without a result.
    _finish(run)
    return _process("")

  failed = study_runs.work_through(planned, tmp_path, start)
  assert started == [run.name for run in planned[1:]]  # The finished one is skipped.
  assert list(failed) == [run.name for run in planned[1:4]]
  assert failed[planned[1].name] == "the disk is full."
  assert "signal 9" in failed[planned[2].name]
  assert "without a test" in failed[planned[3].name]
  assert planned[4].is_finished


def test_the_end_of_a_study_ends_its_run_in_good_order(tmp_path):
  mark = tmp_path / "saved"
  process = _process(
    "import pathlib, signal, sys, time\n"
    "def save(*_):\n"
    f"  pathlib.Path({str(mark)!r}).touch()\n"
    "  sys.exit(143)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "print('ready', flush=True)\n"
    "time.sleep(60)\n"
  )
  assert process.stdout is not None and process.stdout.readline() == b"ready\n"
  with interruption.caught():
    tell = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    tell.start()
    with pytest.raises(interruption.Terminated):
      study_runs.wait(process)
  assert mark.exists() and process.returncode == 143


def test_a_finished_study_is_reported_again(tmp_path, capsys):
  for run in study_runs.plan(_config(tmp_path, seeds=(1, 2))):
    _finish(run)
  study.run(_values("--tasks=qmof", "--seeds=1,2", f"--workdir={tmp_path}"))
  assert "Test errors: qmof" in capsys.readouterr().out
  assert (tmp_path / study.REPORT / "report.md").is_file()
