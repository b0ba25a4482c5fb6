"""Tables of values beside their structures."""

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import pathlib

from jmp_hk import problems

SUFFIX = ".csv"
VALUE = "value"  # Column of a table without a header.
# Names of the column that identifies structures; else it is the first one.
_IDENTIFIERS = ("id", "identifier", "name", "structure", "file", "filename")
# Files of many structures, in which those of a table are looked for.
_COLLECTIONS = (".extxyz", ".xyz", ".traj", ".db", ".json")


class FileError(ValueError):
  """A file cannot be read, or does not hold what it should."""


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of values.

  Attributes:
    path: the CSV file.
    key: name of the column with the identifiers.
    rows: the values by identifier; those of empty cells are left out.
  """

  path: pathlib.Path
  key: str
  rows: Mapping[str, Mapping[str, float | str]]

  @classmethod
  def read(cls, path: pathlib.Path) -> "Table":
    """Reads a CSV file; a first row that has numbers after the first column is data.

    Raises:
      FileError: it is no table, or an identifier occurs twice.
    """
    try:
      with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file) if any(map(str.strip, line))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
      raise FileError(f"{path} cannot be read as a CSV table: {error}.") from error
    if not lines or len(lines[0]) < 2:
      raise FileError(
        f"{path} must be a CSV table of an identifier and values, separated by commas; "
        f"its first row is {lines[0] if lines else 'missing'}."
      )
    if all(map(_is_number, lines[0][1:])):
      count = len(lines[0]) - 1
      header = ["id", VALUE] if count == 1 else ["id", *map(str, range(1, count + 1))]
      first = 1
    else:
      header, first = [cell.strip() for cell in lines.pop(0)], 2
    named = [name for name in header if name.lower() in _IDENTIFIERS]
    key = named[0] if named else header[0]
    return cls(path, key, _rows(path, header, key, lines, first))

  def collection(self) -> pathlib.Path | None:
    """The one file that holds all structures; None where each has a file of its own.

    Raises:
      FileError: there are neither files of that name nor one of many structures.
    """
    others = self._others()
    if any(name in self.rows for file in others for name in (file.name, file.stem)):
      return None
    files = [file for file in others if file.suffix.lower() in _COLLECTIONS]
    if len(files) != 1:
      example = next(iter(self.rows))
      raise FileError(
        f"{self.path} needs its structures beside it: files that are called by the "
        f"identifiers, e.g. {example}.cif, or one file of structures whose info has "
        f"{self.key!r}. There is no {example}.*, and there are "
        f"{', '.join(file.name for file in files) or 'no'} files of structures."
      )
    return files[0]

  def files(self) -> dict[str, pathlib.Path]:
    """The file of every identifier.

    Raises:
      FileError: an identifier has none, or several.
    """
    found: dict[str, list[pathlib.Path]] = {name: [] for name in self.rows}
    for file in self._others():
      for name in {file.name, file.stem} & set(found):
        found[name].append(file)
    bad = [
      (
        name,
        f"expected one file of that name in {self.path.parent}, found "
        f"{' and '.join(file.name for file in files) or 'none'}",
      )
      for name, files in found.items()
      if len(files) != 1
    ]
    if bad:
      raise FileError(f"{self.path}: {problems.summarise(bad, len(self.rows))}")
    return {name: files[0] for name, files in found.items()}

  def _others(self) -> list[pathlib.Path]:
    """The files beside the table."""
    return sorted(
      file
      for file in self.path.parent.iterdir()
      if file.is_file() and file != self.path and not file.name.startswith(".")
    )


def _rows(
  path: pathlib.Path,
  header: Sequence[str],
  key: str,
  lines: Sequence[Sequence[str]],
  first: int,
) -> dict[str, dict[str, float | str]]:
  """Values by identifier; `first` is the number of the first line, for messages."""
  rows: dict[str, dict[str, float | str]] = {}
  bad: list[tuple[str, str]] = []
  for number, line in enumerate(lines, first):
    where = f"row {number}"
    if len(line) != len(header):
      bad.append((where, f"expected {len(header)} columns, found {len(line)}"))
      continue
    cells = dict(zip(header, map(str.strip, line), strict=True))
    name = cells.pop(key)
    if not name or name in rows:
      what = f"{name!r} occurs twice" if name else "it is empty"
      bad.append((where, f"expected a unique {key}, but {what}"))
    rows[name] = {
      column: float(cell) if _is_number(cell) else cell
      for column, cell in cells.items()
      if cell
    }
  if bad:
    raise FileError(f"{path}: {problems.summarise(bad, len(lines))}")
  if not rows:
    raise FileError(f"{path} has a header but no rows.")
  return rows


def _is_number(cell: str) -> bool:
  try:
    float(cell)
  except ValueError:
    return False
  return True
