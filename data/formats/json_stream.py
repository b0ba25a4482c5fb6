"""Items of arrays inside large JSON files, one at a time, plain or gzipped."""

from collections.abc import Iterator
import contextlib
import gzip
import pathlib
import re
from typing import IO
from typing import Any
import zipfile
import zlib

import ijson

from data.conversion import base
from data.formats import archives

_CHUNK_BYTES = 1 << 20
# What Python's json writes for missing numbers, which is not JSON.
_NOT_JSON = re.compile(rb"(?<=[:,\[\s])(?:NaN|-?Infinity)(?=\s*[,\]}])")
_LONGEST = len(b"-Infinity") + 64  # with white space around it


_UNREADABLE = (
  ijson.JSONError,
  EOFError,
  zlib.error,
  zipfile.BadZipFile,
  OSError,
)


class _StrictJson:
  """Replaces NaN and ±Infinity, which Python's json writes, by null."""

  def __init__(self, file: IO[bytes] | gzip.GzipFile):
    self._file = file
    self._held = b""

  def read(self, size: int = -1) -> bytes:
    """The next bytes, however many (none for 0, as readers probe); b"" at the end."""
    if size == 0:
      return b""
    while True:
      chunk = self._file.read(_CHUNK_BYTES)
      data = self._held + chunk
      if b"NaN" in data or b"Infinity" in data:
        data = _NOT_JSON.sub(b"null", data)
      if not chunk:
        self._held = b""
        return data
      # The end of a chunk may cut a word in two: hold it back.
      self._held, ready = data[-_LONGEST:], data[:-_LONGEST]
      if ready:
        return ready


def items(path: pathlib.Path, prefix: str, member: str = "") -> Iterator[Any]:
  """Yields what lies at `prefix` ("data.item", "item", … as in ijson).

  Numbers are floats or ints; NaN and infinities become None.

  Args:
    path: a file; gzipped where its name ends in ".gz".
    prefix: place of the items.
    member: name of the file inside the zip file `path`.

  Raises:
    RawDataError: the file is truncated or not JSON; says after how many items.
  """
  index = 0
  try:
    with _open(path, member) as file:
      for item in ijson.items(_StrictJson(file), prefix, use_float=True):
        yield item
        index += 1
  except _UNREADABLE as error:
    raise base.RawDataError(
      f"{path / member} cannot be read as JSON after {index} items at {prefix!r}: "
      f"{str(error).strip() or type(error).__name__}. It may be truncated; download "
      "it again."
    ) from error


@contextlib.contextmanager
def _open(path: pathlib.Path, member: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
  if member:
    with archives.open_in_zip(path, member) as file:
      yield file
    return
  with open(path, "rb") as raw:
    yield gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw


def first(path: pathlib.Path, prefix: str) -> Any:
  """The first thing at `prefix`; reads no further.

  Raises:
    RawDataError: there is none or the file is damaged.
  """
  for item in items(path, prefix):
    return item
  raise base.RawDataError(f"{path} has nothing at {prefix!r}.")
