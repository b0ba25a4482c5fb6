"""Runs a converter: processes, tasks, restart, statistics, dataset_info.json.

Beside the shards lies `.conversion/` with, for each split, the plan it was made from
(`SPLIT.plan.json`), one sidecar per shard (see `jobs`), and what the finished split is
made of (`SPLIT.done.json`). A split is finished when all its units are; then its raw
files are listed in `SPLIT.sources.json`. `dataset_info.json` is written last, so its
presence marks a complete conversion.

Several tasks, on several machines, can convert at once into a folder that they share:
each takes its part of the units, and whoever finds all of them finished merges. Two
that find this at the same time write the same.
"""

from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import pathlib

from data.conversion import base
from data.conversion import jobs as jobs_lib
from data.conversion import merging
from data.conversion import plans
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk.runtime import console
from jmp_hk.runtime import workers

logger = logging.getLogger(__name__)

_THREADS = 16  # They wait for the file system while finished shards are checked.
# What file systems of clusters answer that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclasses.dataclass(frozen=True)
class Task:
  """Which part of a conversion this process does.

  Attributes:
    number: number of the task, from 0 on.
    count: number of tasks that share the conversion.
  """

  number: int = 0
  count: int = 1

  def __post_init__(self) -> None:
    if not 0 <= self.number < self.count:
      raise base.PlanError(
        f"--task_id={self.number} must be a number from 0 to {self.count - 1}, below "
        "--num_tasks."
      )

  def takes(self, number: int) -> bool:
    """Whether this task makes the shard of a number."""
    return number % self.count == self.number


class UnfinishedError(Exception):
  """The part of this task is done, and other tasks go on.

  Attributes:
    done: finished shards of all tasks.
    shards: shards of the whole conversion.
  """

  def __init__(self, task: Task, done: int, shards: int) -> None:
    super().__init__(
      f"Task {task.number} of {task.count} has finished its part; {done} of {shards} "
      "shards are there. The task that finishes last writes dataset_info.json; if none "
      "is running, start those again that were stopped."
    )
    self.done, self.shards = done, shards


def convert(
  converter: base.Converter,
  output: pathlib.Path,
  *,
  num_workers: int = 1,
  skip_invalid: bool = False,
  overwrite: bool = False,
  measure: bool = True,
  scales: dataset_summary.ScaleSource = "published",
  task: Task = Task(),
  command: str = "",
  progress: bool = True,
) -> dataset_info.DatasetInfo:
  """Converts the splits that a converter's `split` selects; finishes what is begun.

  Args:
    converter: reads the raw files.
    output: directory of the converted dataset; splits add up there.
    num_workers: number of processes; shards do not depend on it.
    skip_invalid: leave bad records out and list them, instead of raising.
    overwrite: delete the same splits of an earlier conversion first.
    measure: measure the graphs of all structures for the default backbone, and store
      their sizes beside the shards; also of shards that are there without.
    scales: store published or fitted energy and force scales.
    task: which part of the conversion this process does.
    command: the command line, to be stored in the provenance.
    progress: whether to show a progress bar.

  Returns:
    What was written to `dataset_info.json`.

  Raises:
    PlanError: the input makes no sense, or `output` holds something else.
    RawDataError, InvalidStructureError: bad input, naming file and record.
    UnfinishedError: this task is done, and others are not.
  """
  if overwrite and task.count > 1:
    raise base.PlanError(
      f"--overwrite would delete what the other tasks have made: delete {output} "
      "before the tasks are started."
    )
  if converter.split:
    plans.check_name(converter.split, "--split")
  converter = converter.prepare(output, progress).resolve()
  declaration = converter.declare()
  plans.check_name(declaration.name, "the dataset (--name)")
  by_split = plans.select(converter.units(), converter.split, converter.source)
  for split in by_split:
    plans.check_name(split, f"a split of --input={converter.source}")
  state = output / jobs_lib.STATE
  state.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    for split in by_split:
      stack.enter_context(_lock(state / f"{split}.lock", shared=task.count > 1))
      if task.count > 1:
        stack.enter_context(_lock(state / f"{split}.{task.number}.lock"))
    if overwrite:
      for split in by_split:
        plans.remove(output, split)
    for split, units in by_split.items():
      plans.check_and_store(converter, declaration, output, split, units)
      if task.count == 1:  # Else others may be writing.
        _clear(output, split)
    all_jobs = list(_jobs(converter, output, by_split, skip_invalid, measure))
    mine = [job for number, job in enumerate(all_jobs) if task.takes(number)]
    _run(output, mine, num_workers, progress)
    done = _finished(output, [job.shard for job in all_jobs])
    if len(done) < len(all_jobs):
      raise UnfinishedError(task, len(done), len(all_jobs))
    for split, units in by_split.items():
      merging.finish_split(
        converter, output, split, units, num_workers, command, progress
      )
      if task.count > 1:  # All shards are there, but others may be merging them.
        _clear(output, split, only_shards=True)
    with _lock(state / "merge.lock", wait=True):
      return merging.write_info(declaration, output, scales)


def _jobs(
  converter: base.Converter,
  output: pathlib.Path,
  by_split: Mapping[str, Sequence[base.Unit]],
  skip_invalid: bool,
  measure: bool,
) -> Iterator[jobs_lib.Job]:
  """One job for every unit, finished or not."""
  for split, units in by_split.items():
    own = merging.own_files(units)
    for i, unit in enumerate(units):
      yield jobs_lib.Job(
        converter,
        unit,
        output / shards.shard_name(split, i, len(units)),
        skip_invalid,
        measure,
        frozenset(own.intersection(unit.files)),
      )


def _finished(
  output: pathlib.Path, wanted: Sequence[pathlib.Path]
) -> set[pathlib.Path]:
  """The shards among those wanted that are there with their sidecars."""
  sidecars = set(os.listdir(output / jobs_lib.STATE))
  present = set(os.listdir(output))
  return {
    shard
    for shard in wanted
    if jobs_lib.sidecar_of(shard).name in sidecars
    # A shared folder may show the sidecar of another machine before the shard.
    and (shard.name in present or shard.exists())
  }


def _run(
  output: pathlib.Path,
  jobs: Sequence[jobs_lib.Job],
  num_workers: int,
  progress: bool,
) -> None:
  """Checks the finished jobs and runs the others; the first error ends the rest.

  Raises:
    OtherConversionError: raw files of a finished shard have changed.
  """
  finished = _finished(output, [job.shard for job in jobs])
  old = [job for job in jobs if job.shard in finished]
  left = [job for job in jobs if job.shard not in finished]
  structures = 0
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    for job, outcome in zip(old, pool.map(jobs_lib.check, old), strict=True):
      if outcome.change:
        pool.shutdown(cancel_futures=True)
        raise plans.OtherConversionError(
          f"{output} holds shards that were converted before the content of the raw "
          f"files changed: {outcome.change}. Choose another --output, or pass "
          "--overwrite to replace them.",
          [outcome.change],
        )
      structures += outcome.structures if outcome.is_measured else 0
      left += [] if outcome.is_measured else [job]
  if not left:
    return
  with (
    console.progress("shard", "Conversion", is_shown=progress) as update,
    contextlib.closing(_outcomes(left, num_workers)) as outcomes,
  ):
    for number, outcome in enumerate(outcomes, start=len(jobs) - len(left) + 1):
      structures += outcome.structures
      update(number, len(jobs), f"{structures:,} structures")


def _outcomes(
  jobs: Sequence[jobs_lib.Job], num_workers: int
) -> Generator[jobs_lib.Outcome, None, None]:
  num_workers = min(num_workers, len(jobs))
  if num_workers <= 1:
    yield from map(jobs_lib.complete, jobs)
    return
  with workers.WorkerPool(num_workers, plans.DEATH_MESSAGE) as pool:
    yield from pool.as_completed(jobs_lib.complete, jobs)


def _clear(output: pathlib.Path, split: str, *, only_shards: bool = False) -> None:
  """Deletes what killed writers of a split left behind."""
  for folder in (output, output / jobs_lib.STATE):
    shards.remove_temporary_files(folder, split, only_shards=only_shards)


@contextlib.contextmanager
def _lock(
  path: pathlib.Path, *, shared: bool = False, wait: bool = False
) -> Iterator[None]:
  """Holds a file lock, which the system releases when the process dies.

  Locks are a guard against mistakes. Nothing depends on them where the file system has
  none.
  """
  kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
  with open(path, "w") as file:
    try:
      fcntl.flock(file, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
      raise base.PlanError(
        f"Another process is converting into {path.parent.parent}; wait for it."
      ) from error
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      logger.warning("%s is on a file system without locks: %s.", path.parent, error)
    yield
