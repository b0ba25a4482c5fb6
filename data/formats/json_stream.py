"""Items of arrays inside large JSON files, one at a time, plain or gzipped."""

from collections.abc import Iterator
import contextlib
import lzma
import pathlib
import re
from typing import IO
from typing import Any

import ijson
import numpy as np

from data.conversion import base
from data.formats import archives
from data.formats import expansion
from jmp_hk import zip_entries

_CHUNK_BYTES = 1 << 20
# What Python's json writes for missing numbers, which is not JSON.
_NOT_JSON = re.compile(rb"(?<=[:,\[\s])(?:NaN|-?Infinity)(?=\s*[,\]}])")
_LONGEST = len(b"-Infinity") + 64  # with white space around it


# Levels of lists and objects in each other. Those of the releases have up to ten; the
# parser takes memory that grows with their square.
MAX_DEPTH = 100
# Bytes of one item. Crystals have up to a million.
MAX_ITEM_BYTES = 1 << 28
_TWO_LETTERS = re.compile(rb"\\.", re.DOTALL)  # A backslash and what it is before.
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_UNREADABLE = (
  ijson.JSONError,
  lzma.LZMAError,
  *zip_entries.UNREADABLE,
)


class _StrictJson:
  """Replaces NaN and ±Infinity, which Python's json writes, by null.

  It also looks at how deep the text is nested, and how long an item is.

  Attributes:
    item_bytes: bytes since this was last set to zero.
  """

  def __init__(self, file: IO[bytes], name: str):
    self._file, self._name = file, name
    self._held = b""
    self._depth, self._in_text, self._cut = 0, False, b""
    self.item_bytes = 0

  def read(self, size: int = -1) -> bytes:
    """The next bytes, however many (none for 0, as readers probe); b"" at the end."""
    if size == 0:
      return b""
    while True:
      chunk = self._file.read(_CHUNK_BYTES)
      self._check(chunk)
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

  def _check(self, chunk: bytes) -> None:
    """Refuses what is nested too deep, or an item that does not end."""
    self.item_bytes += len(chunk)
    if self.item_bytes > MAX_ITEM_BYTES:
      raise base.RawDataError(
        f"{self._name} is refused: an item has more than {MAX_ITEM_BYTES} bytes."
      )
    text = self._cut + chunk
    # A backslash at the end belongs to the next letter.
    cut = (len(text) - len(text.rstrip(b"\\"))) % 2
    self._cut, text = text[len(text) - cut :], text[: len(text) - cut]
    if b"\\" in text:
      text = _TWO_LETTERS.sub(b"", text)
    # Texts without brackets leave two quotation marks side by side.
    parts = text.translate(None, _OTHERS).replace(b'""', b"").split(b'"')
    outside = b"".join(parts[self._in_text :: 2])
    self._in_text ^= len(parts) % 2 == 0
    if not outside:
      return
    brackets = np.frombuffer(outside, np.uint8)
    opens = (brackets == ord("[")) | (brackets == ord("{"))
    depth = self._depth + np.cumsum(np.where(opens, 1, -1))
    self._depth = int(depth[-1])
    if depth.max() > MAX_DEPTH:
      raise base.RawDataError(
        f"{self._name} is refused: expected lists and objects of at most {MAX_DEPTH} "
        "levels in each other, found more."
      )


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
      text = _StrictJson(file, str(path / member))
      for item in ijson.items(text, prefix, use_float=True):
        text.item_bytes = 0
        yield item
        index += 1
  except base.RawDataError:
    raise
  except _UNREADABLE as error:
    raise base.RawDataError(
      f"{path / member} cannot be read as JSON after {index} items at {prefix!r}: "
      f"{str(error).strip() or type(error).__name__}. It may be truncated; download "
      "it again."
    ) from error


def verify(path: pathlib.Path, member: str = "") -> None:
  """Reads a compressed file to its end once, so that its checksum is compared.

  Args:
    path: a file; nothing is read of one that is not compressed.
    member: name of the file inside the zip file `path`.

  Raises:
    RawDataError: it is damaged.
  """
  if not member and path.suffix != ".gz":
    return
  try:
    with _open(path, member) as file:
      expansion.drain(file)
  except _UNREADABLE as error:
    raise base.RawDataError(
      f"{path / member} is damaged: {str(error).strip() or type(error).__name__}. "
      "Download it again."
    ) from error


@contextlib.contextmanager
def _open(path: pathlib.Path, member: str) -> Iterator[IO[bytes]]:
  if member:
    with archives.open_in_zip(path, member) as file:
      yield file
    return
  with open(path, "rb") as raw:
    yield expansion.open_stream(raw, str(path))


def first(path: pathlib.Path, prefix: str) -> Any:
  """The first thing at `prefix`; reads no further.

  Raises:
    RawDataError: there is none or the file is damaged.
  """
  for item in items(path, prefix):
    return item
  raise base.RawDataError(f"{path} has nothing at {prefix!r}.")
