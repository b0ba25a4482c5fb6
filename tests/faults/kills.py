"""Kills conversions and training runs at random moments, and lets them go on.

Run as a program, with what is killed, the number of kills, a seed and an empty folder:

  python -m tests.faults.kills pre-training 30 0 runs/kills

It prints what happened as JSON. A run is started in a copy of this process, which has
imported everything already, and killed by SIGKILL after a time that is drawn uniformly
from the length of an undisturbed run. It is started again, perhaps killed again, and so
on until it ends by itself; then all that it has left must be equal to what the
undisturbed run left. Then the next one begins from nothing.
"""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
import time
from typing import Any

import numpy as np

from data import convert
from data.command_line import program as program_lib
from data.conversion import jobs
from experiments import finetune
from experiments import pretrain
from experiments.command_line import config as config_lib
from experiments.reports import result as result_lib
from jmp_hk import files
from jmp_hk.checkpoints import checkpointer
from jmp_hk.checkpoints import model_directory
from jmp_hk.training import run_directory
from jmp_hk.training import trainer
from jmp_hk.training import writers
from tests import schnet
from tests.data import raw_files
from tests.experiments import demo_data
from tests.experiments import finetune_data
from tests.faults import outcomes as outcomes_lib

FAULT = "killed at a random moment"
_IMPORTED = (config_lib, trainer, schnet)  # Programs import them when they run.
_OUTPUT = "out"
_PATIENCE = 600  # Seconds after which a run hangs.
_TIMES = ("seconds", "steps_per_second", "structures_per_second")

_SMALL_RUN = (
  "--model=schnet_tiny",
  "--model_override=num_blocks=1,atom_channels=8,num_radial=4",
  "--precision=float32",
  "--batch_size=4",
  "--pool_size=8",
  "--streams_per_microbatch=2",
  "--validation_limit=4",
  "--log_every=1",
  "--edge_dropout=0.1",
  "--dropout=0.1",
)
_STEPS = ("--num_steps=24", "--warmup_steps=2", "--evaluate_every=6")


@dataclasses.dataclass(frozen=True)
class Case:
  """What is killed.

  Attributes:
    program: the program.
    flags: makes its input below a folder and gives its flags, but for the output.
    left: everything that a finished run has left and that has to be equal.
    output: flag of the output.
    spares: whether sometimes only the main process is killed, and not its workers.
  """

  program: program_lib.Program
  flags: Callable[[pathlib.Path], Sequence[str]]
  left: Callable[[pathlib.Path], dict[str, Any]]
  output: str = "workdir"
  spares: bool = False


def _conversion(num_workers: int) -> Callable[[pathlib.Path], Sequence[str]]:
  def flags(folder: pathlib.Path) -> Sequence[str]:
    source = raw_files.oc20_folder(folder / "raw", files=12, frames=12)
    return (
      "--dataset=oc20",
      f"--input={source}",
      "--split=train",
      f"--num_workers={num_workers}",
    )

  return flags


def _own_data(folder: pathlib.Path) -> str:
  directory = folder / "mine" / "mine"
  if not directory.exists():
    directory.parent.mkdir()
    finetune_data.convert_all(directory.parent)
  return f"--data={directory}"


def _pretraining(folder: pathlib.Path) -> Sequence[str]:
  directories = demo_data.converted(folder)
  return (
    demo_data.dataset_flag(directories),
    *_SMALL_RUN,
    *_STEPS,
    "--checkpoint_every=4",
  )


def _pretraining_of_gemnet(folder: pathlib.Path) -> Sequence[str]:
  directories = {"ani1x": demo_data.converted(folder)["ani1x"]}
  return (
    demo_data.dataset_flag(directories),
    *demo_data.TINY_FLAGS,
    "--num_steps=6",
    "--log_every=1",
    "--evaluate_every=3",
    "--checkpoint_every=2",
    "--edge_dropout=0.1",
    "--dropout=0.1",
  )


def _finetuning(folder: pathlib.Path) -> Sequence[str]:
  return (
    _own_data(folder),
    "--target=energy=energy",
    *_SMALL_RUN,
    "--warmup_epochs=1",
    "--decay_epochs=4",
    "--num_steps=20",
    "--checkpoint_every=3",
    "--test_split=test",
  )


def _left_by_conversion(output: pathlib.Path) -> dict[str, Any]:
  """All bytes of the dataset, and no temporary file anywhere."""
  found: dict[str, Any] = {
    path.name: path.read_bytes() for path in output.iterdir() if path.is_file()
  }
  state = output / jobs.STATE
  found["notes"] = sorted(path.name for path in state.iterdir())
  return found


def _left_by_training(output: pathlib.Path) -> dict[str, Any]:
  """Checksums of all arrays, position, metrics, configuration, results."""
  folder = output / model_directory.CHECKPOINTS
  steps = checkpointer.complete_steps(folder)
  last = folder / str(steps[-1])
  manifest = json.loads((last / "manifest" / "manifest.json").read_text())
  host = json.loads((last / "host" / "state.json").read_text())
  found: dict[str, Any] = {
    "checkpoints": steps,
    "arrays": manifest["arrays"],
    "host": _without_times(host),
    "metrics": [
      _without_times(line)
      for line in writers.read_metrics(output / writers.METRICS_FILE)
    ],
    "temporary files": sorted(
      path.name for path in output.rglob(f"*{files.TEMPORARY_SUFFIX}")
    ),
  }
  for name in (run_directory.CONFIG_FILE, run_directory.BUDGET_FILE):
    found[name] = (output / name).read_text()
  for name in (run_directory.RESULTS_FILE, result_lib.FILE):
    if (output / name).exists():
      values = json.loads((output / name).read_text())
      found[name] = _without_times(values)
  return found


def _without_times(values: dict[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in values.items() if k not in (*_TIMES, "checksum")}


CASES = {
  "conversion": Case(convert.PROGRAM, _conversion(1), _left_by_conversion, "output"),
  "conversion by two processes": Case(
    convert.PROGRAM, _conversion(2), _left_by_conversion, "output", spares=True
  ),
  "pre-training": Case(pretrain.PROGRAM, _pretraining, _left_by_training),
  "pre-training of GemNet-OC": Case(
    pretrain.PROGRAM, _pretraining_of_gemnet, _left_by_training
  ),
  "fine-tuning": Case(finetune.PROGRAM, _finetuning, _left_by_training),
}


class Supervisor:
  """Starts and kills the runs of one case.

  Attributes:
    seconds: length of an undisturbed run.
    failures: what went wrong, with the end of what was printed.
  """

  def __init__(self, name: str, folder: pathlib.Path) -> None:
    self._case, self._folder = CASES[name], folder
    with contextlib.redirect_stdout(sys.stderr):
      self._flags = self._case.flags(folder)
    self.failures: list[str] = []
    # The first one compiles, and fills the cache.
    for directory in (self._folder / "first", self._folder / "undisturbed"):
      start = time.monotonic()
      code = self._start(directory, None)
      self.seconds = time.monotonic() - start
      assert code == 0, _end_of(directory / "log")
    self._expected = self._case.left(self._folder / "undisturbed" / _OUTPUT)

  def kill(self, count: int, rng: np.random.Generator) -> list[str]:
    """Kills runs until there are so many kills; what came of each."""
    outcomes: list[str] = []
    pending, directory = 0, self._folder / "killed"
    while len(outcomes) + pending < count or pending:
      is_enough = len(outcomes) + pending == count
      delay = None if is_enough else rng.uniform(0, self.seconds)
      spares = self._case.spares and bool(rng.random() < 0.5)
      code = self._start(directory, delay, spares=spares)
      if code == -signal.SIGKILL and delay is not None:
        pending += 1
        continue
      outcome = self._compare(directory, code)
      outcomes += [outcome] * pending
      pending = 0
      shutil.rmtree(directory)
    return outcomes

  def _compare(self, directory: pathlib.Path, code: int) -> str:
    """What a run that ended by itself has left."""
    if code:
      self.failures.append(f"exit code {code}: {_end_of(directory / 'log')}")
      return f"exit code {code}"
    found = self._case.left(directory / _OUTPUT)
    different = [
      name
      for name in sorted({*found, *self._expected})
      if found.get(name) != self._expected.get(name)
    ]
    if not different:
      return outcomes_lib.EQUAL
    kept = self._folder / f"different{len(self.failures)}"
    shutil.copytree(directory, kept)
    self.failures.append(f"{kept}: {different} differ")
    return f"other {different}"

  def _start(
    self, directory: pathlib.Path, delay: float | None, *, spares: bool = False
  ) -> int:
    """Runs the program in a copy of this process, and kills it after some seconds.

    Returns:
      The exit code; negative for a signal.
    """
    directory.mkdir(exist_ok=True)
    child = os.fork()
    if not child:
      self._run(directory)
    start = time.monotonic()
    while True:
      ended, status = os.waitpid(child, os.WNOHANG)
      if ended:
        return os.waitstatus_to_exitcode(status)
      passed = time.monotonic() - start
      if passed > (_PATIENCE if delay is None else delay):
        send = os.kill if spares else os.killpg
        with contextlib.suppress(ProcessLookupError):  # Not yet a group, or ended.
          send(child, signal.SIGKILL)
      time.sleep(0.001)

  def _run(self, directory: pathlib.Path) -> None:
    """The copy: runs the command line as the program itself does, and ends."""
    code: object = 1
    try:
      os.setsid()
      os.chdir(directory)
      log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
      for number in (1, 2):
        os.dup2(log, number)
      sys.argv = ["program", *self._flags, f"--{self._case.output}={_OUTPUT}"]
      self._case.program.start()
    except SystemExit as error:
      code = error.code or 0
    finally:
      sys.stdout.flush()
      os._exit(code if isinstance(code, int) else 1)


def _end_of(log: pathlib.Path) -> str:
  return log.read_text(errors="replace")[-3000:]


def run(name: str, count: int, seed: int, folder: pathlib.Path) -> dict[str, object]:
  """Kills the runs of a case, and counts what happened."""
  start = time.monotonic()
  supervisor = Supervisor(name, folder)
  counts = outcomes_lib.Outcomes()
  for outcome in supervisor.kill(count, np.random.default_rng(seed)):
    counts.add(FAULT, name, outcome)
  return {
    "rows": counts.rows,
    "failures": supervisor.failures,
    "undisturbed": round(supervisor.seconds, 1),
    "seconds": round(time.monotonic() - start),
  }


if __name__ == "__main__":
  print(
    json.dumps(
      run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4]))
    )
  )
