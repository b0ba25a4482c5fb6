"""Helpers for HDF5 releases: one group per molecule or reaction, frames inside."""

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import pathlib

import h5py
import numpy as np

from data.conversion import base

FRAMES_PER_UNIT = 20_000


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
  value = parent.get(key)
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
  value = group.get(key)
  if not isinstance(value, h5py.Dataset):
    raise base.RawDataError(
      f"{group.file.filename}{group.name}: expected the key {key!r}, found "
      f"{sorted(group)}."
    )
  return value


def frames(
  group: h5py.Group, numbers: str, per_frame: Sequence[str], start: int, stop: int
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Atomic numbers and some datasets of the frames start to stop − 1.

  Raises:
    RawDataError: a key is missing, or the numbers of frames or atoms disagree.
  """
  atomic_numbers = dataset(group, numbers)[()]
  values = []
  for key in per_frame:
    stored = dataset(group, key)
    if len(stored.shape) == 0 or stored.shape[0] < stop:
      raise base.RawDataError(
        f"{group.file.filename}{group.name}: expected at least {stop} frames in "
        f"{key!r}, found shape {stored.shape}."
      )
    values.append(stored[start:stop])
  return atomic_numbers, values


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
