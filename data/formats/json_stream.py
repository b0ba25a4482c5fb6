"""Items of arrays inside large JSON files, one at a time, plain or gzipped."""

from collections.abc import Iterator
import gzip
import io
import pathlib
import re
from typing import Any
import zlib

import ijson

from data.conversion import base

_CHUNK_BYTES = 1 << 20
# What Python's json writes for missing numbers, which is not JSON.
_NOT_JSON = re.compile(rb"(?<=[:,\[\s])(?:NaN|-?Infinity)(?=\s*[,\]}])")
_LONGEST = len(b"-Infinity") + 64  # with white space around it


class _StrictJson:
  """Replaces NaN and ±Infinity, which Python's json writes, by null."""

  def __init__(self, file: io.BufferedReader | gzip.GzipFile):
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


def items(path: pathlib.Path, prefix: str) -> Iterator[Any]:
  """Yields what lies at `prefix` ("data.item", "item", … as in ijson).

  Numbers are floats or ints; NaN and infinities become None.

  Args:
    path: a file; gzipped where its name ends in ".gz".
    prefix: place of the items.

  Raises:
    RawDataError: the file is truncated or not JSON; says after how many items.
  """
  index = 0
  try:
    with open(path, "rb") as raw:
      file = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
      for item in ijson.items(_StrictJson(file), prefix, use_float=True):
        yield item
        index += 1
  except (ijson.JSONError, EOFError, zlib.error, OSError) as error:
    raise base.RawDataError(
      f"{path} cannot be read as JSON after {index} items at {prefix!r}: "
      f"{str(error).strip() or type(error).__name__}. It may be truncated; download "
      "it again."
    ) from error


def first(path: pathlib.Path, prefix: str) -> Any:
  """The first thing at `prefix`; reads no further.

  Raises:
    RawDataError: there is none or the file is damaged.
  """
  for item in items(path, prefix):
    return item
  raise base.RawDataError(f"{path} has nothing at {prefix!r}.")
