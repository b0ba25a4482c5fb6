"""Decompresses streams that do not grow beyond all measure."""

import bz2
import gzip
import io
import lzma
from typing import IO
from typing import Any
from typing import cast
import zlib

from data.conversion import base

# Bytes that one byte of a compressed file may become. Texts of the releases become up
# to twelve; hostile files become a thousand to a million.
MAX_EXPANSION = 200
_SMALL = 64 << 20  # Bytes that any compressed file may become.
_BUFFER_BYTES = 1 << 18
# How compressed files begin.
_KINDS: tuple[tuple[bytes, Any], ...] = (
  (b"\x1f\x8b", gzip.open),
  (b"BZh", bz2.open),
  (b"\xfd7zXZ\x00", lzma.open),
)
_SUFFIXES = (".gz", ".tgz", ".bz2", ".xz")
# What damaged streams raise.
UNREADABLE = (lzma.LZMAError, zlib.error, EOFError, OSError)


def open_stream(file: IO[bytes], name: str) -> io.BufferedReader:
  """A file, decompressed where it begins as gzip, bzip2 or xz.

  Args:
    file: the file; it need not be seekable. It is read from where it stands.
    name: its name in messages.

  Returns:
    A stream that raises `RawDataError` where it becomes much longer than the file.
  """
  counted = _Counted(file)
  compressed: Any = io.BufferedReader(counted, _BUFFER_BYTES)
  start = compressed.peek(8)
  for magic, open_kind in _KINDS:
    if start.startswith(magic):
      content = _Bounded(open_kind(compressed), counted, name)
      return io.BufferedReader(content, _BUFFER_BYTES)
  if name.lower().endswith(_SUFFIXES):
    raise base.RawDataError(
      f"{name} is damaged: expected compressed data, found {start[:8]!r} at its "
      "beginning. It may be truncated; fetch it again."
    )
  return compressed


def drain(stream: IO[bytes]) -> None:
  """Reads a stream to its end, where compressed files have their checksum.

  Raises:
    EOFError, OSError, …: it is damaged, see `UNREADABLE`.
  """
  while stream.read(_BUFFER_BYTES):
    pass


class _Counted(io.RawIOBase):
  """A file that counts the bytes that were read from it."""

  def __init__(self, file: IO[bytes]) -> None:
    self._file, self.count = file, 0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    """Reads up to as many bytes as the buffer takes."""
    data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    self.count += len(data)
    return len(data)


class _Bounded(io.RawIOBase):
  """A decompressed stream that is compared with the compressed one."""

  def __init__(self, content: Any, compressed: _Counted, name: str) -> None:
    self._content = cast(IO[bytes], content)
    self._compressed, self._name, self._count = compressed, name, 0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    """Reads up to as many bytes as the buffer takes."""
    data = self._content.read(len(buffer))
    buffer[: len(data)] = data
    self._count += len(data)
    if self._count > _SMALL + MAX_EXPANSION * self._compressed.count:
      raise base.RawDataError(
        f"{self._name} is refused: {self._compressed.count} of its bytes become "
        f"{self._count}, more than {MAX_EXPANSION} times as many."
      )
    return len(data)
