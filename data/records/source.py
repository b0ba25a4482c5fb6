"""The shards of one split as a source of structures, read in any order."""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
import concurrent.futures
import dataclasses
import functools
import hashlib
import logging
import os
import threading
from typing import IO
from typing import Any

import numpy as np

from data.records import index as index_lib
from data.records import index_file
from data.records import schema
from data.records import shards as shards_lib
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import size_tables
from jmp_hk.runtime import console

logger = logging.getLogger(__name__)

_MOST_OPEN = 128  # Shards that a process keeps open.
_MOST_OFFSETS = 4_000_000  # Places of records that a process remembers, 8 bytes each.
_THREADS = 16  # They wait for the file system while many indices are opened.

# Fields and largest sizes of tables, by key.
_Largest = Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class ShardSource(shards_lib.Split):
  """The shards of one split as a source of structures.

  Files are opened when a structure is wanted, in whatever process wants it.
  """

  @property
  def identity(self) -> list[Any]:
    """See `jmp_hk.pipeline.datasets.Source`; follows from the content of all shards."""
    return [len(self.shards), self.num_structures, self._layout.checksum]

  def fetch(self, indices: Sequence[int]) -> list[structure_lib.Structure]:
    """See `jmp_hk.pipeline.datasets.Source`.

    Raises:
      IndexError: an index is negative or too large.
      RecordFileError: a shard cannot be read or is damaged, or a structure lacks a
        label that all others have; names file and record.
    """
    wanted = np.asarray(indices, np.int64)
    starts = self._layout.starts
    if wanted.size and not 0 <= wanted.min() <= wanted.max() < starts[-1]:
      raise IndexError(
        f"Dataset {self.name!r} has the structures 0 to {starts[-1] - 1} in split "
        f"{self.split!r}; wanted were {wanted.min()} to {wanted.max()}."
      )
    numbers = np.searchsorted(starts, wanted, "right") - 1
    positions = wanted - starts[numbers]
    found: list[structure_lib.Structure | None] = [None] * len(wanted)
    for i in np.lexsort((positions, numbers)).tolist():
      found[i] = self._read(int(numbers[i]), int(positions[i]))
    return found  # pyright: ignore[reportReturnType]

  def measured(
    self, builder: builder_lib.GraphBuilder, graph: graph_config.GraphConfig
  ) -> size_tables.SizesTable | None:
    """See `jmp_hk.pipeline.datasets.Source`."""
    key = size_tables.key(builder, graph)
    fields = budget_lib.names(builder.budget_type)
    kept = self._layout.measured.get(key)
    if kept is not None:
      return kept
    stored = self._layout.largest.get(key)
    if stored is None or stored[0] != fields:
      return None
    return _ShardSizes(self, builder.budget_type, key, stored[1])

  def remember(
    self,
    builder: builder_lib.GraphBuilder,
    graph: graph_config.GraphConfig,
    table: size_tables.SizesTable,
  ) -> None:
    """See `jmp_hk.pipeline.datasets.Source`; stored in the indices of the shards."""
    key = size_tables.key(builder, graph)
    fields = budget_lib.names(table.kind)
    self._layout.measured[key] = table
    starts = self._layout.starts
    for i, shard in enumerate(self.shards):
      index = self._index(i)
      rows = table.rows(np.arange(starts[i], starts[i + 1]))
      sizes = dict(index.sizes) | {key: index_file.table(fields, rows)}
      if not index_lib.try_store(shard, dataclasses.replace(index, sizes=sizes)):
        logger.info(
          "The sizes of graphs cannot be stored in %s: they are measured again next "
          "time.",
          shard.parent,
        )
        return

  def __getstate__(self) -> dict[str, Any]:
    """Fields and layout, so that other processes need not look at every index."""
    layout = self._layout
    return {k: v for k, v in self.__dict__.items() if k != "_files"} | {
      "_layout": layout
    }

  def __setstate__(self, state: Mapping[str, Any]) -> None:
    self.__dict__.update(state)

  def _read(self, number: int, position: int) -> structure_lib.Structure:
    """Structure at a position of a shard."""
    shard = self.shards[number]
    framed = self._files.read(number, position)
    record = shards_lib.check_record(framed, shard, position)
    try:
      structure = schema.decode(record, f"record {position} of {shard}")
    except schema.SchemaError as error:
      raise shards_lib.RecordFileError(f"{error}.") from error
    for name in self.labels:
      if structure.label(name) is None:
        raise shards_lib.RecordFileError(
          f"Record {position} of shard {shard} ({structure.record_id}) has no label "
          f"{name!r}, which dataset_info.json promises; convert the dataset again."
        )
    return structure

  def _index(self, number: int) -> index_file.Index:
    """The index of a shard."""
    kept = self._layout.kept.get(number)
    return kept if kept is not None else index_lib.open_index(self.shards[number])[0]

  def _offsets(self, number: int) -> np.ndarray:
    """Where the records of a shard begin."""
    try:
      if number not in self._layout.kept:
        return index_file.load_offsets(self.shards[number])
    except index_file.IndexFileError:
      pass  # It is made again.
    return self._index(number).offsets

  def _rows(self, number: int, key: str) -> np.ndarray:
    """What the graphs of the structures of a shard need.

    Raises:
      RecordFileError: the index is damaged.
    """
    try:
      return index_file.load_rows(self.shards[number], key)
    except index_file.IndexFileError as error:
      raise shards_lib.RecordFileError(
        f"{error}. Run the same python -m data.convert once more, which measures the "
        "graphs of this shard again; or delete the file."
      ) from error

  @functools.cached_property
  def _files(self) -> "_OpenShards":
    return _OpenShards(self)

  @functools.cached_property
  def _layout(self) -> "_Layout":
    """Looks at the index of every shard, and makes those that are missing.

    Raises:
      RecordFileError: a shard is damaged, or there are more or fewer structures than
        promised.
    """
    layout = _look_at(self)
    if layout.starts[-1] != self.num_structures:
      raise shards_lib.RecordFileError(
        f"Dataset {self.name!r}: dataset_info.json promises {self.num_structures} "
        f"structures in split {self.split!r}, but its shards hold {layout.starts[-1]}; "
        "convert it again."
      )
    return layout


@dataclasses.dataclass(frozen=True, eq=False)
class _Layout:
  """What the indices of all shards say, without the place of each record.

  Attributes:
    starts: [shards + 1] int64, number of structures before each shard, and of all.
    checksum: digest of the number and the checksums of all records.
    largest: fields and largest sizes of tables that all shards have, by key.
    kept: indices that could not be stored, by number of the shard.
    measured: tables that were measured by this process, by key.
  """

  starts: np.ndarray
  checksum: str
  largest: _Largest
  kept: dict[int, index_file.Index]
  measured: dict[str, size_tables.SizesTable]


def _look_at(source: shards_lib.Split) -> _Layout:
  """Opens the indices of all shards once, many at a time."""
  counts, kept = [], {}
  largest: _Largest | None = None
  digest = hashlib.sha256()
  with (
    concurrent.futures.ThreadPoolExecutor(_THREADS) as pool,
    console.progress("shard", f"Index of {source.name}") as update,
  ):
    opened = pool.map(index_lib.open_summary, source.shards)
    for i, (summary, index) in enumerate(opened):
      counts.append(summary.num_records)
      digest.update(f"{summary.num_records} {summary.checksum}\n".encode())
      largest = _merge_largest(largest, summary.largest)
      if index is not None:
        kept[i] = index
      update(i + 1, len(source.shards))
  return _Layout(
    starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    checksum=digest.hexdigest()[:16],
    largest=largest or {},
    kept=kept,
    measured={},
  )


def _merge_largest(before: _Largest | None, own: _Largest) -> _Largest:
  """Fields and largest sizes of the tables that earlier shards and this one have."""
  if before is None:
    return own
  return {
    key: (fields, tuple(map(max, largest, own[key][1])))
    for key, (fields, largest) in before.items()
    if key in own and own[key][0] == fields
  }


class _OpenShards:
  """The shards that were read last, kept open; used by several threads."""

  def __init__(self, source: ShardSource) -> None:
    self._source = source
    self._lock = threading.Lock()
    self._files: collections.OrderedDict[int, IO[bytes]] = collections.OrderedDict()
    self._offsets: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
    self._num_offsets = 0

  def read(self, number: int, position: int) -> bytes:
    """The bytes that a shard has of a record.

    Raises:
      RecordFileError: they cannot be read.
    """
    shard = self._source.shards[number]
    try:
      with self._lock:
        start, stop = self._offsets_of(number)[position : position + 2].tolist()
        return os.pread(self._file(number).fileno(), stop - start, start)
    except OSError as error:
      raise shards_lib.RecordFileError(
        f"Shard {shard} cannot be read at record {position}: {error}."
      ) from error

  def _file(self, number: int) -> IO[bytes]:
    """A shard, opened."""
    if number in self._files:
      self._files.move_to_end(number)
      return self._files[number]
    while len(self._files) >= _MOST_OPEN:
      self._files.popitem(last=False)[1].close()
    file = open(self._source.shards[number], "rb", buffering=0)  # noqa: SIM115
    self._files[number] = file
    return file

  def _offsets_of(self, number: int) -> np.ndarray:
    """Where the records of a shard begin."""
    if number in self._offsets:
      self._offsets.move_to_end(number)
      return self._offsets[number]
    found = self._source._offsets(number)
    self._num_offsets += len(found)
    while self._offsets and self._num_offsets > _MOST_OFFSETS:
      self._num_offsets -= len(self._offsets.popitem(last=False)[1])
    self._offsets[number] = found
    return found


class _ShardSizes(size_tables.SizesTable):
  """The tables of all shards of a split, read from their indices when asked for."""

  def __init__(
    self,
    source: ShardSource,
    kind: type[budget_lib.Budget],
    key: str,
    largest: Sequence[int],
  ) -> None:
    super().__init__(kind)
    self._source, self._key, self._largest = source, key, largest

  def __len__(self) -> int:
    """See `SizesTable`."""
    return self._source.num_structures

  def largest(self) -> budget_lib.Budget:
    """See `SizesTable`."""
    return self.kind(*map(int, self._largest))

  def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """See `SizesTable`."""
    wanted = np.asarray(indices, np.int64)
    starts = self._source._layout.starts
    found = np.empty((len(wanted), len(budget_lib.names(self.kind))), np.int32)
    numbers = np.searchsorted(starts, wanted, "right") - 1
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(len(starts)))
    for number in np.unique(numbers).tolist():
      chosen = order[bounds[number] : bounds[number + 1]]
      rows = self._source._rows(number, self._key)
      found[chosen] = rows[wanted[chosen] - starts[number]]
    return found
