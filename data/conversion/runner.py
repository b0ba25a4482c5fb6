"""Runs a converter: processes, atomic shards, restart, statistics, dataset_info.json.

Beside the shards lies `.conversion/` with, for each split, the plan it was made from
(`SPLIT.plan.json`), one sidecar of statistics per shard, written before the shard,
and what the finished split is made of (`SPLIT.done.json`). A unit is finished when
its shard exists under its name; a split when all its units are. `dataset_info.json`
is written last, so its presence marks a complete conversion.
"""

from collections import Counter
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import fcntl
import json
import pathlib

from data.conversion import base
from data.conversion import plans
from data.records import schema
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import files
from jmp_hk import problems
from jmp_hk import serialization
from jmp_hk import statistics as statistics_lib
from jmp_hk import structure as structure_lib
from jmp_hk.runtime import console
from jmp_hk.runtime import workers

_MOST_INVALID = 1000  # Records of a unit that are looked at before it is given up.


@dataclasses.dataclass(frozen=True)
class Job:
  """One unit with the shard that it becomes; it is sent to a process."""

  converter: base.Converter
  unit: base.Unit
  shard: pathlib.Path
  skip_invalid: bool


def convert(
  converter: base.Converter,
  output: pathlib.Path,
  *,
  num_workers: int = 1,
  skip_invalid: bool = False,
  overwrite: bool = False,
  scales: dataset_summary.ScaleSource = "published",
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
    scales: store published or fitted energy and force scales.
    command: the command line, to be stored in the provenance.
    progress: whether to show a progress bar.

  Returns:
    What was written to `dataset_info.json`.

  Raises:
    PlanError: the input makes no sense, or `output` holds something else.
    RawDataError, InvalidStructureError: bad input, naming file and record.
  """
  if converter.split:
    plans.check_name(converter.split, "--split")
  converter = converter.prepare(output, progress).resolve()
  declaration = converter.declare()
  plans.check_name(declaration.name, "the dataset (--name)")
  by_split = plans.select(converter.units(), converter.split, converter.source)
  for split in by_split:
    plans.check_name(split, f"a split of --input={converter.source}")
  state = output / plans.STATE
  state.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    for split in by_split:
      stack.enter_context(_lock(state / f"{split}.lock"))
    if overwrite:
      for split in by_split:
        plans.remove(output, split)
    for split, units in by_split.items():
      plans.check_and_store(converter, declaration, output, split, units)
    jobs = _missing_jobs(converter, output, by_split, skip_invalid)
    _run(jobs, num_workers, progress)
    for split, units in by_split.items():
      _finish_split(converter, output, split, units, num_workers, command, progress)
    with _lock(state / "merge.lock", wait=True):
      return _write_info(declaration, output, scales)


def _missing_jobs(
  converter: base.Converter,
  output: pathlib.Path,
  by_split: dict[str, list[base.Unit]],
  skip_invalid: bool,
) -> list[Job]:
  jobs = []
  for split, units in by_split.items():
    shards.remove_temporary_files(output, split)
    shards.remove_temporary_files(output / plans.STATE, split)
    for i, unit in enumerate(units):
      shard = output / shards.shard_name(split, i, len(units))
      if not (shard.exists() and _sidecar(shard).exists()):
        jobs.append(Job(converter, unit, shard, skip_invalid))
  return jobs


def _run(jobs: Sequence[Job], num_workers: int, progress: bool) -> None:
  """Runs all jobs; the first error cancels those that have not started."""
  if not jobs:
    return
  with (
    console.progress("shard", "Conversion", is_shown=progress) as update,
    contextlib.closing(_results(jobs, num_workers)) as results,
  ):
    structures = 0
    for number, count in enumerate(results, start=1):
      structures += count
      update(number, len(jobs), f"{structures:,} structures")


def _results(jobs: Sequence[Job], num_workers: int) -> Generator[int, None, None]:
  if num_workers <= 1:
    yield from map(run_job, jobs)
    return
  num_workers = min(num_workers, len(jobs))
  with workers.WorkerPool(num_workers, plans.DEATH_MESSAGE) as pool:
    yield from pool.as_completed(run_job, jobs)


def run_job(job: Job) -> int:
  """Writes the shard of one unit and, before it, its sidecar.

  Returns:
    The number of structures written.
  """
  statistics = statistics_lib.Statistics()
  filtered: Counter = Counter()
  invalid: list[dict[str, str]] = []
  declaration = job.converter.declare()
  with shards.shard_writer(job.shard) as write:
    for item in _items(job):
      if isinstance(item, base.Filtered):
        filtered[item.reason] += item.count
        continue
      if isinstance(item, structure_lib.Structure):
        cutoff = declaration.graph.cutoff
        reason = structure_lib.find_problem(item, cutoff) or declaration.find_problem(
          item
        )
        if reason is None:
          write(schema.encode(item))
          statistics.add(item, declaration.optional)
          continue
        item = base.Invalid(item.record_id, reason)
      invalid.append(dataclasses.asdict(item))
      if not job.skip_invalid and len(invalid) == _MOST_INVALID:
        break
    if invalid and not job.skip_invalid:
      raise structure_lib.InvalidStructureError(
        problems.summarise(
          [(entry["record_id"], entry["reason"]) for entry in invalid],
          statistics.structures + len(invalid),
        )
      )
    sidecar = {
      "statistics": serialization.to_json(statistics),
      "filtered": dict(sorted(filtered.items())),
      "invalid": invalid,
    }
    files.write_atomically(_sidecar(job.shard), json.dumps(sidecar))
  return statistics.structures


def _items(job: Job) -> Iterator[base.Item]:
  """Items of a unit; an unreadable file is one invalid item where those are skipped."""
  empty = True
  try:
    for item in job.converter.read(job.unit):
      empty = False
      yield item
    if empty:
      raise base.RawDataError(f"{job.unit.name}: expected records, found none.")
  except base.RawDataError as error:
    if not job.skip_invalid:
      raise
    yield base.Invalid(job.unit.name, f"the rest of the unit is unreadable: {error}")


def _finish_split(
  converter: base.Converter,
  output: pathlib.Path,
  split: str,
  units: Sequence[base.Unit],
  num_workers: int,
  command: str,
  progress: bool,
) -> None:
  """Merges the sidecars of a split and adds the checksums of its sources."""
  path = output / plans.STATE / f"{split}.done.json"
  if path.exists():
    return
  statistics = statistics_lib.Statistics()
  filtered: Counter = Counter()
  invalid: list[dict[str, str]] = []
  for shard in shards.list_shards(output, split):
    sidecar = json.loads(_sidecar(shard).read_text(encoding="utf-8"))
    statistics.merge(
      serialization.from_json(statistics_lib.Statistics, sidecar["statistics"])
    )
    filtered.update(sidecar["filtered"])
    invalid += sidecar["invalid"]
  done = {
    "statistics": serialization.to_json(statistics),
    "provenance": {
      "command": command,
      "options": dataclasses.asdict(converter.options),
      "shards": len(units),
      "filtered": dict(sorted(filtered.items())),
      "num_skipped_invalid": len(invalid),
      "skipped_invalid": invalid,
      "sources": plans.checksums(converter, units, num_workers, progress),
    },
  }
  files.write_atomically(path, json.dumps(done))


def _write_info(
  declaration: dataset_summary.Declaration,
  output: pathlib.Path,
  scales: dataset_summary.ScaleSource,
) -> dataset_info.DatasetInfo:
  """Merges all finished splits; writes `dataset_info.json` where it changes."""
  splits, provenance = {}, {}
  for path in sorted((output / plans.STATE).glob("*.done.json")):
    split = path.name.removesuffix(".done.json")
    done = json.loads(path.read_text(encoding="utf-8"))
    splits[split] = serialization.from_json(
      statistics_lib.Statistics, done["statistics"]
    )
    provenance[split] = done["provenance"]
  info = dataset_summary.build_info(declaration, splits, scales, {"splits": provenance})
  path = output / dataset_info.FILE_NAME
  text = serialization.dumps(info)
  if not path.exists() or path.read_text(encoding="utf-8") != text:
    files.write_atomically(path, text)
  return info


def _sidecar(shard: pathlib.Path) -> pathlib.Path:
  return shard.parent / plans.STATE / f"{shard.stem}.json"


@contextlib.contextmanager
def _lock(path: pathlib.Path, wait: bool = False) -> Iterator[None]:
  """Holds a file lock, which the system releases when the process dies."""
  with open(path, "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
      raise base.PlanError(
        f"Another process is converting into {path.parent.parent}; wait for it."
      ) from error
    yield
