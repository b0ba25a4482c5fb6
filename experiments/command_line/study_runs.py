"""Studies: lists of fine-tuning runs that are worked through one after another."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import time

from absl import flags
from absl import logging

from data.command_line import mistakes
from experiments import finetune
from experiments.command_line import command
from jmp_hk import text_table
from jmp_hk.runtime import console

SCRATCH = "scratch"
LOGS = "logs"  # Folder of what the runs print.
_ERROR = "error: "
# Ends of a run that was stopped in good order, by SIGINT and SIGTERM.
_STOPPED = (130, 143)
_PATIENCE_SECONDS = 600.0  # For a run that was told to end.


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """A study.

  Attributes:
    tasks: names of tasks, or paths of flag files of experiments.finetune.
    checkpoints: models to fine-tune, by the name that their runs get.
    workdir: directory of all runs.
    seeds: seeds of every run.
    folds: folds of the data; tasks without folds have one and the same data.
    from_scratch: whether to train from scratch beside the checkpoints.
    extra: further flags of every run, FLAG=VALUE; {task} in them is its task's name.
  """

  tasks: Sequence[str]
  checkpoints: Mapping[str, str]
  workdir: pathlib.Path
  seeds: Sequence[int] = (42,)
  folds: Sequence[int] = (0,)
  from_scratch: bool = True
  extra: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """One run of a study.

  Attributes:
    name: its name, which its directory has below that of the study.
    directory: its working directory.
    arguments: its command line of experiments.finetune.
    flags: all of its flags, as experiments.finetune stores them.
  """

  name: str
  directory: pathlib.Path
  arguments: tuple[str, ...]
  flags: str

  @property
  def is_finished(self) -> bool:
    """Whether its directory holds the result of a run with these flags."""
    from experiments.reports import result as result_lib  # Slow to import.

    result = self.directory / result_lib.FILE
    stored = self.directory / command.FLAGS_FILE
    if not result.is_file() or not stored.is_file():
      return False
    # Flags are stored when a run starts, also one that goes on with more steps.
    is_newer = result.stat().st_mtime >= stored.stat().st_mtime
    return is_newer and stored.read_text(encoding="utf-8") == self.flags

  @property
  def state(self) -> str:
    """What has been done of it: "finished", "begun" or "new"."""
    if self.is_finished:
      return "finished"
    return "begun" if (self.directory / command.FLAGS_FILE).exists() else "new"


def plan(config: StudyConfig) -> list[PlannedRun]:
  """All runs of a study, in the order in which they are worked through.

  Of every task come its runs with the first seed and fold first, so that a study that
  is stopped early has something of each start to compare.

  Raises:
    FlagError: a task is not known, or experiments.finetune does not take the flags.
  """
  starts = ({SCRATCH: ""} if config.from_scratch else {}) | dict(config.checkpoints)
  if not starts:
    raise command.FlagError(
      "--noscratch leaves nothing to do without --checkpoint: name a model."
    )
  result: dict[str, PlannedRun] = {}
  for task in config.tasks:
    for seed in config.seeds:
      for fold in config.folds:
        for start, checkpoint in starts.items():
          run = _plan_run(config, task, start, checkpoint, fold, seed)
          if run.name in result:
            raise command.FlagError(
              f"--tasks, --seeds and --folds: {run.name} would be run twice; name each "
              "once."
            )
          result[run.name] = run
  return list(result.values())


def _plan_run(
  config: StudyConfig, task: str, start: str, checkpoint: str, fold: int, seed: int
) -> PlannedRun:
  task_name, task_flag = find_task(task)
  name = f"{task_name}_{start}_fold{fold}_seed{seed}"
  arguments = [
    task_flag,
    *(f"--{entry.replace('{task}', task_name)}" for entry in config.extra),
    f"--fold={fold}",
    f"--seed={seed}",
    f"--workdir={config.workdir / name}",
  ]
  if checkpoint:
    arguments.append(f"--checkpoint={checkpoint}")
  values = flags.FlagValues()
  finetune.PROGRAM.define(values)
  try:
    finetune.PROGRAM.parse(arguments, values)
  except command.FlagError as error:
    raise command.FlagError(f"The run {name} cannot be started: {error}") from error
  return PlannedRun(
    name, config.workdir / name, tuple(arguments), command.flags_text(values)
  )


def find_task(task: str) -> tuple[str, str]:
  """Name and flag of a task.

  Args:
    task: name of a task with a flag file, or path of a flag file.

  Raises:
    FlagError: there is no such task or file.
  """
  path = pathlib.Path(task)
  if path.suffix == ".flags":
    if not path.is_file():
      raise command.FlagError(f"--tasks: the flag file {task} does not exist.")
    return path.stem, f"--flagfile={path}"
  known = sorted(file.stem for file in finetune.FLAG_FILES.glob("*.flags"))
  if task not in known:
    meant = mistakes.did_you_mean(task, known)
    raise command.FlagError(
      f"--tasks: there is no task {task!r}.{meant or ' There are ' + ', '.join(known)}"
      f"{'' if meant else '.'} A flag file of your own is named with its path, "
      "e.g. mine.flags."
    )
  return task, f"--task={task}"


def name_checkpoints(paths: Sequence[str]) -> dict[str, str]:
  """Models by the names that their runs get: the last parts of their paths.

  Raises:
    FlagError: two have the same name, or one that is taken.
  """
  result: dict[str, str] = {}
  for path in paths:
    name = pathlib.Path(path).stem if path.endswith(".pt") else pathlib.Path(path).name
    if name == SCRATCH or name in result:
      taken = result.get(name, "training from scratch")
      raise command.FlagError(
        f"--checkpoint: {path} and {taken} are both called {name!r}, which names the "
        "directories of runs. Rename one."
      )
    result[name] = path
  return result


def work_through(
  planned: Sequence[PlannedRun],
  workdir: pathlib.Path,
  start: Callable[[PlannedRun], subprocess.Popen[bytes]] | None = None,
) -> dict[str, str]:
  """Works through the runs that are not finished, one after another.

  What is finished stays, what was begun goes on. A run that fails does not end the
  study. SIGINT and SIGTERM end the run that is under way in good order, and then the
  study.

  Args:
    planned: all runs.
    workdir: directory of the study; what runs print goes to `logs` below it.
    start: starts a run in a process of its own; by default experiments.finetune.

  Returns:
    Why runs failed, by name.
  """
  start = start or (lambda run: start_process(run, workdir))
  failed: dict[str, str] = {}
  for number, run in enumerate(planned, start=1):
    title = f"[{number}/{len(planned)}] {run.name}"
    if run.is_finished:
      logging.info("%s is finished already%s.", title, _outcome(run))
      continue
    log = log_file(run, workdir)
    verb = "goes on" if run.state == "begun" else "starts"
    logging.info("%s %s; it prints to %s.", title, verb, log)
    began = time.monotonic()
    code = wait(start(run))
    took = console.duration(time.monotonic() - began)
    if code == 0 and run.is_finished:
      logging.info("%s is finished after %s%s.", title, took, _outcome(run))
      continue
    failed[run.name] = _reason(code, log)
    logging.warning("%s failed after %s: %s", title, took, failed[run.name])
  return failed


def log_file(run: PlannedRun, workdir: pathlib.Path) -> pathlib.Path:
  """What a run prints."""
  return workdir / LOGS / f"{run.name}.log"


def start_process(run: PlannedRun, workdir: pathlib.Path) -> subprocess.Popen[bytes]:
  """Starts experiments.finetune in a fresh process, which adds to the run's log."""
  log = log_file(run, workdir)
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open("ab") as file:
    return subprocess.Popen(
      [sys.executable, "-m", finetune.PROGRAM.name, *run.arguments],
      stdin=subprocess.DEVNULL,
      stdout=file,
      stderr=subprocess.STDOUT,
    )


def wait(process: subprocess.Popen[bytes]) -> int:
  """Waits for a run; where this process is told to end, the run is told, too.

  Returns:
    The exit code of the run; negative where a signal ended it.
  """
  try:
    return process.wait()
  except BaseException:
    # The study is told to end: the run saves a checkpoint before it does.
    with contextlib.suppress(ProcessLookupError):
      process.terminate()
    try:
      process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
    raise


def _outcome(run: PlannedRun) -> str:
  """The test error of a finished run, for a line of the log."""
  from experiments.reports import runs as runs_lib  # Slow to import.

  try:
    result = runs_lib.load(run.directory).result
  except (runs_lib.UnfinishedRunError, runs_lib.DamagedRunError):
    return ""
  return f": {text_table.quantity(result.error, result.unit)}"


def _reason(code: int, log: pathlib.Path) -> str:
  """Why a run failed: the last error that it printed, else its exit code."""
  if code in _STOPPED:
    return "it was stopped. The same command goes on with it."
  lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
  errors = [line for line in lines if line.startswith(_ERROR)]
  if code == 0:
    return "it ended without a test: its data have no split of --test_split."
  if code < 0:
    return f"signal {-code} ended it, see {log}"
  if errors:
    return errors[-1].removeprefix(_ERROR)
  last = f": {lines[-1]}" if lines else ""
  return f"exit code {code}{last} (see {log})"
