"""Indices of shards: made while a shard is written, or by walking over one.

`index_file` says what an index holds and reads it.
"""

import array
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import logging
import pathlib

import google_crc32c
import numpy as np

from data.records import index_file
from data.records import schema
from data.records import shards

logger = logging.getLogger(__name__)

# Takes a record, the number of its atoms, and what its graphs need.
Append = Callable[[bytes, int, Sequence[int] | np.ndarray], None]


@contextlib.contextmanager
def indexed_writer(
  shard: pathlib.Path, key: str = "", fields: Sequence[str] = ()
) -> Iterator[Append]:
  """Like `shards.shard_writer`, with the index beside the shard.

  The index appears first, so that a shard that was written has one.

  Args:
    shard: the shard.
    key: key of the sizes that are given with each record, or "" for none.
    fields: their names.

  Yields:
    A function that appends a record, with its number of atoms and its sizes.
  """
  draft = _Draft()
  rows = array.array("i")
  with shards.shard_writer(shard) as write:

    def append(
      record: bytes, num_atoms: int, sizes: Sequence[int] | np.ndarray = ()
    ) -> None:
      footer = write(record)
      draft.add(draft.size, num_atoms, len(record), footer)
      rows.extend(map(int, sizes))

    yield append
    sizes = {key: index_file.table(fields, np.array(rows, np.int32))} if key else {}
    index_file.store(shard, draft.index(sizes))


def scan(shard: pathlib.Path) -> index_file.Index:
  """Makes the index of a shard by walking over its records; without sizes.

  Raises:
    RecordFileError: the shard is missing, truncated or corrupt.
  """
  draft = _Draft()
  for position, record, footer in shards.walk_shard(shard):
    try:
      num_atoms = schema.count_atoms(record)
    except schema.SchemaError as error:
      raise shards.RecordFileError(
        f"Shard {shard} is corrupt in record {len(draft.num_atoms)}: {error}"
      ) from error
    draft.add(position, num_atoms, len(record), footer)
  return draft.index({})


def open_index(shard: pathlib.Path) -> tuple[index_file.Index, bool]:
  """The index of a shard; it is made and stored where there is none that fits.

  Args:
    shard: the shard.

  Returns:
    The index, and whether it can be loaded again: not where nothing can be written.

  Raises:
    RecordFileError: the shard is missing, truncated or corrupt.
  """
  try:
    return index_file.load(shard), True
  except index_file.IndexFileError as error:
    return _make(shard, error)


def open_summary(
  shard: pathlib.Path,
) -> tuple[index_file.Summary, index_file.Index | None]:
  """Like `open_index`, but reads the description alone where there is one.

  Returns:
    The description; and the index if it cannot be loaded, because it was made and
    nothing can be written.
  """
  try:
    return index_file.load_summary(shard), None
  except index_file.IndexFileError as error:
    index, is_stored = _make(shard, error)
    return index_file.summarize(index), None if is_stored else index


def try_store(shard: pathlib.Path, index: index_file.Index) -> bool:
  """Writes the index of a shard where its folder allows it.

  Returns:
    Whether it was written.
  """
  try:
    index_file.store(shard, index)
  except OSError as error:
    logger.debug("The index of %s cannot be stored: %s.", shard, error)
    return False
  return True


def _make(
  shard: pathlib.Path, reason: index_file.IndexFileError
) -> tuple[index_file.Index, bool]:
  """Makes an index that is missing, see `open_index`."""
  level = logging.WARNING if index_file.path_of(shard).exists() else logging.DEBUG
  logger.log(level, "A new index of a shard is made: %s.", reason)
  index = scan(shard)
  return index, try_store(shard, index)


class _Draft:
  """Gathers what the index of a shard holds, record by record."""

  def __init__(self) -> None:
    self.size = 0
    self.num_atoms = array.array("i")
    self._offsets = array.array("q")
    self._checksum = 0
    self._last = b""

  def add(self, position: int, num_atoms: int, length: int, footer: bytes) -> None:
    """Adds the record of a length that begins at a position."""
    self._offsets.append(position)
    self.num_atoms.append(num_atoms)
    self._checksum = google_crc32c.extend(self._checksum, footer)
    self._last = footer
    self.size = position + shards.FRAME_BYTES + length

  def index(self, sizes: Mapping[str, index_file.Sizes]) -> index_file.Index:
    """The index of a shard that has these records."""
    return index_file.Index(
      offsets=np.array([*self._offsets, self.size], np.int64),
      num_atoms=np.array(self.num_atoms, np.int32),
      checksum=self._checksum,
      last=self._last.hex(),
      sizes=sizes,
    )
