"""One unit of a conversion becomes one shard, in whatever process.

A unit leaves three files: its index and its shard, and then a sidecar in
`.conversion/` with statistics and what it was made of. A unit is finished when its
shard and its sidecar exist; every file appears whole or not at all.
"""

from collections import Counter
from collections.abc import Iterator
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from data.conversion import base
from data.conversion import inputs
from data.records import index
from data.records import index_file
from data.records import schema
from data.records import shards
from jmp_hk import dataset_summary
from jmp_hk import files
from jmp_hk import problems
from jmp_hk import serialization
from jmp_hk import statistics as statistics_lib
from jmp_hk import strict_json
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import size_tables
from jmp_hk.models.gemnet_oc.graphs import builder as builder_lib

STATE = ".conversion"
# The graphs whose sizes are measured: those of the default backbone.
BUILDER = builder_lib.GemNetOCGraphBuilder()
_MOST_INVALID = 1000  # Records of a unit that are looked at before it is given up.


@dataclasses.dataclass(frozen=True)
class Job:
  """One unit with the shard that it becomes; it is sent to a process.

  Attributes:
    converter: reads the unit.
    unit: the unit.
    shard: the shard.
    skip_invalid: leave bad records out.
    measure: measure the sizes of all graphs.
    own_files: raw files that no other unit reads.
  """

  converter: base.Converter
  unit: base.Unit
  shard: pathlib.Path
  skip_invalid: bool = False
  measure: bool = False
  own_files: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What became of a job.

  Attributes:
    structures: structures of the shard.
    change: what has changed in the raw files since an earlier run made it, or "".
    is_measured: whether the sizes of graphs that the job asks for are there.
  """

  structures: int
  change: str = ""
  is_measured: bool = True


def sidecar_of(shard: pathlib.Path) -> pathlib.Path:
  """Where the statistics of a shard are."""
  return shard.parent / STATE / f"{shard.stem}.json"


def read_sidecar(shard: pathlib.Path) -> dict[str, Any]:
  """Statistics of a shard and what it was made of."""
  return strict_json.read(sidecar_of(shard), non_finite=True)


def check(job: Job) -> Outcome:
  """Checks that the raw files of a finished shard are those that it was made of."""
  sidecar = read_sidecar(job.shard)
  # Earlier versions stored nothing about them.
  changed = inputs.change(job.converter.root, sidecar.get("inputs", ()))
  return Outcome(
    sidecar["statistics"]["structures"], changed, not job.measure or _is_measured(job)
  )


def complete(job: Job) -> Outcome:
  """Runs a job, or measures the structures of a shard that is finished without."""
  if not (job.shard.exists() and sidecar_of(job.shard).exists()):
    return run(job)
  key, fields = _columns(job, job.converter.declare())
  found, _ = index.open_index(job.shard)
  graph = job.converter.declare().graph
  rows = [
    size_tables.row(schema.decode(record, str(job.shard)), BUILDER, graph)
    for record in shards.read_shard(job.shard)
  ]
  sizes = dict(found.sizes) | {key: index_file.table(fields, np.array(rows, np.int32))}
  index_file.store(job.shard, dataclasses.replace(found, sizes=sizes))
  return Outcome(found.num_records)


def _is_measured(job: Job) -> bool:
  key, fields = _columns(job, job.converter.declare())
  try:
    found = index_file.load(job.shard).sizes.get(key)
  except index_file.IndexFileError:
    return False
  return found is not None and found.fields == fields


def run(job: Job) -> Outcome:
  """Writes the index, the shard and the sidecar of one unit.

  Raises:
    RawDataError: a raw file cannot be read, or changes meanwhile.
    InvalidStructureError: there are bad records, which are not skipped.
  """
  declaration = job.converter.declare()
  root, names = job.converter.root, job.unit.files
  before = inputs.look_at(root, names)
  result = _Result()
  with index.indexed_writer(job.shard, *_columns(job, declaration)) as write:
    for item in _items(job):
      _take(item, job, declaration, result, write)
      if not job.skip_invalid and len(result.invalid) == _MOST_INVALID:
        break
    if result.invalid and not job.skip_invalid:
      raise structure_lib.InvalidStructureError(
        problems.summarise(
          [(entry["record_id"], entry["reason"]) for entry in result.invalid],
          result.statistics.structures + len(result.invalid),
        )
      )
    sources = inputs.with_checksums(root, before, job.own_files)
    if inputs.look_at(root, names) != before:
      raise base.RawDataError(
        f"{root / job.unit.name} changed while it was read; convert it again."
      )
  sidecar = {
    "statistics": serialization.to_json(result.statistics),
    "filtered": dict(sorted(result.filtered.items())),
    "invalid": result.invalid,
    "inputs": inputs.to_json(sources),
  }
  files.write_atomically(
    sidecar_of(job.shard), json.dumps(strict_json.with_checksum(sidecar))
  )
  return Outcome(result.statistics.structures)


@dataclasses.dataclass
class _Result:
  """What is gathered about the items of a unit."""

  statistics: statistics_lib.Statistics = dataclasses.field(
    default_factory=statistics_lib.Statistics
  )
  filtered: Counter = dataclasses.field(default_factory=Counter)
  invalid: list[dict[str, str]] = dataclasses.field(default_factory=list)


def encode(
  structure: structure_lib.Structure,
  declaration: dataset_summary.Declaration,
  measure: bool,
) -> tuple[bytes, np.ndarray] | str:
  """The record of a structure and the sizes of its graphs, or what is wrong with it.

  Args:
    structure: the structure.
    declaration: what is known about its dataset.
    measure: whether to measure the graphs; without, there are no sizes.
  """
  cutoff = declaration.graph.cutoff
  problem = structure_lib.find_problem(structure, cutoff)
  problem = problem or declaration.find_problem(structure)
  if problem:
    return problem
  record = schema.encode(structure)
  if not measure:
    return record, np.zeros(0, np.int64)
  try:
    # Of the structure that training reads, whose coordinates are rounded.
    return record, size_tables.row(schema.decode(record), BUILDER, declaration.graph)
  except ValueError as error:
    return f"expected graphs that can be built (--nomeasure builds none), found {error}"


def _columns(
  job: Job, declaration: dataset_summary.Declaration
) -> tuple[str, tuple[str, ...]]:
  """Key and fields of the sizes that are measured."""
  if not job.measure:
    return "", ()
  key = size_tables.key(BUILDER, declaration.graph)
  return key, budget_lib.names(BUILDER.budget_type)


def _take(
  item: base.Item,
  job: Job,
  declaration: dataset_summary.Declaration,
  result: _Result,
  write: index.Append,
) -> None:
  """Writes a structure, or notes why there is none."""
  if isinstance(item, base.Filtered):
    result.filtered[item.reason] += item.count
    return
  if isinstance(item, structure_lib.Structure):
    encoded = encode(item, declaration, job.measure)
    if not isinstance(encoded, str):
      write(encoded[0], item.num_atoms, encoded[1])
      result.statistics.add(item, declaration.optional)
      return
    item = base.Invalid(item.record_id, encoded)
  result.invalid.append(dataclasses.asdict(item))


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
