"""Structures with labels from files: whatever ASE reads, folders, and tables.

A table is a CSV file of an identifier and values. Its structures lie beside it, as
files that are called by the identifiers (`mp-149.cif`), or in one file whose structures
hold the identifier in `atoms.info`.
"""

from collections.abc import Iterator
import dataclasses
import logging
import os
import pathlib

import ase

from jmp_hk import ase_tables
from jmp_hk import problems

logger = logging.getLogger(__name__)

FileError = ase_tables.FileError

_DATABASES = (".db", ".json", ".aselmdb")


@dataclasses.dataclass(frozen=True)
class Frame:
  """One structure of a source.

  Attributes:
    name: file and position, for messages, e.g. "mine.extxyz:17".
    atoms: the structure; the values of a table are in `atoms.info`.
  """

  name: str
  atoms: ase.Atoms


def find(source: str | os.PathLike[str], pattern: str = "*") -> list[pathlib.Path]:
  """The files that hold the structures of a source, sorted.

  Args:
    source: a file; a folder; or a path with wildcards, e.g. "runs/*.xyz". A folder that
      holds one table stands for that table.
    pattern: files of a folder, at any depth. Hidden files are left out.

  Raises:
    FileError: there are none.
  """
  path = pathlib.Path(source)
  if path.is_file():
    return [path]
  if not path.exists() and set("*?[") & set(os.fspath(source)):
    parts = path.parts
    first = next(i for i, part in enumerate(parts) if set("*?[") & set(part))
    return find(pathlib.Path(*parts[:first]), "/".join(parts[first:]))
  if not path.exists():
    raise FileError(f"{path} does not exist.")
  files = sorted(
    file
    for file in path.rglob(pattern)
    if file.is_file()
    and not any(part.startswith(".") for part in file.relative_to(path).parts)
  )
  tables = [file for file in files if file.suffix.lower() == ase_tables.SUFFIX]
  if pattern == "*" and tables:
    if len(tables) > 1:
      names = ", ".join(str(table.relative_to(path)) for table in tables)
      raise FileError(f"{path} holds several tables ({names}): name one of them.")
    return tables
  if not files:
    raise FileError(f"{path} holds no file called {pattern}.")
  return files


def read(
  path: pathlib.Path, root: pathlib.Path | None = None, *, quiet: bool = False
) -> Iterator[Frame]:
  """Yields the structures of one file or table, in order.

  Args:
    path: a file that ASE reads, or a table.
    root: folder that names are relative to; by default that of the file.
    quiet: do not log how many structures beside a table have no row in it.

  Raises:
    FileError: the file cannot be read; says after how many structures.
  """
  name = path.relative_to(root or path.parent).as_posix()
  if path.suffix.lower() == ase_tables.SUFFIX:
    yield from _read_table(path, name, quiet=quiet)
    return
  for index, atoms in enumerate(_read(path)):
    yield Frame(f"{name}:{index}", atoms)


def read_all(source: str | os.PathLike[str]) -> list[Frame]:
  """All structures of a source, see `find`.

  Raises:
    FileError: there are none, or a file cannot be read.
  """
  root = pathlib.Path(source)
  frames = []
  for path in find(source):
    inside = root.is_dir() and path.is_relative_to(root)
    frames += read(path, root if inside else None)
  if not frames:
    raise FileError(f"{source} holds no structures.")
  return frames


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
  """All files that `read` opens, the given one first.

  Raises:
    FileError: structures of a table are missing.
  """
  if path.suffix.lower() != ase_tables.SUFFIX:
    return [path]
  table = ase_tables.Table.read(path)
  if collection := table.collection():
    return [path, collection]
  return [path, *table.files().values()]


def _read_table(path: pathlib.Path, name: str, *, quiet: bool) -> Iterator[Frame]:
  """Structures in the order of the rows, or of the file that holds them all."""
  table = ase_tables.Table.read(path)
  collection = table.collection()
  if collection is None:
    for identifier, file in table.files().items():
      found = list(_read(file))
      if len(found) != 1:
        raise FileError(f"{file} must hold one structure, but it holds {len(found)}.")
      found[0].info.update(table.rows[identifier])
      yield Frame(f"{name}:{identifier}", found[0])
    return
  left, unused = dict(table.rows), 0
  for atoms in _read(collection):
    identifier = _identifier(atoms, table.key)
    values = left.pop(identifier, None)
    if values is None:
      unused += 1
      continue
    atoms.info.update(values)
    yield Frame(f"{name}:{identifier}", atoms)
  if left:
    missing = [(key, f"{collection} has no structure of that name") for key in left]
    raise FileError(f"{path}: {problems.summarise(missing, len(table.rows))}")
  if unused and not quiet:
    logger.warning(
      "%d structures of %s have no row in %s and are not used.",
      unused,
      collection,
      path,
    )


def _identifier(atoms: ase.Atoms, key: str) -> str:
  """What a structure of a collection is called."""
  pairs = atoms.info.get("key_value_pairs", {})
  for place in (atoms.info, pairs):
    if key in place:
      return str(place[key])
  return ""


def _read(path: pathlib.Path) -> Iterator[ase.Atoms]:
  """The structures of one file.

  Raises:
    FileError: ASE fails.
  """
  count = 0
  try:
    for atoms in _open(path):
      yield atoms
      count += 1
  except GeneratorExit:
    raise
  except Exception as error:  # ASE's readers raise nearly anything.
    from ase.io import formats

    unknown = isinstance(error, formats.UnknownFileTypeError)
    raise FileError(
      f"{path}: ASE fails after {count} frames: {type(error).__name__}: {error}"
      + ("; name the files to read by a pattern, e.g. *.cif." if unknown else ".")
    ) from error


def _open(path: pathlib.Path) -> Iterator[ase.Atoms]:
  """Structures as ASE gives them, those of a database with its key-value pairs."""
  # They import much of SciPy, for which programs that read no such file need not wait.
  import ase.db
  import ase.io

  if path.suffix.lower() not in _DATABASES:
    yield from ase.io.iread(path, ":", do_not_split_by_at_sign=True)
    return
  for row in ase.db.connect(path).select():
    yield row.toatoms(add_additional_information=True)
