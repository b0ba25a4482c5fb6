"""Files of structures with their predictions: extxyz, CSV, ASE's database."""

from collections.abc import Iterator
from collections.abc import Sequence
import csv
import os
import pathlib
from typing import Any

import ase
import ase.db
from ase.db import core as db_core
import ase.io
import numpy as np

from jmp_hk import ase_labels
from jmp_hk import files

PREFIX = "jmp_"  # Begins the names of predictions.
SUFFIXES = (".extxyz", ".xyz", ".csv", ".db")

_GEOMETRY = ("numbers", "positions")  # Arrays that every structure has.
# Arrays that ASE's database has a place for.
_KNOWN = (
  *_GEOMETRY,
  "tags",
  "momenta",
  "masses",
  "initial_magmoms",
  "initial_charges",
)


def write(path: str | os.PathLike[str], structures: Sequence[ase.Atoms]) -> None:
  """Writes structures with their predictions; the file appears whole or not at all.

  Args:
    path: ends in `.extxyz` or `.xyz`, which hold everything; `.csv`, with one row a
      structure and the largest of its forces instead of all; or `.db`, ASE's database,
      with numbers as key-value pairs and arrays as data.
    structures: structures with predictions, see `annotation.annotate`.

  Raises:
    ValueError: the file ends otherwise.
  """
  path = pathlib.Path(path)
  if path.suffix not in SUFFIXES:
    raise ValueError(
      f"{path} must end in .extxyz (or .xyz), .csv or .db, which says how predictions "
      "are stored."
    )
  if path.suffix == ".csv":
    write_csv(path, structures)
  elif path.suffix == ".db":
    _write_db(path, structures)
  else:
    with files.open_atomically(path, "w") as file:
      ase.io.write(file, structures, format="extxyz")


def write_csv(path: str | os.PathLike[str], structures: Sequence[ase.Atoms]) -> None:
  """Writes a table with one row a structure.

  It has everything that is one number or text for a structure, lists of numbers as
  `NAME_0`, `NAME_1`, …; of vectors of atoms the largest norm as `NAME_max`, and of
  errors of atoms the mean absolute one as `NAME_mae`.
  """
  rows = [_row(index, atoms) for index, atoms in enumerate(structures)]
  names = dict.fromkeys(name for row in rows for name in row)
  with files.open_atomically(path, "w") as file:
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def read_db(path: str | os.PathLike[str], index: str = ":") -> Iterator[ase.Atoms]:
  """Yields structures of ASE's database with key-value pairs and data in their info.

  `ase.io.read` leaves both out.

  Args:
    path: the database.
    index: a query of the database, or which of its rows, as ASE writes it.
  """
  database: Any = ase.db.connect(path, type="db")
  try:
    rows = slice(*(int(part) if part else None for part in index.split(":")))
  except ValueError:
    found = list(database.select(index))
  else:
    every = list(database.select())
    found = every[rows] if ":" in index else [every[int(index)]]
  for row in found:
    atoms = row.toatoms()
    atoms.info.update(row.data)
    atoms.info.update(row.key_value_pairs)
    for name, value in list(atoms.info.items()):  # As before they were stored here.
      if np.shape(value) == (len(atoms), 3) and name not in atoms.arrays:
        atoms.arrays[name] = np.asarray(atoms.info.pop(name))
    yield atoms


def _row(index: int, atoms: ase.Atoms) -> dict[str, Any]:
  """A structure as a row of a table."""
  row: dict[str, Any] = {
    "structure": index,
    "formula": atoms.get_chemical_formula(),
    "num_atoms": len(atoms),
  }
  for name, value in {
    **ase_labels.results(atoms),
    **atoms.info,
    **atoms.arrays,
  }.items():
    value = np.asarray(value)
    if name in _GEOMETRY:
      continue
    if value.ndim == 0:
      row[name] = value.item()
    elif name in atoms.arrays and name.endswith("_error"):
      row[f"{name.removesuffix('_error')}_mae"] = float(np.abs(value).mean())
    elif value.shape == (len(atoms), 3):
      norms = np.linalg.norm(value.astype(float), axis=1)
      row[f"{name}_max"] = float(norms.max(initial=0.0))
    elif value.ndim == 1 and (name in atoms.info or name == "stress"):
      row |= {f"{name}_{i}": entry for i, entry in enumerate(value.tolist())}
  return row


def _write_db(path: pathlib.Path, structures: Sequence[ase.Atoms]) -> None:
  """Writes ASE's database; a file of that name is replaced."""
  with files.named_atomically(path) as temporary:
    database: Any = ase.db.connect(temporary, type="db", use_lock_file=False)
    with database:
      for atoms in structures:
        pairs = {k: v for k, v in atoms.info.items() if _is_pair(k, v)}
        data = {k: v for k, v in atoms.info.items() if k not in pairs}
        data |= {k: v for k, v in atoms.arrays.items() if k not in _KNOWN}
        database.write(atoms, key_value_pairs=pairs, data=data)


def _is_pair(name: str, value: Any) -> bool:
  """Whether ASE's database takes something as a key-value pair."""
  try:
    db_core.check({name: value})
  except ValueError:
    return False
  return True
