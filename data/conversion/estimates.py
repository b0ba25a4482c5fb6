"""What a conversion will make, how large and in what time; nothing is written."""

from collections.abc import Sequence
import dataclasses
import itertools
import math
import pathlib
import shutil
import time

from data.conversion import base
from data.conversion import jobs
from data.conversion import plans
from data.formats import unpacking
from data.records import shards
from jmp_hk import structure as structure_lib
from jmp_hk import text_table
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.runtime import console

_MOST_COUNTED = 16  # Units of a split that are counted where that needs reading.
_MOST_SAMPLED = 3  # Units of a split of which the first structures are converted.
_STRUCTURES = 24  # So many of each.
_SECONDS = 20.0  # For the sample of one split.
_OFFSET_BYTES = 12  # Of the index: place and number of atoms of a structure.
_FIELD_BYTES = 4  # Of the index: each of its sizes.
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What is expected of one split.

  Attributes:
    split: name of the split.
    shards: number of shards.
    finished: how many of them are there already.
    raw_files: number of raw files.
    raw_bytes: their size.
    structures: number of structures, or None where nothing says it.
    is_counted: whether that number was counted; else a part was.
    bytes_each: mean bytes that a structure takes, in shards and indices, or None where
      the sample has no structure.
    seconds_each: mean seconds of one core that a structure takes, likewise.
  """

  split: str
  shards: int
  finished: int
  raw_files: int
  raw_bytes: int
  structures: int | None
  is_counted: bool
  bytes_each: float | None
  seconds_each: float | None

  @property
  def bytes(self) -> float | None:
    """Expected size of shards and indices."""
    return _product(self.structures, self.bytes_each)

  @property
  def core_seconds(self) -> float | None:
    """Expected time of the shards that are not there yet, on one core."""
    left = 1 - self.finished / self.shards
    return _product(self.structures, self.seconds_each, left)


def estimate(
  converter: base.Converter, output: pathlib.Path, *, measure: bool = True
) -> list[Estimate]:
  """Looks at the plan of a conversion, and converts a few structures in memory.

  Args:
    converter: reads the raw files.
    output: directory of the converted dataset, for what is finished already.
    measure: whether the graphs are going to be measured.

  Returns:
    An estimate for each split.

  Raises:
    PlanError: the input makes no sense, or has to be unpacked first.
    RawDataError: a raw file cannot be read.
  """
  packed = converter.packed()
  if packed is not None and not unpacking.folder_of(packed, output).exists():
    raise base.PlanError(
      f"{packed} ({_size(packed.stat().st_size)}) is unpacked into "
      f"{unpacking.folder_of(packed, output)} before it is converted, and nothing is "
      "known about its content until then. Start the conversion, and look at the plan "
      "of what is left when it is unpacked."
    )
  converter = converter.prepare(output, progress=False).resolve()
  by_split = plans.select(converter.units(), converter.split, converter.source)
  return [
    _estimate(converter, output, split, units, measure)
    for split, units in by_split.items()
  ]


def describe(
  estimates: Sequence[Estimate],
  output: pathlib.Path,
  num_workers: int = 1,
  num_tasks: int = 1,
) -> str:
  """A table for people, and what it leaves on the disk.

  Args:
    estimates: one for each split.
    output: directory of the converted dataset, which need not exist.
    num_workers: processes of each task.
    num_tasks: tasks that share the conversion.
  """
  cores = num_workers * num_tasks
  rows = [("split", "shards", "raw files", "raw size", "structures", "size", "time")]
  for entry in estimates:
    # A shard is the least that a process can do.
    at_once = min(cores, max(1, entry.shards - entry.finished))
    seconds = _product(entry.core_seconds, 1 / at_once)
    rows.append(
      (
        entry.split,
        f"{entry.shards:,}",
        f"{entry.raw_files:,}",
        _size(entry.raw_bytes),
        "not known"
        if entry.structures is None
        else f"{'' if entry.is_counted else 'about '}{entry.structures:,}",
        "not known" if entry.bytes is None else f"about {_size(entry.bytes)}",
        "not known" if seconds is None else f"about {console.duration(seconds)}",
      )
    )
  lines = [text_table.align(rows)]
  lines += [
    f"{entry.finished:,} of the {entry.shards:,} shards of {entry.split} are there."
    for entry in estimates
    if entry.finished
  ]
  lines.append(
    f"The time is that of {_plural(num_tasks, 'task')} with "
    f"{_plural(num_workers, 'process', 'processes')} each, if every process has a core."
  )
  folder = next(
    p for p in (output.absolute(), *output.absolute().parents) if p.is_dir()
  )
  lines.append(f"Free where {output} is: {_size(shutil.disk_usage(folder).free)}.")
  return "\n".join(lines)


def _estimate(
  converter: base.Converter,
  output: pathlib.Path,
  split: str,
  units: Sequence[base.Unit],
  measure: bool,
) -> Estimate:
  names = {name for unit in units for name in unit.files}
  finished = [
    (output / shards.shard_name(split, i, len(units))).exists()
    for i in range(len(units))
  ]
  structures, is_counted = _count(converter, units)
  bytes_each, seconds_each = _sample(converter, units, measure)
  return Estimate(
    split=split,
    shards=len(units),
    finished=sum(finished),
    raw_files=len(names),
    raw_bytes=sum((converter.root / name).stat().st_size for name in names),
    structures=structures,
    is_counted=is_counted,
    bytes_each=bytes_each,
    seconds_each=seconds_each,
  )


def _count(
  converter: base.Converter, units: Sequence[base.Unit]
) -> tuple[int | None, bool]:
  """Number of records of some units, and whether all were counted."""
  if all(unit.records is not None for unit in units):
    return sum(unit.records or 0 for unit in units), True
  chosen = _spread(units, _MOST_COUNTED)
  counts = [converter.count(unit) for unit in chosen]
  known = [count for count in counts if count is not None]
  if len(known) < len(counts):
    return None, False
  return round(sum(known) / len(known) * len(units)), len(chosen) == len(units)


def _sample(
  converter: base.Converter, units: Sequence[base.Unit], measure: bool
) -> tuple[float | None, float | None]:
  """Bytes and seconds per structure, of the first structures of a few units."""
  declaration = converter.declare()
  deadline = time.monotonic() + _SECONDS
  num_bytes = structures = 0
  seconds = 0.0
  for unit in _spread(units, _MOST_SAMPLED):
    start = time.process_time()
    for item in itertools.islice(converter.read(unit), _STRUCTURES):
      if isinstance(item, structure_lib.Structure):
        encoded = jobs.encode(item, declaration, measure)
        if not isinstance(encoded, str):
          num_bytes += len(encoded[0]) + shards.FRAME_BYTES + _OFFSET_BYTES
          structures += 1
      if time.monotonic() > deadline:
        break
    seconds += time.process_time() - start
  if not structures:
    return None, None
  if measure:
    fields = len(budget_lib.names(jobs.BUILDER.budget_type))
    num_bytes += structures * fields * _FIELD_BYTES
  return num_bytes / structures, seconds / structures


def _spread(units: Sequence[base.Unit], count: int) -> list[base.Unit]:
  """Up to `count` units from all over the plan."""
  step = max(1, (len(units) - 1) / max(1, min(count, len(units)) - 1))
  chosen = {round(i * step) for i in range(min(count, len(units)))}
  return [units[i] for i in sorted(chosen) if i < len(units)]


def _product(*factors: float | None) -> float | None:
  """The product, or None where a factor is not known."""
  known = [factor for factor in factors if factor is not None]
  return math.prod(known) if len(known) == len(factors) else None


def _size(num_bytes: float) -> str:
  """Bytes as people read them, e.g. "3.4 GB"."""
  power = min(int(math.log(max(num_bytes, 1), 1000)), len(_UNITS) - 1)
  return text_table.quantity(num_bytes / 1000**power, _UNITS[power], 2 + (power > 0))


def _plural(count: int, word: str, words: str = "") -> str:
  return f"{count} {word if count == 1 else words or word + 's'}"
