"""Sharded TFRecord files: atomic writing, checked reading, listing.

A shard is written under a temporary name, flushed to disk and renamed, so that a file
called `train-00003-of-00007.tfrecord` is always whole.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
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
  """

  name: str
  split: str
  shards: tuple[pathlib.Path, ...]
  num_structures: int
  missing: Mapping[str, int] = dataclasses.field(default_factory=dict)


class RecordFileError(ValueError):
  """A shard is missing, truncated or corrupt; the message says which."""


def shard_name(split: str, index: int, count: int) -> str:
  """File name of shard `index` of `count`."""
  return f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def remove_temporary_files(directory: pathlib.Path, split: str) -> None:
  """Deletes what killed writers of a split left behind."""
  for pattern in (
    f".{split}-?????-of-*{files.TEMPORARY_SUFFIX}",
    f".{split}.*{files.TEMPORARY_SUFFIX}",
  ):
    for path in directory.glob(pattern):
      path.unlink(missing_ok=True)


@contextlib.contextmanager
def shard_writer(path: pathlib.Path) -> Iterator[Callable[[bytes], None]]:
  """Yields a function that appends one record to the shard `path`.

  The shard appears under its name only when the block ends without an exception.
  """
  with files.open_atomically(path) as file:

    def write(record: bytes) -> None:
      length = struct.pack("<Q", len(record))
      file.write(length)
      file.write(_FOOTER.pack(_masked_crc32c(length)))
      file.write(record)
      file.write(_FOOTER.pack(_masked_crc32c(record)))

    yield write


def read_shard(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a shard.

  Raises:
    RecordFileError: the file is missing, truncated or corrupt.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise RecordFileError(f"Shard {path} does not exist.")
  with open(path, "rb") as file:
    index = 0
    while header := file.read(_HEADER.size):
      if len(header) < _HEADER.size:
        raise RecordFileError(_truncated(path, index))
      length, check = _HEADER.unpack(header)
      if _masked_crc32c(header[:8]) != check:
        raise RecordFileError(f"Shard {path} is corrupt at the head of record {index}.")
      body = file.read(length + _FOOTER.size)
      if len(body) < length + _FOOTER.size:
        raise RecordFileError(_truncated(path, index))
      record = body[:length]
      if _masked_crc32c(record) != _FOOTER.unpack(body[length:])[0]:
        raise RecordFileError(f"Shard {path} is corrupt in record {index}.")
      yield record
      index += 1


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
