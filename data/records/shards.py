"""Sharded TFRecord files: atomic writing, checked reading, listing.

A shard is written under a temporary name, flushed to disk and renamed, so that a file
called `train-00003-of-00007.tfrecord` is always whole.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import mmap
import os
import pathlib
import re
import struct

import google_crc32c

from jmp_hk import files

_NAME = re.compile(
  r"(?P<split>[\w.+-]+?)-(?P<index>\d{5,})-of-(?P<count>\d{5,})\.tfrecord"
)
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _FOOTER.size  # Around each record.


@dataclasses.dataclass(frozen=True)
class Split:
  """The shards of one split of a dataset.

  Attributes:
    name: name of the dataset, for error messages.
    split: name of the split, likewise.
    shards: the files, in order.
    num_structures: structures that the dataset's `dataset_info.json` promises.
    missing: number of structures that lack a label, by its name; only labels that some
      lack.
    labels: names of the labels that every structure has, as far as known.
  """

  name: str
  split: str
  shards: tuple[pathlib.Path, ...]
  num_structures: int
  missing: Mapping[str, int] = dataclasses.field(default_factory=dict)
  labels: frozenset[str] = frozenset()


class RecordFileError(ValueError):
  """A shard is missing, truncated or corrupt; the message says which."""


def shard_name(split: str, index: int, count: int) -> str:
  """File name of shard `index` of `count`."""
  return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def remove_temporary_files(
  directory: pathlib.Path, split: str, *, only_shards: bool = False
) -> None:
  """Deletes what killed writers of a split left behind.

  Args:
    directory: where to look.
    split: name of the split.
    only_shards: delete unfinished shards and indices, and nothing else of the split.
  """
  patterns = [f".{split}-?????-of-*{files.TEMPORARY_SUFFIX}"]
  if not only_shards:
    patterns.append(f".{split}.*{files.TEMPORARY_SUFFIX}")
  for pattern in patterns:
    for path in directory.glob(pattern):
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def shard_writer(path: pathlib.Path) -> Iterator[Callable[[bytes], bytes]]:
  """Yields a function that appends one record to the shard `path`.

  The function returns the record's checksum as the file has it. The shard appears under
  its name only when the block ends without an exception.
  """
  with files.open_atomically(path) as file:

    def write(record: bytes) -> bytes:
      length = struct.pack("<Q", len(record))
      file.write(length)
      file.write(_FOOTER.pack(_masked_crc32c(length)))
      file.write(record)
      footer = _FOOTER.pack(_masked_crc32c(record))
      file.write(footer)
      return footer

    yield write


def read_shard(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a shard.

  Raises:
    RecordFileError: the file is missing, truncated or corrupt.
  """
  with _reading(path), open(path, "rb") as file:
    index = 0
    while header := file.read(_HEADER.size):
      length = _record_length(header, path, index)
      yield _checked(file.read(length + _FOOTER.size), length, path, index)
      index += 1


def walk_shard(
  path: pathlib.Path,
) -> Iterator[tuple[int, memoryview, bytes]]:
  """Yields where each record of a shard begins, the record, and its checksum.

  Pages of the file that nobody looks at are not read: records are not checked, only
  their lengths. A record must not be used after the next one was asked for.

  Raises:
    RecordFileError: the file is missing or truncated, or a length is corrupt.
  """
  with _reading(path), open(path, "rb") as file, contextlib.ExitStack() as stack:
    size = os.fstat(file.fileno()).st_size
    if not size:
      return
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = memoryview(stack.enter_context(mapped))
    stack.callback(data.release)  # Before the map is closed.
    position = index = 0
    while position < size:
      start = position + _HEADER.size
      length = _record_length(bytes(data[position:start]), path, index)
      footer = bytes(data[start + length : start + length + _FOOTER.size])
      if len(footer) < _FOOTER.size:
        raise RecordFileError(_truncated(path, index))
      with data[start : start + length] as record:
        yield position, record, footer
      position = start + length + _FOOTER.size
      index += 1


def check_record(framed: bytes, path: pathlib.Path, index: int) -> bytes:
  """The record in the bytes that a shard has of it, from its length to its checksum.

  Args:
    framed: the bytes.
    path: the shard, for messages.
    index: number of the record in the shard, likewise.

  Raises:
    RecordFileError: the bytes are corrupt or incomplete.
  """
  length = _record_length(framed[: _HEADER.size], path, index)
  return _checked(framed[_HEADER.size :], length, path, index)


def _record_length(header: bytes, path: pathlib.Path, index: int) -> int:
  if len(header) < _HEADER.size:
    raise RecordFileError(_truncated(path, index))
  length, check = _HEADER.unpack(header)
  if _masked_crc32c(header[:8]) != check:
    raise RecordFileError(f"Shard {path} is corrupt at the head of record {index}.")
  return length


def _checked(body: bytes, length: int, path: pathlib.Path, index: int) -> bytes:
  """The record of a length whose checksum follows it."""
  if len(body) < length + _FOOTER.size:
    raise RecordFileError(_truncated(path, index))
  record = body[:length]
  if _masked_crc32c(record) != _FOOTER.unpack_from(body, length)[0]:
    raise RecordFileError(f"Shard {path} is corrupt in record {index}.")
  return record


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
  """Turns what the system says about a shard into a `RecordFileError`."""
  try:
    yield
  except FileNotFoundError as error:
    raise RecordFileError(f"Shard {path} does not exist.") from error
  except OSError as error:
    raise RecordFileError(f"Shard {path} cannot be read: {error}.") from error


def list_shards(directory: pathlib.Path, split: str) -> list[pathlib.Path]:
  """All shards of a split in order.

  Raises:
    RecordFileError: there are none, some are missing, or two sets are mixed.
  """
  directory = pathlib.Path(directory)
  found: dict[int, dict[int, pathlib.Path]] = {}
  for path in directory.glob(f"{split}-*.tfrecord"):
    match = _NAME.fullmatch(path.name)
    if match and match["split"] == split:
      found.setdefault(int(match["count"]), {})[int(match["index"])] = path
  if not found:
    known = ", ".join(list_splits(directory)) or "none"
    raise RecordFileError(
      f"{directory} holds no shards of split {split!r}; it has the splits: {known}."
    )
  if len(found) > 1:
    raise RecordFileError(
      f"{directory} mixes shards of split {split!r} from conversions into "
      f"{' and '.join(map(str, sorted(found)))} shards; convert it again with "
      "--overwrite."
    )
  ((count, shards),) = found.items()
  missing = [i for i in range(count) if i not in shards]
  if missing:
    raise RecordFileError(
      f"{directory} lacks {len(missing)} of {count} shards of split {split!r}, the "
      f"first is {shard_name(split, missing[0], count)}; run the conversion again to "
      "finish it."
    )
  return [shards[i] for i in range(count)]


def list_splits(directory: pathlib.Path) -> list[str]:
  """Names of the splits of which a folder holds any shard."""
  matches = (
    _NAME.fullmatch(p.name) for p in pathlib.Path(directory).glob("*.tfrecord")
  )
  return sorted({match["split"] for match in matches if match})


def _truncated(path: pathlib.Path, index: int) -> str:
  return f"Shard {path} is truncated in record {index}; convert it again."


def _masked_crc32c(data: bytes) -> int:
  """The checksum of TFRecord files: CRC-32C (Castagnoli), rotated and shifted."""
  value = google_crc32c.value(data)
  return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
