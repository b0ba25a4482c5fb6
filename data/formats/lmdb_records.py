"""Reads LMDB files of pickled records, as Open Catalyst releases them."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from data.conversion import base
from data.formats import lmdb_file
from data.formats import pickled
from jmp_hk import structure as structure_lib
from jmp_hk.interop import inert

RECORDS_PER_UNIT = 5000
_MOST = 1_000_000  # Of whole numbers; the bounds of structures are tighter.
_SHOWN = 40  # Letters of an id, and keys in a message.
_ENERGY_KEYS = ("y", "energy")
_FORCES_KEYS = ("force", "forces")


def count_records(path: pathlib.Path) -> int:
  """Number of records: the value of `length`, or the number of integer keys."""
  with lmdb_file.LmdbFile(path) as file:
    stored = file.get(b"length")
    if stored is None:
      return sum(1 for key in file.keys() if key.isdigit())  # noqa: SIM118
    try:
      count = pickled.load(stored)
    except pickled.PickleError as error:
      raise base.RawDataError(f"{path}: the key 'length': {error}.") from error
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < 0:
      raise base.RawDataError(
        f"{path}: expected a count in 'length', found {inert.describe(count)}."
      )
    if count > file.most_entries:
      raise base.RawDataError(
        f"{path}: expected at most {file.most_entries} records in a file of its size, "
        f"found 'length' {inert.describe(count)}."
      )
    return int(count)


def has_labels(path: pathlib.Path) -> bool:
  """Whether the first record has energy and forces, or cannot be read."""
  with lmdb_file.LmdbFile(path) as file:
    value = file.get(b"0")
    if value is None:
      return True
    try:
      record = pickled.load_record(value)
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
      files = (converter.relative(lmdb_file.data_file(path)),)
      unit_name = f"{name}:{start}-{stop}"
      unit = base.Unit(split, unit_name, files, [start, stop], records=stop - start)
      result.append(unit)
  return result


def read(path: pathlib.Path, name: str, start: int, stop: int) -> Iterator[base.Item]:
  """Yields the structures of the records with keys start to stop − 1."""
  with lmdb_file.LmdbFile(path) as file:
    for index in range(start, stop):
      record_id = f"{name}:{index}"
      value = file.get(str(index).encode("ascii"))
      if value is None:
        yield base.Invalid(record_id, "expected a record under this key, found none")
        continue
      try:
        yield to_structure(pickled.load_record(value), record_id)
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
  numbers = _whole(record, "atomic_numbers", "atomic numbers").reshape(-1)
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
    atomic_numbers=numbers,
    cell=cell.reshape(3, 3),
    pbc=_flags(pickled.as_numbers(record.get("pbc", [1, 1, 1])), "pbc").reshape(-1),
    tags=_whole(record, "tags", "tags"),
    fixed=_flags(_get(record, "fixed"), "fixed"),
    energy=float(energy[0]),
    forces=_get(record, *_FORCES_KEYS),
    record_id=record_id + known,
  )


def _get(record: Mapping[str, Any], *names: str) -> np.ndarray:
  for name in names:
    if record.get(name) is not None:
      try:
        return pickled.as_numbers(record[name])
      except pickled.PickleError as error:
        raise ValueError(f"the key {name}: {error}") from error
  found = sorted(name[:_SHOWN] for name in record)[:_SHOWN]
  raise ValueError(f"expected the key {' or '.join(names)}, found {found}")


def _whole(record: Mapping[str, Any], name: str, words: str) -> np.ndarray:
  """An attribute of whole numbers, int32."""
  values = _get(record, name)
  # Numbers that are not finite are not equal to themselves rounded, or too large.
  if not np.array_equal(values, np.rint(values)):
    raise ValueError(f"expected whole {words}, found fractions")
  if values.size and np.abs(values.astype(np.float64)).max() > _MOST:
    raise ValueError(f"expected {words} of at most {_MOST}, found larger ones")
  return values.astype(np.int32)


def _flags(values: np.ndarray, name: str) -> np.ndarray:
  """An attribute that is 0 or 1, as bool."""
  if not ((values == 0) | (values == 1)).all():
    raise ValueError(f"expected 0 or 1 in {name}, found other values")
  return values.astype(bool)


def _text(value: object) -> str:
  """An id in a message or the id of a record."""
  if isinstance(value, np.ndarray) and value.size:
    return str(value.reshape(-1)[0])
  if isinstance(value, (int, str, np.number)):
    return str(value)[:_SHOWN]
  return "?"
