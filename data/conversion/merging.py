"""Puts together what the units of finished splits have left.

Everything here can be done twice, also by two machines at the same time: the result is
the same, and every file appears whole.
"""

from collections import Counter
from collections.abc import Sequence
import contextlib
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from data.conversion import base
from data.conversion import inputs
from data.conversion import jobs
from data.conversion import plans
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import files
from jmp_hk import serialization
from jmp_hk import statistics as statistics_lib
from jmp_hk import strict_json
from jmp_hk.runtime import console
from jmp_hk.runtime import workers


def own_files(units: Sequence[base.Unit]) -> set[str]:
  """Raw files of some units that only one of them reads."""
  uses = Counter(name for unit in units for name in set(unit.files))
  return {name for name, count in uses.items() if count == 1}


def finish_split(
  converter: base.Converter,
  output: pathlib.Path,
  split: str,
  units: Sequence[base.Unit],
  num_workers: int,
  command: str,
  progress: bool,
) -> None:
  """Merges the sidecars of a split and lists its raw files with their checksums."""
  path = output / jobs.STATE / f"{split}.done.json"
  if path.exists():
    return
  statistics = statistics_lib.Statistics()
  filtered: Counter = Counter()
  invalid: list[dict[str, str]] = []
  known: dict[str, dict[str, Any]] = {}
  for i in range(len(units)):
    sidecar = jobs.read_sidecar(output / shards.shard_name(split, i, len(units)))
    statistics.merge(
      serialization.from_json(statistics_lib.Statistics, sidecar["statistics"])
    )
    filtered.update(sidecar["filtered"])
    invalid += sidecar["invalid"]
    known |= {entry["name"]: entry for entry in sidecar.get("inputs", ())}
  names = sorted({name for unit in units for name in unit.files})
  sources = _sources(converter, names, known, num_workers, progress)
  listing = json.dumps({"files": sources}, indent=0, ensure_ascii=False)
  files.write_atomically(output / plans.sources_name(split), listing)
  done = {
    "statistics": serialization.to_json(statistics),
    "provenance": {
      "command": command,
      "options": dataclasses.asdict(converter.options),
      "shards": len(units),
      "filtered": dict(sorted(filtered.items())),
      "num_skipped_invalid": len(invalid),
      "skipped_invalid": invalid,
      "sources": {
        "list": plans.sources_name(split),
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "files": len(sources),
        "bytes": sum(entry["bytes"] for entry in sources),
      },
    },
  }
  done = strict_json.with_checksum(serialization.to_json(done))
  files.write_atomically(path, json.dumps(done))


def write_info(
  declaration: dataset_summary.Declaration,
  output: pathlib.Path,
  scales: dataset_summary.ScaleSource,
) -> dataset_info.DatasetInfo:
  """Merges all finished splits; writes `dataset_info.json` where it changes."""
  while True:
    found = _finished_splits(output)
    splits, provenance = {}, {}
    for path in found:
      split = path.name.removesuffix(".done.json")
      done = strict_json.read(path, non_finite=True)
      splits[split] = serialization.from_json(
        statistics_lib.Statistics, done["statistics"]
      )
      provenance[split] = done["provenance"]
    info = dataset_summary.build_info(
      declaration, splits, scales, {"splits": provenance}
    )
    path = output / dataset_info.FILE_NAME
    text = serialization.dumps(info)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
      files.write_atomically(path, text)
    # Where there are no locks, another split may have been finished meanwhile.
    if _finished_splits(output) == found:
      return info


def _finished_splits(output: pathlib.Path) -> list[pathlib.Path]:
  return sorted((output / jobs.STATE).glob("*.done.json"))


def _sources(
  converter: base.Converter,
  names: Sequence[str],
  known: dict[str, dict[str, Any]],
  num_workers: int,
  progress: bool,
) -> list[dict[str, Any]]:
  """Name, size and SHA-256 of raw files; files of several shards are read here."""
  sums = {n: known[n]["sha256"] for n in names if known.get(n, {}).get("sha256")}
  missing = [name for name in names if name not in sums]
  paths = [converter.root / name for name in missing]
  with contextlib.ExitStack() as stack:
    if num_workers > 1 and len(paths) > num_workers:
      pool = stack.enter_context(workers.WorkerPool(num_workers, plans.DEATH_MESSAGE))
      found = pool.map(inputs.sha256, paths, chunk_size=8)
    else:
      found = map(inputs.sha256, paths)
    update = stack.enter_context(
      console.progress("file", "Checksums", is_shown=progress)
    )
    for done, (name, value) in enumerate(zip(missing, found, strict=True), start=1):
      sums[name] = value
      update(done, len(missing))
  sizes = {
    name: known[name]["bytes"]
    if name in known
    else (converter.root / name).stat().st_size
    for name in names
  }
  return [{"name": name, "bytes": sizes[name], "sha256": sums[name]} for name in names]
