"""The raw files that a shard was made of: whether they are still the same."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import datetime
import hashlib
import pathlib
from typing import Any

from data.conversion import base

_EDGE = 1 << 16


@dataclasses.dataclass(frozen=True)
class RawFile:
  """A raw file as it was when a shard was made of it.

  Attributes:
    name: its path, relative to the converter's root.
    bytes: its size.
    modified: time of its last change, in ns.
    ends: SHA-256 of its first and last bytes, which is cheap for huge files.
    sha256: SHA-256 of all of it, for files that belong to one shard alone, or "".
  """

  name: str
  bytes: int
  modified: int
  ends: str = ""
  sha256: str = ""


def look_at(root: pathlib.Path, names: Sequence[str]) -> list[RawFile]:
  """Sizes and times of raw files; reads none of them.

  Raises:
    RawDataError: a file is missing.
  """
  return [_look_at(root, name) for name in names]


def with_checksums(
  root: pathlib.Path, files: Sequence[RawFile], own: Collection[str]
) -> list[RawFile]:
  """Adds the checksums of raw files.

  Args:
    root: the converter's root.
    files: the files.
    own: names of those that are read as a whole, and belong to one shard alone.

  Raises:
    RawDataError: a file cannot be read.
  """
  return [
    dataclasses.replace(
      file,
      ends=_ends(root / file.name),
      sha256=sha256(root / file.name) if file.name in own else "",
    )
    for file in files
  ]


def to_json(files: Sequence[RawFile]) -> list[dict[str, Any]]:
  """JSON values of raw files, for the sidecar of a shard."""
  return [dataclasses.asdict(file) for file in files]


def change(root: pathlib.Path, stored: Sequence[Mapping[str, Any]]) -> str:
  """What has changed in the raw files of a shard since it was made, or "".

  Files of the same size and time are not read. Of a file that has another time, as
  copies have, the content decides.

  Args:
    root: the converter's root.
    stored: what `to_json` gave.

  Raises:
    RawDataError: a file cannot be read.
  """
  for entry in stored:
    old = RawFile(**entry)
    new = _look_at(root, old.name)
    if (new.bytes, new.modified) == (old.bytes, old.modified):
      continue
    if new.bytes == old.bytes:
      (new,) = with_checksums(root, [new], {old.name} if old.sha256 else ())
      if (new.ends, new.sha256) == (old.ends, old.sha256):
        continue
    return f"{old.name} was {_described(old)}, is {_described(new)}"
  return ""


def sha256(path: pathlib.Path) -> str:
  """SHA-256 of a file.

  Raises:
    RawDataError: it cannot be read.
  """
  try:
    with open(path, "rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  except OSError as error:
    raise base.RawDataError(f"{path} cannot be read: {error}.") from error


def _look_at(root: pathlib.Path, name: str) -> RawFile:
  try:
    status = (root / name).stat()
  except OSError as error:
    raise base.RawDataError(f"{root / name} cannot be read: {error}.") from error
  return RawFile(name, status.st_size, status.st_mtime_ns)


def _ends(path: pathlib.Path) -> str:
  """Digest of both ends of a file."""
  try:
    with open(path, "rb") as file:
      content = file.read(_EDGE)
      size = file.seek(0, 2)
      file.seek(max(0, size - _EDGE))
      content += file.read(_EDGE)
  except OSError as error:
    raise base.RawDataError(f"{path} cannot be read: {error}.") from error
  return hashlib.sha256(content).hexdigest()


def _described(file: RawFile) -> str:
  time = datetime.datetime.fromtimestamp(file.modified / 1e9)
  return f"{file.bytes:,} bytes of {time:%Y-%m-%d %H:%M:%S}"
