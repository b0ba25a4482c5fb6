"""Damages raw files of all datasets and converts them, each in a process of its own.

Run as a program, with the number of flipped bits and of truncations of each kind of
source, and a seed:

  python -m tests.faults.raw_damage 30 12 0

It prints what happened as JSON. What converts is the program `data.convert`, called
with its command line in a copy of this process that has a limit of time and memory, so
that crashes in libraries, endless loops and large allocations are found.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback

import numpy as np

from data import convert
from data.conversion import registry
from data.records import schema
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from tests.faults import outcomes as outcomes_lib
from tests.faults import raw_sources

MOST_SECONDS = 60  # Of processor time, for one conversion.
MOST_BYTES = 4 << 30  # Beyond what the process has at the beginning.
_EXIT_EQUAL, _EXIT_OTHER, _EXIT_REFUSED = 40, 41, 42
_OUTCOMES = {
  _EXIT_EQUAL: outcomes_lib.EQUAL,
  _EXIT_OTHER: outcomes_lib.OTHER,
  _EXIT_REFUSED: outcomes_lib.REFUSED,
}
Contents = dict[str, list[bytes]]


def contents(output: pathlib.Path) -> Contents:
  """All records of a converted dataset, by split."""
  return {
    split: [
      record
      for shard in shards.list_shards(output, split)
      for record in shards.read_shard(shard)
    ]
    for split in shards.list_splits(output)
  }


def _without_place(record: bytes) -> bytes:
  """A record as it is wherever it stands: without its name."""
  return schema.encode(dataclasses.replace(schema.decode(record), record_id=""))


def execute(source: raw_sources.Source, raw: pathlib.Path, output: pathlib.Path) -> int:
  """Runs the command line; returns its exit code."""
  return convert.PROGRAM.execute(
    [
      f"--dataset={source.dataset}",
      f"--input={raw}",
      f"--output={output}",
      *source.flags,
    ]
  )


def judge(
  source: raw_sources.Source,
  raw: pathlib.Path,
  output: pathlib.Path,
  whole: Contents,
  is_cut: bool,
) -> tuple[int, str]:
  """Converts damaged files.

  Returns:
    The exit code for what came of it, and more about a failure.
  """
  with (
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()) as err,
  ):
    code = execute(source, raw, output)
  text = err.getvalue()
  lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
  if code:
    is_sentence = len(lines) >= 2 and lines[-2].startswith("error: ")
    is_plain = "Traceback" not in text and "this is a bug" not in text
    fine = code == 1 and is_sentence and is_plain
    fine = fine and not (output / dataset_info.FILE_NAME).exists()
    return (_EXIT_REFUSED, "") if fine else (1, text[-1500:])
  dataset_info.load(output)
  found = contents(output)
  if found == whole:
    return _EXIT_EQUAL, ""
  limit = source.most_cut if is_cut else source.most_changed
  return _compare(found, whole, limit)


def _compare(found: Contents, whole: Contents, limit: int) -> tuple[int, str]:
  """Whether no more than some structures differ, and all of them are valid."""
  left = sorted(_without_place(r) for records in whole.values() for r in records)
  strange = []
  for records in found.values():
    for record in records:
      problem = structure_lib.find_problem(schema.decode(record), 12.0)
      if problem:
        return 1, f"stored, but {problem}"
      plain = _without_place(record)
      if plain in left:
        left.remove(plain)
      else:
        strange.append(record)
  names = {split: len(records) for split, records in found.items()}
  if max(len(left), len(strange)) > limit:
    return 1, f"{len(left)} structures lost and {len(strange)} others: {names}"
  return _EXIT_OTHER, ""


class Harness:
  """Damages one source again and again.

  Attributes:
    failures: what happened where none of the three outcomes did.
  """

  def __init__(self, source: raw_sources.Source, folder: pathlib.Path) -> None:
    self._source, self._folder = source, folder
    self._raw = folder / "raw"
    self._raw.mkdir()
    source.make(self._raw)
    self.failures: list[str] = []
    with contextlib.redirect_stdout(io.StringIO()):
      assert execute(source, self._raw, folder / "whole") == 0, source.name
    self._whole = contents(folder / "whole")
    self._files = sorted(
      path.relative_to(self._raw)
      for pattern in source.damaged
      for path in self._raw.rglob(pattern)
      if path.is_file() and not path.name.endswith("-lock")
    )

  def attempts(
    self,
    count: int,
    is_cut: bool,
    rng: np.random.Generator,
    *,
    in_children: bool = True,
  ) -> Iterator[str]:
    """Damages copies, each at one random place, and yields what came of it.

    Args:
      count: number of copies.
      is_cut: whether they are truncated; else one bit is flipped.
      rng: draws the places.
      in_children: whether each is converted in a copy of this process, in which no
        other threads may be running.
    """
    sizes = np.array([(self._raw / name).stat().st_size for name in self._files], float)
    chances = 0.5 / len(sizes) + 0.5 * sizes / sizes.sum()
    for _ in range(count):
      name = self._files[rng.choice(len(sizes), p=chances)]
      with tempfile.TemporaryDirectory(dir=self._folder) as folder:
        raw = pathlib.Path(folder) / "raw"
        shutil.copytree(self._raw, raw)
        place = damage(raw / name, is_cut, rng)
        output = pathlib.Path(folder) / "out"
        if in_children:
          outcome = self._in_child(raw, output, is_cut)
        else:
          code, text = judge(self._source, raw, output, self._whole, is_cut)
          outcome = _OUTCOMES.get(code, text)
      if outcome not in _OUTCOMES.values():
        self.failures.append(f"{self._source.name}: {name}, {place}: {outcome}")
      yield outcome

  def _in_child(self, raw: pathlib.Path, output: pathlib.Path, is_cut: bool) -> str:
    """What comes of a conversion in a copy of this process."""
    log = output.with_name("log")
    child = os.fork()
    if not child:
      _limit()
      code, text = 1, ""
      try:
        code, text = judge(self._source, raw, output, self._whole, is_cut)
      except BaseException:
        text = traceback.format_exc()[-1500:]
      finally:
        log.write_text(text)
        os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
      return f"ended by {signal.Signals(-code).name}"
    return _OUTCOMES.get(code) or log.read_text() or f"exit code {code}"


def _limit() -> None:
  """Limits the time and the memory of a child."""
  signal.signal(signal.SIGXCPU, signal.SIG_DFL)
  used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
  resource.setrlimit(resource.RLIMIT_CPU, (used + MOST_SECONDS,) * 2)
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  most = pages * resource.getpagesize() + MOST_BYTES
  resource.setrlimit(resource.RLIMIT_AS, (most, most))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def damage(path: pathlib.Path, is_cut: bool, rng: np.random.Generator) -> str:
  """Flips one bit of a file, or cuts off its end; says where."""
  content = bytearray(path.read_bytes())
  if is_cut:
    length = int(rng.integers(len(content)))
    path.write_bytes(content[:length])
    return f"cut to {length} of {len(content)} bytes"
  position = int(rng.integers(8 * len(content)))
  content[position // 8] ^= 1 << position % 8
  path.write_bytes(content)
  return f"bit {position % 8} of byte {position // 8}"


def run(
  flips: int, truncations: int, seed: int, names: Sequence[str] = ()
) -> dict[str, object]:
  """Damages all sources, and counts what happened."""
  counts = outcomes_lib.Outcomes()
  failures: list[str] = []
  seconds = {}
  for source in raw_sources.SOURCES:
    if names and source.name not in names:
      continue
    start = time.monotonic()
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
      harness = Harness(source, pathlib.Path(folder))
      for fault, count in (("flipped bit", flips), ("truncation", truncations)):
        for outcome in harness.attempts(count, fault == "truncation", rng):
          counts.add(fault, source.name, outcome[:200])
    failures += harness.failures
    seconds[source.name] = round(time.monotonic() - start, 1)
  return {"rows": counts.rows, "failures": failures, "seconds": seconds}


if __name__ == "__main__":
  registry.converters()
  convert.PROGRAM.errors()
  print(json.dumps(run(*map(int, sys.argv[1:4]), names=sys.argv[4:])))
