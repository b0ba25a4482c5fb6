"""Compares a file with the size and the checksum that are published for it."""

import dataclasses
import hashlib
import pathlib
import sys
from typing import Literal
from typing import NoReturn

import tqdm

_CHUNK_BYTES = 1 << 20
# Amazon's S3 hashes what is uploaded in parts of this size by default.
_S3_PART_BYTES = 8 << 20

Kind = Literal["md5", "sha256", "s3_etag"]
_LABELS: dict[Kind, str] = {"md5": "MD5", "sha256": "SHA-256", "s3_etag": "S3 ETag"}


@dataclasses.dataclass(frozen=True)
class Checksum:
  """A published checksum of a file.

  Attributes:
    kind: "md5", "sha256", or "s3_etag": the name that Amazon's S3 gives to a file that
      was uploaded in parts of 8 MiB, the MD5 of the parts' MD5s and their number.
    value: hexadecimal digits.
  """

  kind: Kind
  value: str

  @property
  def label(self) -> str:
    """The kind as people write it."""
    return _LABELS[self.kind]


@dataclasses.dataclass(frozen=True)
class Expected:
  """What is known of a file before it is fetched.

  Attributes:
    size: exact number of bytes; None where it is not known.
    about: roughly how many bytes, for the check of the free space; 0 where unknown.
    checksums: the file must have one of them; none where none is published.
  """

  size: int | None = None
  about: int = 0
  checksums: tuple[Checksum, ...] = ()


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What a comparison of a file with its `Expected` found.

  Attributes:
    problem: what was expected and what was found, or "".
    agrees: what was compared and agrees, or "" where nothing was known.
  """

  problem: str = ""
  agrees: str = ""


def compare(
  path: pathlib.Path, expected: Expected, progress: bool = False
) -> Comparison:
  """Compares a file with what is expected of it."""
  size = path.stat().st_size
  if expected.size is not None and size != expected.size:
    return Comparison(f"expected {expected.size} bytes, found {size}")
  agrees = [] if expected.size is None else ["size"]
  for kind, label in _LABELS.items():
    wanted = [c.value for c in expected.checksums if c.kind == kind]
    if not wanted:
      continue
    found = digest(path, kind, progress)
    if found not in wanted:
      return Comparison(f"expected the {label} {' or '.join(wanted)}, found {found}")
    # Which one it is matters where a source names several.
    agrees.append(label + (f" {found}" if len(wanted) > 1 else ""))
  return Comparison(agrees=" and ".join(agrees))


def digest(path: pathlib.Path, kind: Kind, progress: bool = False) -> str:
  """The checksum of a file, in hexadecimal digits."""
  size = path.stat().st_size
  with open(path, "rb") as file, bar(f"checking {path.name}", size, progress) as shown:
    if kind != "s3_etag":
      value = hashlib.new(kind, usedforsecurity=False)
      while chunk := file.read(_CHUNK_BYTES):
        value.update(chunk)
        shown.update(len(chunk))
      return value.hexdigest()
    parts = []
    while chunk := file.read(_S3_PART_BYTES):
      parts.append(hashlib.md5(chunk, usedforsecurity=False).digest())
      shown.update(len(chunk))
    value = hashlib.md5(b"".join(parts), usedforsecurity=False)
    return f"{value.hexdigest()}-{len(parts)}"


def bar(
  description: str, size: int | None, progress: bool, initial: int = 0
) -> "tqdm.tqdm[NoReturn]":
  """A bar of bytes in a terminal; where nobody watches, a line a minute."""
  return tqdm.tqdm(
    desc=description,
    total=size,
    initial=initial,
    unit="B",
    unit_scale=True,
    dynamic_ncols=True,
    disable=not progress,
    delay=0.5,  # Nothing is shown of what is done at once.
    mininterval=0.2 if sys.stderr.isatty() else 60.0,
  )


def size_text(size: int) -> str:
  """A number of bytes as people write it: "532 bytes", "86.1 MB", "225 GB"."""
  value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
  while value >= 999.5 and len(units) > 1:
    value /= 1000
    units.pop(0)
  return f"{value:.3g} {units[0]}"
