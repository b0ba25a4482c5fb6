"""Reads LMDB files page by page, with every address checked.

The usual library follows the addresses in a file without checking them, so that a
damaged or hostile file ends the process. Such a file is a tree of pages: two pages that
describe it, branches, leaves with keys and values, and further pages for long values.
"""

from collections.abc import Iterator
import mmap
import pathlib
import struct
from typing import NamedTuple
from typing import NoReturn

from data.conversion import base

# Levels of the tree. Each level has a hundred times as many pages as the one above.
MAX_LEVELS = 16
# Bytes of one value. Records of OC22 have 4,000 to 8,000.
MAX_VALUE_BYTES = 1 << 26
# Bytes of a page that the format allows.
_PAGE_SIZES = tuple(1 << power for power in range(8, 17))
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_LONG = 1  # Flag of a leaf's entry whose value lies in pages of its own.
_NO_PAGE = (1 << 64) - 1

_PAGE = struct.Struct("<QHHHH")  # number, padding, flags, ends of the free space
_ENTRY = struct.Struct("<HHHH")  # low and high size, flags, size of the key
# Magic, version, address, size of the map; the trees of free pages and of values, each
# with page size, flags, levels, pages of three kinds, entries and root; the last page;
# the number of the transaction.
_TREE = "IHHQQQQQ"
_DESCRIPTION = struct.Struct(f"<IIQQ{_TREE}{_TREE}QQ")


class _Page(NamedTuple):
  """A page of the tree.

  Attributes:
    start: where it begins in the file.
    is_leaf: whether it holds values instead of pages.
    pointers: where in the page its entries lie.
  """

  start: int
  is_leaf: bool
  pointers: tuple[int, ...]


class LmdbFile:
  """An open file, to be used as a context manager."""

  def __init__(self, path: pathlib.Path) -> None:
    """Opens a file.

    Args:
      path: the file, or a folder that holds it as `data.mdb`.

    Raises:
      RawDataError: it is no LMDB file, or is truncated.
    """
    self.path = path
    try:
      with open(data_file(path), "rb") as file:
        self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: it is empty.
      raise base.RawDataError(
        f"{path} is not a readable LMDB file: {error}."
      ) from error
    try:
      self._page_size, last, self._root = self._describe()
      needed, size = (last + 1) * self._page_size, len(self._data)
      if size < needed:
        raise base.RawDataError(
          f"{path} is truncated: expected {needed} bytes, found {size}."
        )
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> "LmdbFile":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file."""
    self._data.close()

  @property
  def most_entries(self) -> int:
    """The number of entries that a file of this size has at most."""
    return len(self._data) // (_ENTRY.size + 2)

  def get(self, key: bytes) -> bytes | None:
    """The value of a key; None where there is none.

    Raises:
      RawDataError: the file is damaged.
    """
    number = self._root
    for _ in range(MAX_LEVELS):
      if number == _NO_PAGE:
        return None
      page = self._page(number)
      index = self._last_not_above(page, key)
      if page.is_leaf:
        found = index >= 0 and self._entry(page, index)[0] == key
        return self._value(page, index) if found else None
      number = self._child(page, max(index, 0))
    self._damaged(f"its tree has more than {MAX_LEVELS} levels")

  def keys(self) -> Iterator[bytes]:
    """All keys in their order.

    Raises:
      RawDataError: the file is damaged.
    """
    waiting = [] if self._root == _NO_PAGE else [self._root]
    left = len(self._data) // self._page_size
    while waiting:
      left -= 1
      if left < 0 or len(waiting) > len(self._data):
        self._damaged("its tree has more pages than the file")
      page = self._page(waiting.pop())
      if page.is_leaf:
        for index in range(len(page.pointers)):
          yield self._entry(page, index)[0]
      else:
        children = [self._child(page, i) for i in range(len(page.pointers))]
        waiting += reversed(children)

  def _describe(self) -> tuple[int, int, int]:
    """Page size, last page and root, from the newer of the two descriptions."""
    first = self._description(0)
    if first is None:
      raise base.RawDataError(
        f"{self.path} is not a readable LMDB file: it does not begin as one."
      )
    page_size = first[4]
    if page_size not in _PAGE_SIZES:
      self._damaged(f"its pages have {page_size} bytes")
    second = self._description(page_size)
    newest = first if second is None or first[-1] >= second[-1] else second
    if newest[4] != page_size or newest[13] & ~0x8:
      # Flag 8 marks keys that are integers in the tree of free pages alone.
      self._damaged("it is of a kind that is not known")
    return page_size, newest[-2], newest[-3]

  def _description(self, start: int) -> tuple[int, ...] | None:
    """One of the pages that describe the file, or None."""
    end = start + _PAGE.size + _DESCRIPTION.size
    if end > len(self._data):
      return None
    fields = _DESCRIPTION.unpack_from(self._data, start + _PAGE.size)
    is_meta = _PAGE.unpack_from(self._data, start)[2] & _META
    return fields if is_meta and fields[:2] == (_MAGIC, _VERSION) else None

  def _page(self, number: int) -> _Page:
    """A branch or a leaf."""
    start = number * self._page_size
    if start + self._page_size > len(self._data):
      self._damaged(f"it refers to page {number}, which it does not have")
    found, _, flags, lower, upper = _PAGE.unpack_from(self._data, start)
    kind = flags & (_BRANCH | _LEAF | _OVERFLOW | _META)
    fits = _PAGE.size <= lower <= upper <= self._page_size
    if found != number or kind not in (_BRANCH, _LEAF) or not fits:
      self._damaged(f"page {number} is no part of a tree")
    count = (lower - _PAGE.size) // 2
    if not count:
      self._damaged(f"page {number} is empty")
    pointers = struct.unpack_from(f"<{count}H", self._data, start + _PAGE.size)
    return _Page(start, kind == _LEAF, pointers)

  def _entry(self, page: _Page, index: int) -> tuple[bytes, int, int, int]:
    """Key of an entry, where its value begins, size of the value, and flags."""
    pointer = page.pointers[index]
    begin = pointer + _ENTRY.size
    if begin > self._page_size:
      self._damaged("an entry lies outside of its page")
    low, high, flags, key_size = _ENTRY.unpack_from(self._data, page.start + pointer)
    if begin + key_size > self._page_size:
      self._damaged("a key lies outside of its page")
    key = self._data[page.start + begin : page.start + begin + key_size]
    return key, begin + key_size, low | high << 16, flags

  def _child(self, page: _Page, index: int) -> int:
    """The page that an entry of a branch refers to."""
    _, _, low, flags = self._entry(page, index)
    return low | flags << 32

  def _value(self, page: _Page, index: int) -> bytes:
    """The value of an entry of a leaf."""
    key, begin, size, flags = self._entry(page, index)
    if flags & ~_LONG or size > MAX_VALUE_BYTES:
      self._damaged(f"the value of the key {key!r} has {size} bytes or several parts")
    start, limit = page.start + begin, page.start + self._page_size
    if flags & _LONG:
      if start + 8 > limit:
        self._damaged(f"the value of the key {key!r} lies outside of its page")
      number = int.from_bytes(self._data[start : start + 8], "little")
      start, limit = number * self._page_size + _PAGE.size, len(self._data)
    if start + size > limit:
      self._damaged(f"the value of the key {key!r} lies outside of the file")
    return self._data[start : start + size]

  def _last_not_above(self, page: _Page, key: bytes) -> int:
    """The last entry whose key is not larger; in branches the first has none."""
    low, high = (0 if page.is_leaf else 1), len(page.pointers)
    while low < high:
      middle = (low + high) // 2
      if self._entry(page, middle)[0] <= key:
        low = middle + 1
      else:
        high = middle
    return low - 1

  def _damaged(self, problem: str) -> NoReturn:
    raise base.RawDataError(f"{self.path} is damaged: {problem}. Fetch it again.")


def data_file(path: pathlib.Path) -> pathlib.Path:
  """The file itself where LMDB keeps it in a folder."""
  return path / "data.mdb" if path.is_dir() else path
