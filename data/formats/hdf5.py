"""Helpers for HDF5 releases: one group per molecule or reaction, frames inside."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

import h5py
import numpy as np

from data.conversion import base

FRAMES_PER_UNIT = 20_000
# Directions of a dataset; those of the releases have up to three.
MAX_RANK = 8
# Bytes that one stored byte may become, as in `expansion`.
MAX_EXPANSION = 200
_SMALL = 1 << 28  # Bytes that any dataset may have.


@contextlib.contextmanager
def open_hdf5(path: pathlib.Path) -> Iterator[h5py.File]:
  """Opens an HDF5 file for reading.

  Raises:
    RawDataError: it is no HDF5 file, or it is truncated or corrupt.
  """
  try:
    with h5py.File(path, "r", locking="best-effort") as file:
      yield file
  except (OSError, RuntimeError) as error:
    raise base.RawDataError(
      f"{path} cannot be read as HDF5, perhaps it is truncated: {error}."
    ) from error


def group(parent: h5py.Group, key: str) -> h5py.Group:
  """A group inside another one.

  Raises:
    RawDataError: the group has no group of that name.
  """
  value = _member(parent, key)
  if not isinstance(value, h5py.Group):
    raise base.RawDataError(
      f"{parent.file.filename}{parent.name}: expected a group {key!r}, found "
      f"{sorted(parent)}."
    )
  return value


def dataset(group: h5py.Group, key: str) -> h5py.Dataset:
  """A dataset of a group.

  Raises:
    RawDataError: the group has no dataset of that name.
  """
  value = _member(group, key)
  if not isinstance(value, h5py.Dataset):
    raise base.RawDataError(
      f"{group.file.filename}{group.name}: expected the key {key!r}, found "
      f"{sorted(group)}."
    )
  _check_dataset(value)
  return value


def _member(group: h5py.Group, key: str) -> Any:
  """What a group holds, in the file itself.

  Raises:
    RawDataError: it lies in another file.
  """
  value: Any = group
  try:
    for part in filter(None, key.split("/")):
      if not isinstance(value, h5py.Group):
        return None
      link = value.get(part, getlink=True)
      if isinstance(link, h5py.ExternalLink):
        raise base.RawDataError(
          f"{group.file.filename}{group.name}: {key!r} refers to another file, "
          f"{link.filename!r}, which is not read; take the file from its publisher."
        )
      value = value.get(part)
    return value
  except (OSError, RuntimeError, KeyError) as error:
    raise base.RawDataError(
      f"{group.file.filename}{group.name}: {key!r} cannot be read: {error}."
    ) from error


def _check_dataset(dataset: h5py.Dataset) -> None:
  """Checks where the values of a dataset lie, and how many bytes they become.

  Raises:
    RawDataError: they lie in another file, are no numbers or texts, or are many times
      larger than what the file holds of them.
  """
  name = f"{dataset.file.filename}{dataset.name}"
  if dataset.external or dataset.is_virtual:
    raise base.RawDataError(
      f"{name} keeps its values in another file, which is not read; take the file from "
      "its publisher."
    )
  if dataset.shape is None or len(dataset.shape) > MAX_RANK:
    raise base.RawDataError(
      f"{name}: expected up to {MAX_RANK} directions, found shape {dataset.shape}."
    )
  try:
    num_bytes = dataset.nbytes
  except (TypeError, ValueError) as error:  # Such as a float of 3 bits.
    raise base.RawDataError(
      f"{name}: expected numbers or texts, found values of a kind that cannot be read: "
      f"{error}."
    ) from error
  stored = dataset.id.get_storage_size()
  if num_bytes > _SMALL + MAX_EXPANSION * stored:
    raise base.RawDataError(
      f"{name} is refused: {stored} bytes become {num_bytes}, more than "
      f"{MAX_EXPANSION} times as many."
    )


def frames(
  group: h5py.Group, atoms: str, per_frame: Mapping[str, int], start: int, stop: int
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Atomic numbers and some datasets of the frames start to stop − 1.

  Args:
    group: the group of a molecule.
    atoms: key of the atomic numbers, [n].
    per_frame: keys of the datasets, whose first direction are the frames, with their
      numbers of directions.
    start: the first frame.
    stop: the first frame that is not read any more.

  Raises:
    RawDataError: a key is missing, or the numbers of frames or atoms disagree.
  """
  atomic_numbers = numbers(group, atoms, 1)[()]
  values = []
  for key, rank in per_frame.items():
    stored = numbers(group, key, rank)
    if stored.shape[0] < stop:
      raise base.RawDataError(
        f"{group.file.filename}{group.name}: expected at least {stop} frames in "
        f"{key!r}, found shape {stored.shape}."
      )
    values.append(stored[start:stop])
  return atomic_numbers, values


def numbers(group: h5py.Group, key: str, rank: int) -> h5py.Dataset:
  """A dataset of numbers.

  Args:
    group: the group that holds it.
    key: its name.
    rank: number of its directions.

  Raises:
    RawDataError: there is none, or it holds something else.
  """
  found = dataset(group, key)
  if found.dtype.kind not in "iuf" or len(found.shape) != rank:
    raise base.RawDataError(
      f"{group.file.filename}{group.name}: expected numbers in {rank} directions as "
      f"{key!r}, found {found.dtype} of shape {found.shape}."
    )
  return found


def text(group: h5py.Group, key: str) -> str:
  """The first text of a dataset.

  Raises:
    RawDataError: there is none.
  """
  found = dataset(group, key)
  if h5py.check_string_dtype(found.dtype) is None or len(found.shape) != 1:
    raise base.RawDataError(
      f"{group.file.filename}{group.name}: expected a list of texts as {key!r}, found "
      f"{found.dtype} of shape {found.shape}."
    )
  if not len(found):
    raise base.RawDataError(
      f"{group.file.filename}{group.name}: expected a text as {key!r}, found none."
    )
  return str(found.asstr(errors="replace")[0])


def pack_units(
  split: str, file: str, groups: Sequence[tuple[str, int]], size: int = 0
) -> list[base.Unit]:
  """Fills units with consecutive groups, cutting large groups.

  Args:
    split: name of the split.
    file: the HDF5 file, relative to the converter's root.
    groups: (path of the group, number of its frames).
    size: frames per unit, by default `FRAMES_PER_UNIT`.

  Returns:
    Units whose payload is a list of [path, start, stop].
  """
  size = size or FRAMES_PER_UNIT
  parts: list[list[list]] = [[]]
  room = size
  for path, count in groups:
    start = 0
    while start < count:
      stop = min(count, start + room)
      parts[-1].append([path, start, stop])
      room -= stop - start
      start = stop
      if room == 0:
        parts.append([])
        room = size
  return [
    base.Unit(
      split,
      f"{file}[{split} part {i}]",
      (file,),
      part,
      records=sum(stop - start for _, start, stop in part),
    )
    for i, part in enumerate(parts)
    if part
  ]
