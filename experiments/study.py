"""A study: fine-tuning on a list of tasks, from scratch and from trained models.

  python -m experiments.study --tasks=rmd17_aspirin,rmd17_ethanol --seeds=1,2,3 \
      --checkpoint=runs/pretrain --workdir=runs/study --extra=model=tiny
  python -m experiments.study --tasks=matbench_jdft2d --folds=0,1,2,3,4 \
      --checkpoint=jmp-s.pt --workdir=runs/jdft2d --dry_run

Every task is trained with every seed and fold, from scratch and from each checkpoint:
one run after another, each by experiments.finetune in a process and a directory of its
own below --workdir. Running it again skips what is finished and continues what was
begun. A run that fails does not end the study; it is named at the end, after the report
of experiments.report.
"""

import pathlib
import shlex

from absl import flags

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments import report
from experiments.command_line import command
from experiments.command_line import study_runs
from jmp_hk import text_table

REPORT = "report"  # Folder in --workdir.


class FailedRunsError(RuntimeError):
  """Some runs of a study failed; names them and says why."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  _define_tasks(values)
  _define_data(values)
  _define_models(values)
  _define_output(values)
  _define_training(values)


@flag_help.group("What is learned")
def _define_tasks(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    "tasks",
    [],
    "NAME,…: Tasks of the paper, the files in experiments/flags/finetune; or paths of "
    "flag files of experiments.finetune (mine.flags).",
    flag_values=values,
  )


@flag_help.group("Data")
def _define_data(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    "folds",
    ["0"],
    "NUMBER,…: Folds of the data, which {fold} in the tasks' flags stands for. Tasks "
    "without folds need a study of their own, else they are trained once a fold.",
    flag_values=values,
  )


@flag_help.group("Model")
def _define_models(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    "checkpoint",
    [],
    "PATH,…: Trained models to start from, as of experiments.finetune. The last part "
    "of each path names its runs.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "scratch",
    True,
    "Train from scratch, too, which fine-tuning is compared with.",
    flag_values=values,
  )


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "workdir", "", "DIR: Directory of all runs and the report.", flag_values=values
  )
  flags.DEFINE_bool(
    "dry_run",
    False,
    "Only check the flags of all runs and list what would be done.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "reference",
    "",
    "LABEL: What ablations are compared with, as of experiments.report.",
    flag_values=values,
  )


@flag_help.group("Training")
def _define_training(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    "seeds", ["42"], "NUMBER,…: Seeds of every run.", flag_values=values
  )
  flags.DEFINE_multi_string(
    "extra",
    [],
    "FLAG=VALUE: A further flag of experiments.finetune for every run, which counts "
    "more than the task's flag file; {task} in it stands for the task, e.g. "
    "data=converted/{task}. Of flags that are true or false, FLAG or noFLAG.",
    flag_values=values,
  )


def run(values: flags.FlagValues) -> None:
  """Runs the study.

  Raises:
    FlagError: flags that cannot be used.
    FailedRunsError: some runs failed; the others are finished and reported.
  """
  command.require(values, *PROGRAM.required)
  workdir = pathlib.Path(values.workdir)
  planned = study_runs.plan(
    study_runs.StudyConfig(
      tasks=values.tasks,
      checkpoints=study_runs.name_checkpoints(values.checkpoint),
      workdir=workdir,
      seeds=_numbers(values, "seeds"),
      folds=_numbers(values, "folds"),
      from_scratch=values.scratch,
      extra=values.extra,
    )
  )
  if values.dry_run:
    print(_listed(planned))
    return
  for path in values.checkpoint or ():
    if not pathlib.Path(path).exists():
      raise command.FlagError(f"--checkpoint: {path} does not exist.")
  failed = study_runs.work_through(planned, workdir)
  finished = [str(p.directory) for p in planned if p.is_finished]
  if finished:
    written = report.run(finished, workdir / REPORT, values.reference)
    print(f"\n{written.text}\nWritten to {workdir / REPORT}.")
  if failed:
    reasons = " ".join(f"{name}: {reason}" for name, reason in failed.items())
    raise FailedRunsError(
      f"{len(failed)} of {len(planned)} runs failed. {reasons} The same command tries "
      "them again."
    )


def _numbers(values: flags.FlagValues, name: str) -> list[int]:
  """Values of --seeds or --folds."""
  result = []
  for text in values[name].value or ():
    if not text.strip().isdigit():
      raise command.FlagError(
        f"--{name}: {text!r} is no whole number; expected a list such as 0,1,2."
      )
    result.append(int(text))
  if not result:
    raise command.FlagError(f"--{name} is empty: name at least one number.")
  return result


def _listed(planned: list[study_runs.PlannedRun]) -> str:
  """The runs as a table, and their command lines."""
  rows = [(p.name, p.state) for p in planned]
  commands = [
    f"python -m experiments.finetune {shlex.join(p.arguments)}" for p in planned
  ]
  todo = sum(state != "finished" for _, state in rows)
  return "\n".join(
    [
      text_table.align([("run", "state"), *rows], num_text=2),
      "",
      *commands,
      "",
      f"{todo} of {len(planned)} runs are to be done.",
    ]
  )


PROGRAM = program_lib.Program(
  name="experiments.study",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=("tasks", "workdir"),
  errors=lambda: (FailedRunsError,),
)

if __name__ == "__main__":
  PROGRAM.start()
