"""Shuffled splits as the fine-tuning benchmarks publish them."""

from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np

from data.conversion import base

SEED = 42


def check_disjoint(units: Iterable[base.Unit]) -> None:
  """Checks that no record is in two splits.

  Records are compared where units list them, for files that several splits read.

  Args:
    units: all units of a converter.

  Raises:
    PlanError: a record is in two splits.
  """
  owners: dict[tuple[Hashable, ...], str] = {}
  for unit in units:
    for record in _records(unit):
      owner = owners.setdefault(record, unit.split)
      if owner != unit.split:
        raise base.PlanError(
          f"Record {record[-1]!r} of {record[0]} would be in the splits {owner!r} and "
          f"{unit.split!r}: splits must not have records in common."
        )


def _records(unit: base.Unit) -> Iterator[tuple[Hashable, ...]]:
  """The records that a unit lists, with their file; whole files as one record."""
  if isinstance(unit.payload, dict):
    parts = unit.payload
  else:
    parts = {" and ".join(unit.files): unit.payload}
  for name, part in parts.items():
    if part is None and unit.files:
      yield name, "all"
    elif isinstance(part, list):
      for item in part:
        yield name, tuple(item) if isinstance(item, list) else item


def shuffled(count: int, seed: int = SEED) -> np.ndarray:
  """The numbers 0 … count − 1 shuffled as in every fine-tuning split of JMP."""
  order = np.arange(count)
  np.random.RandomState(seed).shuffle(order)
  return order


def cut(order: np.ndarray, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
  """Cuts `order` into consecutive pieces, named and sized by `sizes`.

  Rounding can leave no record for a split of a very small source; it is then missing.

  Raises:
    PlanError: there is no training record, or the sizes do not add up.
  """
  counts = list(sizes.values())
  if sizes[base.TRAIN] < 1 or min(counts) < 0 or sum(counts) != len(order):
    described = " + ".join(f"{size} {name}" for name, size in sizes.items())
    raise base.PlanError(
      f"Cannot split {len(order)} records into {described}: together they must be "
      "all records, and training needs at least one."
    )
  pieces = np.split(order, np.cumsum(counts)[:-1])
  return {name: piece for name, piece in zip(sizes, pieces, strict=True) if len(piece)}


def rest_is_test(count: int, train_size: int, val_size: int) -> dict[str, np.ndarray]:
  """JMP's split of trajectories: shuffled, and tested on all that is left over.

  Args:
    count: number of frames.
    train_size: number of training frames, which come first.
    val_size: number of validation frames, which come next.

  Raises:
    PlanError: nothing would be left for testing.
  """
  if count <= train_size + val_size:
    raise base.PlanError(
      f"{count} frames are too few for {train_size} training and {val_size} "
      "validation frames and at least one test frame; give --train_size and "
      "--val_size."
    )
  sizes = {"train": train_size, "val": val_size, "test": count - train_size - val_size}
  return cut(shuffled(count), sizes)


def eighty_ten_ten(count: int) -> dict[str, np.ndarray]:
  """JMP's split of QMOF and SPICE: shuffled, int(0.8 n), the rest, int(0.1 n).

  Args:
    count: number of records.

  Returns:
    Indices of the records for training, validation and testing.
  """
  train, test = int(count * 0.8), int(count * 0.1)
  sizes = {"train": train, "val": count - train - test, "test": test}
  return cut(shuffled(count), sizes)


def units(
  splits: Mapping[str, np.ndarray], files: tuple[str, ...], size: int, name: str
) -> list[base.Unit]:
  """Makes units of sources that are read from front to back.

  Every unit is a random subset of its split, as the published order is, but lists its
  records in the order of the file, so that one pass finds them.

  Args:
    splits: split → indices of its records.
    files: raw files that every unit reads, relative to the converter's root.
    size: largest number of records of a unit.
    name: prefix of the units' names.
  """
  return [
    base.Unit(
      split,
      f"{name}[{split} part {start // size}]",
      files,
      sorted(map(int, indices[start : start + size])),
      records=len(indices[start : start + size]),
    )
    for split, indices in splits.items()
    for start in range(0, len(indices), size)
  ]
