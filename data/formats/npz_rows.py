"""Rows of the arrays of an .npz file, read as a stream: memory stays the same."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import math
import pathlib
from typing import IO
import zipfile

import numpy as np

from data.conversion import base
from data.formats import archives
from data.formats import expansion
from jmp_hk import zip_entries

_CHUNK_BYTES = 4 << 20
# Directions of an array; those of the releases have up to three.
MAX_RANK = 8


@contextlib.contextmanager
def _errors(path: pathlib.Path) -> Iterator[None]:
  """Turns what a damaged file raises into one clear error."""
  try:
    yield
  except base.RawDataError:
    raise
  except zip_entries.UNREADABLE as error:
    raise base.RawDataError(
      f"{path} cannot be read as .npz: {error or type(error).__name__}. It may be "
      "truncated; download it again."
    ) from error


def _open_member(
  archive: zipfile.ZipFile, key: str, path: pathlib.Path
) -> tuple[IO[bytes], tuple[int, ...], np.dtype]:
  """Opens an array and reads its header: (file, shape, dtype)."""
  name = f"{key}.npy"
  if name not in archive.namelist():
    held = sorted(n.removesuffix(".npy") for n in archive.namelist())
    raise base.RawDataError(f"{path} has no array {key!r}; it has {held}.")
  archives.check_zip(str(path), archive)
  file = archive.open(name)
  version = np.lib.format.read_magic(file)
  read = (
    np.lib.format.read_array_header_1_0
    if version == (1, 0)
    else np.lib.format.read_array_header_2_0
  )
  shape, fortran_order, dtype = read(file)
  if (fortran_order and len(shape) > 1) or dtype.hasobject:
    raise base.RawDataError(f"{path}: array {key!r} is not a plain row-major array.")
  if dtype.kind not in "iuf" or len(shape) > MAX_RANK or min(shape, default=0) < 0:
    raise base.RawDataError(
      f"{path}: expected numbers of up to {MAX_RANK} directions as array {key!r}, "
      f"found {dtype} of shape {shape}."
    )
  held = archive.getinfo(name).file_size - file.tell()
  if math.prod(shape) * dtype.itemsize != held:
    raise base.RawDataError(
      f"{path}: array {key!r} is truncated or damaged: expected "
      f"{math.prod(shape) * dtype.itemsize} bytes for shape {shape}, found {held}."
    )
  return file, shape, dtype


def shapes(path: pathlib.Path, keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
  """Shapes of arrays, which are read once to compare their checksums.

  Raises:
    RawDataError: the file is unreadable or damaged, or lacks an array.
  """
  found = {}
  with _errors(path), zipfile.ZipFile(path) as archive:
    for key in keys:
      file, found[key], _ = _open_member(archive, key, path)
      with file:
        expansion.drain(file)
  return found


def array(path: pathlib.Path, key: str) -> np.ndarray:
  """One whole (small) array.

  Raises:
    RawDataError: the file is unreadable or lacks the array.
  """
  with _errors(path), zipfile.ZipFile(path) as archive:
    file, shape, dtype = _open_member(archive, key, path)
    with file:
      return _read(file, path, key, math.prod(shape), dtype).reshape(shape)


def rows(
  path: pathlib.Path, keys: Sequence[str], wanted: Sequence[int]
) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
  """Yields (index, key → row) of arrays that share their first dimension.

  Args:
    path: the .npz file.
    keys: arrays to read, side by side.
    wanted: ascending row indices.

  Raises:
    RawDataError: the file is unreadable, truncated or lacks an array.
  """
  if not len(wanted):
    return
  with _errors(path), zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
    members = {}
    for key in keys:
      file, shape, dtype = _open_member(archive, key, path)
      stack.enter_context(file)
      if wanted[-1] >= shape[0]:
        raise base.RawDataError(
          f"{path}: array {key!r} has {shape[0]} rows, row {wanted[-1]} is wanted."
        )
      members[key] = (file, shape[1:], dtype)
    row_bytes = max(math.prod(s) * d.itemsize for _, s, d in members.values())
    step = max(1, _CHUNK_BYTES // max(row_bytes, 1))
    next_wanted = 0
    for start in range(0, int(wanted[-1]) + 1, step):
      count = min(step, int(wanted[-1]) + 1 - start)
      chunk = {
        key: _read(file, path, key, count * math.prod(shape), dtype).reshape(
          count, *shape
        )
        for key, (file, shape, dtype) in members.items()
      }
      while next_wanted < len(wanted) and wanted[next_wanted] < start + count:
        index = int(wanted[next_wanted])
        yield index, {key: values[index - start] for key, values in chunk.items()}
        next_wanted += 1


def _read(
  file: IO[bytes], path: pathlib.Path, key: str, count: int, dtype: np.dtype
) -> np.ndarray:
  data = file.read(count * dtype.itemsize)
  if len(data) != count * dtype.itemsize:
    raise base.RawDataError(f"{path}: array {key!r} is truncated; download it again.")
  return np.frombuffer(data, dtype)
