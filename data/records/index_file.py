"""The index of a shard: where its records lie, and how large their graphs are.

Beside `train-00003-of-00007.tfrecord` lies `train-00003-of-00007.index`, so that any
record can be read by itself. The file holds, little-endian:

  bytes  what
  8      "JMPINDEX"
  4      uint32, version of this layout
  4      uint32, CRC-32C of the next two
  8      uint64, length of the description
  …      the description, JSON in UTF-8, padded with spaces to a multiple of 8
  …      int64 [n + 1], where each record begins in the shard, and the shard's size
  …      int32 [n], atoms of each structure
  …      int32 [n, fields] for each table of sizes

The description has the number of records; the size and the checksums of the shard that
it belongs to; key, fields and largest values of each table of sizes
(`jmp_hk.graphs.size_tables`); and the CRC-32C of each array, so that readers read what
they need and no more. Shards of earlier versions have no index, and one that does not
fit its shard is not used: `index.open_index` makes a new one.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import struct
from typing import IO
from typing import Any

import google_crc32c
import numpy as np

from data.records import shards
from jmp_hk import files

SUFFIX = ".index"
VERSION = 2
_MAGIC = b"JMPINDEX"
_HEAD = struct.Struct("<8sIIQ")
_FOOTER_BYTES = 4
_OFFSETS, _ATOMS = 0, 1  # Arrays of the file; those of sizes follow.


class IndexFileError(ValueError):
  """An index is missing or damaged, or belongs to another shard."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sizes:
  """What the graphs of each structure of a shard need.

  Attributes:
    fields: names of the columns.
    rows: [n, fields] int32.
    largest: largest value of each column, 0 where there are no rows.
  """

  fields: tuple[str, ...]
  rows: np.ndarray
  largest: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
  """What is known about a shard.

  Attributes:
    offsets: [n + 1] int64, where each record begins, and the size of the shard.
    num_atoms: [n] int32, atoms of each structure.
    checksum: CRC-32C over the checksums of all records, in order.
    last: checksum of the last record, the last bytes of the shard; hexadecimal.
    sizes: tables of sizes by their keys.
  """

  offsets: np.ndarray
  num_atoms: np.ndarray
  checksum: int
  last: str
  sizes: Mapping[str, Sizes] = dataclasses.field(default_factory=dict)

  @property
  def num_records(self) -> int:
    """Number of records."""
    return len(self.num_atoms)


@dataclasses.dataclass(frozen=True)
class Summary:
  """What the description of an index says.

  Attributes:
    num_records: number of records.
    checksum: see `Index`.
    largest: fields and largest values of each table of sizes, by its key.
  """

  num_records: int
  checksum: int
  largest: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]


def path_of(shard: pathlib.Path) -> pathlib.Path:
  """Where the index of a shard is."""
  return shard.with_suffix(SUFFIX)


def table(fields: Sequence[str], rows: np.ndarray) -> Sizes:
  """A table of sizes with its largest values.

  Args:
    fields: names of the columns.
    rows: [n, fields] integers.
  """
  rows = np.asarray(rows, np.int32).reshape(-1, len(fields))
  largest = rows.max(axis=0, initial=0).tolist()
  return Sizes(tuple(fields), rows, tuple(largest))


def summarize(index: Index) -> Summary:
  """What the description of an index says, or is going to say."""
  largest = {key: (sizes.fields, sizes.largest) for key, sizes in index.sizes.items()}
  return Summary(index.num_records, index.checksum, largest)


def store(shard: pathlib.Path, index: Index) -> None:
  """Writes the index of a shard; it appears whole or not at all."""
  arrays = [
    index.offsets.astype("<i8").tobytes(),
    index.num_atoms.astype("<i4").tobytes(),
    *(sizes.rows.astype("<i4").tobytes() for sizes in index.sizes.values()),
  ]
  description = json.dumps(
    {
      "records": index.num_records,
      "shard": {
        "bytes": int(index.offsets[-1]),
        "checksum": index.checksum,
        "last": index.last,
      },
      "sizes": [
        {"key": key, "fields": sizes.fields, "largest": sizes.largest}
        for key, sizes in index.sizes.items()
      ],
      "checksums": [google_crc32c.value(content) for content in arrays],
    }
  ).encode("utf-8")
  description += b" " * (-len(description) % 8)
  checked = struct.pack("<Q", len(description)) + description
  with files.open_atomically(path_of(shard)) as file:
    file.write(struct.pack("<8sII", _MAGIC, VERSION, google_crc32c.value(checked)))
    for part in (checked, *arrays):
      file.write(part)


def load(shard: pathlib.Path) -> Index:
  """Reads the index of a shard.

  Raises:
    IndexFileError: it is missing or damaged, or belongs to another shard.
    RecordFileError: the shard is missing.
  """
  with _opened(shard) as stored:
    return Index(
      offsets=stored.read(_OFFSETS),
      num_atoms=stored.read(_ATOMS),
      checksum=stored.description["shard"]["checksum"],
      last=stored.description["shard"]["last"],
      sizes={
        entry["key"]: Sizes(
          tuple(entry["fields"]), stored.read(number), tuple(entry["largest"])
        )
        for number, entry in enumerate(stored.description["sizes"], start=_ATOMS + 1)
      },
    )


def load_summary(shard: pathlib.Path) -> Summary:
  """Reads the description of the index of a shard alone; raises as `load` does."""
  with _opened(shard) as stored:
    description = stored.description
    largest = {
      entry["key"]: (tuple(entry["fields"]), tuple(entry["largest"]))
      for entry in description["sizes"]
    }
    return Summary(description["records"], description["shard"]["checksum"], largest)


def load_offsets(shard: pathlib.Path) -> np.ndarray:
  """Reads `Index.offsets` of a shard alone; raises as `load` does."""
  with _opened(shard) as stored:
    return stored.read(_OFFSETS)


def load_rows(shard: pathlib.Path, key: str) -> np.ndarray:
  """Reads the rows of one table of sizes alone; raises as `load` does."""
  with _opened(shard) as stored:
    keys = [entry["key"] for entry in stored.description["sizes"]]
    return stored.read(_ATOMS + 1 + keys.index(key))


class _Stored:
  """An opened index.

  Attributes:
    description: its description.
  """

  def __init__(self, file: IO[bytes]) -> None:
    """Reads the description.

    Raises:
      ValueError, KeyError, TypeError, AttributeError, struct.error: it is no index.
    """
    self._file = file
    head = file.read(_HEAD.size)
    magic, version, checksum, length = _HEAD.unpack(head)
    if magic != _MAGIC:
      raise ValueError("it does not begin as an index does")
    if version != VERSION:
      raise ValueError(f"it has version {version}, expected {VERSION}")
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(length, size))
    if google_crc32c.value(head[16:] + content) != checksum:
      raise ValueError("its checksum is wrong")
    self.description = json.loads(content)
    count = self.description["records"]
    self._arrays: list[tuple[str, tuple[int, ...]]] = [
      ("<i8", (count + 1,)),
      ("<i4", (count,)),
    ]
    for entry in self.description["sizes"]:
      self._arrays.append(("<i4", (count, len(entry["fields"]))))
    self._starts = [_HEAD.size + length]
    for dtype, shape in self._arrays:
      length = int(np.prod(shape)) * np.dtype(dtype).itemsize
      self._starts.append(self._starts[-1] + length)
    if self._starts[-1] != size:
      raise ValueError("its length is wrong")

  def read(self, number: int) -> np.ndarray:
    """Reads one of the arrays.

    Raises:
      ValueError: it is damaged.
    """
    self._file.seek(self._starts[number])
    content = self._file.read(self._starts[number + 1] - self._starts[number])
    if google_crc32c.value(content) != self.description["checksums"][number]:
      raise ValueError("its checksum is wrong")
    dtype, shape = self._arrays[number]
    return np.frombuffer(content, dtype).reshape(shape)


@contextlib.contextmanager
def _opened(shard: pathlib.Path) -> Iterator[_Stored]:
  """The index of a shard, which fits it.

  Raises:
    IndexFileError: it is missing or damaged, or belongs to another shard.
    RecordFileError: the shard is missing.
  """
  path = path_of(shard)
  try:
    # Without a buffer, which would read more than is asked for.
    with open(path, "rb", buffering=0) as file:
      stored = _Stored(file)
      _check_fits(stored.description["shard"], shard)
      yield stored
  except FileNotFoundError as error:
    raise IndexFileError(f"{path} does not exist") from error
  except OSError as error:
    raise IndexFileError(f"{path} cannot be read: {error}") from error
  except (IndexFileError, shards.RecordFileError):
    raise
  except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
    raise IndexFileError(f"{path} is damaged: {error}") from error


def _check_fits(expected: Mapping[str, Any], shard: pathlib.Path) -> None:
  """Checks size and last bytes of a shard against the description of its index.

  Raises:
    IndexFileError: they differ.
    RecordFileError: the shard is missing.
  """
  try:
    with open(shard, "rb", buffering=0) as file:
      size = os.fstat(file.fileno()).st_size
      file.seek(max(0, size - _FOOTER_BYTES))
      last = file.read(_FOOTER_BYTES).hex()
  except OSError as error:
    raise shards.RecordFileError(f"Shard {shard} cannot be read: {error}.") from error
  if (size, last) != (expected["bytes"], expected["last"]):
    raise IndexFileError(f"{path_of(shard)} belongs to another shard")
