"""Reads LMDB files of pickled records, as Open Catalyst releases them."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import pathlib
from typing import Any

import lmdb
import numpy as np

from data.conversion import base
from data.formats import pickled
from jmp_hk import structure as structure_lib

RECORDS_PER_UNIT = 5000
_ENERGY_KEYS = ("y", "energy")
_FORCES_KEYS = ("force", "forces")


@contextlib.contextmanager
def open_lmdb(path: pathlib.Path) -> Iterator[lmdb.Transaction]:
  """A read transaction on an LMDB file.

  Raises:
    RawDataError: the file is no LMDB file or is truncated.
  """
  try:
    environment = lmdb.open(
      str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False
    )
  except lmdb.Error as error:
    raise base.RawDataError(f"{path} is not a readable LMDB file: {error}.") from error
  with contextlib.closing(environment):
    # The file is memory-mapped: reading past its end would kill the process.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = _data_file(path).stat().st_size
    if size < needed:
      raise base.RawDataError(
        f"{path} is truncated: expected {needed} bytes, found {size}."
      )
    try:
      with environment.begin() as transaction:
        yield transaction
    except lmdb.Error as error:
      raise base.RawDataError(f"{path} is corrupt: {error}.") from error


def count_records(path: pathlib.Path) -> int:
  """Number of records: the value of `length`, or the number of integer keys."""
  with open_lmdb(path) as transaction:
    stored = transaction.get(b"length")
    if stored is None:
      keys = transaction.cursor().iternext(keys=True, values=False)
      return sum(1 for key in keys if bytes(key).isdigit())
    try:
      count = pickled.load(bytes(stored))
    except pickled.PickleError as error:
      raise base.RawDataError(f"{path}: the key 'length' is {error}.") from error
    if not isinstance(count, (int, np.integer)) or count < 0:
      raise base.RawDataError(f"{path}: expected a count in 'length', found {count!r}.")
    return int(count)


def has_labels(path: pathlib.Path) -> bool:
  """Whether the first record has energy and forces, or cannot be read."""
  with open_lmdb(path) as transaction:
    value = transaction.get(b"0")
    if value is None:
      return True
    try:
      record = pickled.load_record(bytes(value))
    except (pickled.PickleError, KeyError, ValueError, TypeError):
      return True
  return all(
    any(record.get(name) is not None for name in names)
    for names in (_ENERGY_KEYS, _FORCES_KEYS)
  )


def units(
  converter: base.Converter, split: str, paths: Sequence[pathlib.Path]
) -> list[base.Unit]:
  """Makes units of at most `RECORDS_PER_UNIT` records; payloads are (start, stop)."""
  result = []
  for path in paths:
    name = converter.relative(path)
    count = count_records(path)
    for start in range(0, count, RECORDS_PER_UNIT):
      stop = min(start + RECORDS_PER_UNIT, count)
      files = (converter.relative(_data_file(path)),)
      unit_name = f"{name}:{start}-{stop}"
      unit = base.Unit(split, unit_name, files, [start, stop], records=stop - start)
      result.append(unit)
  return result


def read(path: pathlib.Path, name: str, start: int, stop: int) -> Iterator[base.Item]:
  """Yields the structures of the records with keys start to stop − 1."""
  with open_lmdb(path) as transaction:
    for index in range(start, stop):
      record_id = f"{name}:{index}"
      value = transaction.get(str(index).encode("ascii"))
      if value is None:
        yield base.Invalid(record_id, "expected a record under this key, found none")
        continue
      try:
        yield to_structure(pickled.load_record(bytes(value)), record_id)
      except (pickled.PickleError, KeyError, ValueError, TypeError) as error:
        yield base.Invalid(record_id, str(error))


def to_structure(record: Mapping[str, Any], record_id: str) -> structure_lib.Structure:
  """A structure from the attributes of an Open Catalyst record.

  Args:
    record: pos, cell, atomic_numbers, tags, fixed, y or energy (total, eV), force or
      forces (eV/Å), as arrays.
    record_id: file and key, for messages.

  Raises:
    ValueError: an attribute is missing or has the wrong size.
  """
  numbers = _get(record, "atomic_numbers").reshape(-1)
  rounded = np.rint(numbers)
  if not np.array_equal(numbers, rounded):
    raise ValueError("expected whole atomic numbers, found fractions")
  energy = _get(record, *_ENERGY_KEYS).reshape(-1)
  cell = _get(record, "cell")
  if energy.size != 1 or cell.size != 9:
    raise ValueError(
      f"expected one energy and nine cell entries, found {energy.size}, {cell.size}"
    )
  sid, fid = record.get("sid"), record.get("fid")
  known = "" if sid is None else f":sid{_text(sid)},fid{_text(fid)}"
  return structure_lib.Structure(
    positions=_get(record, "pos"),
    atomic_numbers=rounded.astype(np.int32),
    cell=cell.reshape(3, 3),
    pbc=np.reshape(record.get("pbc", np.ones(3)), -1).astype(bool),
    tags=_get(record, "tags").astype(np.int32),
    fixed=_get(record, "fixed").astype(bool),
    energy=float(energy[0]),
    forces=_get(record, *_FORCES_KEYS),
    record_id=record_id + known,
  )


def _get(record: Mapping[str, Any], *names: str) -> np.ndarray:
  for name in names:
    if record.get(name) is not None:
      return np.asarray(record[name])
  raise ValueError(f"expected the key {' or '.join(names)}, found {sorted(record)}")


def _text(value: object) -> str:
  return str(np.asarray(value).reshape(-1)[0]) if value is not None else "?"


def _data_file(path: pathlib.Path) -> pathlib.Path:
  return path / "data.mdb" if path.is_dir() else path
