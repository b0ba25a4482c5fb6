"""The fine-tuning demo: a few small tasks, from a checkpoint and from scratch.

  python -m experiments.pretrain --flagfile=experiments/flags/pretrain_demo.flags
  python -m experiments.finetune_demo --flagfile=experiments/flags/finetune_demo.flags

Both runs of a task have the same flags, and so the same budget; the weights that are
tested are chosen on the validation split. It ends with the report over all runs.
Running it again continues.
"""

import pathlib

from absl import flags
from absl import logging

from data.command_line import flag_help
from data.command_line import mistakes
from data.command_line import program as program_lib
from experiments import finetune
from experiments import report
from experiments.command_line import command
from experiments.command_line import data_flags
from experiments.command_line import runtime_flags
from jmp_hk import names

FLAG_FILES = pathlib.Path(__file__).parent / "flags" / "finetune_demo"
SCRATCH, FINE_TUNED = "scratch", "fine_tuned"


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  _define_tasks(values)
  _define_checkpoint(values)
  _define_workdir(values)


@flag_help.group("What is learned")
def _define_tasks(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    "tasks",
    [],
    "NAME,…: What to fine-tune on: names of the files in "
    "experiments/flags/finetune_demo.",
    flag_values=values,
  )


@flag_help.group("Model")
def _define_checkpoint(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "checkpoint", "", "DIR: Pre-trained model that is fine-tuned.", flag_values=values
  )


@flag_help.group("Output")
def _define_workdir(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "workdir", "", "DIR: Directory of all runs and the report.", flag_values=values
  )
  flags.DEFINE_list(
    "extra",
    [],
    "FLAG=VALUE,…: Further flags of every run, those of experiments.finetune.",
    flag_values=values,
  )


def run(values: flags.FlagValues) -> str:
  """Runs the demo.

  Args:
    values: parsed flags.

  Returns:
    The report as Markdown.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  if not pathlib.Path(values.checkpoint).is_dir():
    raise command.FlagError(
      f"--checkpoint: there is no {values.checkpoint}; run the pre-training demo "
      "first: python -m experiments.pretrain "
      "--flagfile=experiments/flags/pretrain_demo.flags"
    )
  workdir = pathlib.Path(values.workdir)
  finished = []
  for task in values.tasks:
    for start in (SCRATCH, FINE_TUNED):
      directory = workdir / f"{task}_{start}"
      logging.info("Training %s.", directory)
      finetune.run(_flags(values, task, start, directory))
      finished.append(str(directory))
  return report.run(finished, workdir / "report")


def _flags(
  values: flags.FlagValues, task: str, start: str, directory: pathlib.Path
) -> flags.FlagValues:
  """Flags of one run."""
  path = FLAG_FILES / f"{task}.flags"
  if names.find_problem(task) or not path.is_file():
    known = sorted(p.stem for p in FLAG_FILES.glob("*.flags") if p.stem != "common")
    raise command.FlagError(
      f"--tasks: there is no {task!r} among {', '.join(known)}."
      f"{mistakes.did_you_mean(task, known)}"
    )
  arguments = [
    f"--flagfile={path}",
    f"--workdir={directory}",
    f"--data={pathlib.Path(values.workdir) / data_flags.CONVERTED / task}",
    *(f"--{entry}" for entry in values.extra),
  ]
  if start == FINE_TUNED:
    arguments.append(f"--checkpoint={values.checkpoint}")
  result = flags.FlagValues()
  finetune.PROGRAM.define(result)
  finetune.PROGRAM.parse(arguments, result)
  return result


def _print_report(values: flags.FlagValues) -> None:
  print(run(values))
  print(f"Written to {pathlib.Path(values.workdir) / 'report'}.")


PROGRAM = program_lib.Program(
  name="experiments.finetune_demo",
  description=__doc__,
  define_flags=define_flags,
  run=_print_report,
  required=(
    "checkpoint",
    "workdir",
    "tasks",
  ),
  errors=runtime_flags.expected_errors,
)

if __name__ == "__main__":
  PROGRAM.start()
