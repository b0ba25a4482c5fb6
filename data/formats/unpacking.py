"""Unpacks archives whose files have to be entered in the middle, once.

Only members that are asked for are written, and none that is a link or a device, or
whose name leads out of the folder.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import stat
import tarfile
import typing
from typing import IO
from typing import Any
import zipfile

import tqdm

from data.conversion import base
from data.formats import archives
from data.formats import expansion
from jmp_hk import files

SUFFIX = ".unpacked"
_UNFINISHED = ".part"
_IDENTITY = ".archive.json"  # Which archive the files of a folder come from.
_LOCK = ".lock"
_CHUNK_BYTES = 1 << 20
_EDGE_BYTES = 1 << 16


def unpacked(
  archive: pathlib.Path,
  output: pathlib.Path,
  wanted: Callable[[str], bool],
  progress: bool = True,
) -> pathlib.Path:
  """A folder beside `output` with the wanted files of an archive.

  The folder has its name when everything is there. Unpacking that was stopped goes on
  with what is missing, and a folder that is there is used again.

  Args:
    archive: a tar or zip file. Archives inside it are unpacked as well.
    output: directory of the converted dataset.
    wanted: which members to write, by their path in the archive.
    progress: whether to show a progress bar.

  Raises:
    RawDataError: the archive is damaged, holds nothing that is wanted, or wanted
      members that may not be written.
    PlanError: the disk is too small, or the folder holds files of another archive.
  """
  folder = folder_of(archive, output)
  identity = _identity(archive)
  while not folder.exists():
    unfinished = folder.with_name(folder.name + _UNFINISHED)
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
      lock = open(unfinished / _LOCK, "w")  # noqa: SIM115
    except FileNotFoundError:  # Another process has just renamed it.
      continue
    with lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not folder.exists() and unfinished.exists():
        _continue(archive, unfinished, identity, wanted, progress)
        os.replace(unfinished, folder)
  if _stored_identity(folder) != identity:
    raise base.PlanError(
      f"{folder} does not hold the files of {archive}, but of another archive of that "
      "name. Delete the folder, or choose an --output elsewhere."
    )
  return folder


def folder_of(archive: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
  """Where the files of an archive are, or will be, beside a converted dataset."""
  return output.absolute().parent / f"{archive.name}{SUFFIX}"


def _continue(
  archive: pathlib.Path,
  folder: pathlib.Path,
  identity: dict[str, Any],
  wanted: Callable[[str], bool],
  progress: bool,
) -> None:
  """Writes the wanted members that an unfinished folder lacks."""
  if _stored_identity(folder) != identity:
    for path in folder.iterdir():
      if path.is_dir():
        shutil.rmtree(path)
      elif path.name != _LOCK:
        path.unlink()
    files.write_atomically(folder / _IDENTITY, json.dumps(identity))
  files.remove_unfinished(folder)
  written: set[str] = set()
  with _opened(archive, progress) as file:
    for entry in _walk(archive, file):
      if wanted(entry.name):
        _write(archive, entry, folder, written)
  if not written:
    raise base.RawDataError(
      f"{archive} holds none of the files that are expected in it; take the archive "
      "that docs/data.md names."
    )


@dataclasses.dataclass(frozen=True)
class _Entry:
  """A member of an archive that is read from front to back.

  Attributes:
    name: its path.
    size: its bytes, as the archive states it.
    special: "a link", "a device", … or "" for a file.
    open: opens it, before the next entry is asked for.
  """

  name: str
  size: int
  special: str
  open: Callable[[], IO[bytes]]


def _walk(
  archive: pathlib.Path, file: IO[bytes], name: str = "", depth: int = 0
) -> Iterator[_Entry]:
  """Yields the members of an archive and of the archives in it, without folders."""
  last = ""
  try:
    for entry in _entries(file, name or archive.name):
      last = entry.name
      if (
        archives.is_archive(entry.name)
        and not entry.special
        and depth < archives.MAX_DEPTH
      ):
        with entry.open() as inner:
          yield from _walk(archive, inner, entry.name, depth + 1)
      else:
        yield entry
  except base.RawDataError:
    raise
  except archives.UNREADABLE as error:
    raise archives.unreadable(archive, last, error) from error


def _entries(file: IO[bytes], name: str) -> Iterator[_Entry]:
  if name.lower().endswith(".zip"):
    with zipfile.ZipFile(file) as archive:
      archives.check_zip(name, archive)
      for info in archive.infolist():
        mode = info.external_attr >> 16
        special = "a link" if stat.S_ISLNK(mode) else ""
        if not info.is_dir():
          open_entry = lambda info=info: archive.open(info)
          yield _Entry(info.filename, info.file_size, special, open_entry)
    return
  content = expansion.open_stream(file, name)
  with tarfile.open(
    fileobj=content, mode="r|", bufsize=_CHUNK_BYTES, tarinfo=archives.TarHeader
  ) as tar:
    for member in tar:
      special = "" if member.isreg() and not member.issparse() else "no plain file"
      if member.issym() or member.islnk():
        special = "a link"
      if not member.isdir():
        open_entry = lambda member=member: tar.extractfile(member)
        yield _Entry(member.name, member.size, special, open_entry)  # pyright: ignore[reportArgumentType]
      tar.members = []  # pyright: ignore[reportAttributeAccessIssue] # Or they pile up.
  expansion.drain(content)


def _write(
  archive: pathlib.Path, entry: _Entry, folder: pathlib.Path, written: set[str]
) -> None:
  """Writes one member, unless it is there already."""
  path = pathlib.PurePosixPath(entry.name)
  problem = ""
  if entry.special:
    problem = f"is {entry.special}"
  elif path.is_absolute() or ".." in path.parts or "\\" in entry.name:
    problem = "leads out of the folder"
  elif path.as_posix() in written:
    problem = "is there twice"
  if problem:
    raise base.RawDataError(
      f"{archive} is refused: its member {entry.name!r} {problem}. Take the archive "
      "from its publisher."
    )
  written.add(path.as_posix())
  target = folder / path
  if target.is_file() and target.stat().st_size == entry.size:
    return
  free = shutil.disk_usage(folder).free
  if entry.size > free:
    raise base.PlanError(
      f"Unpacking {entry.name} of {archive} takes {entry.size} bytes, and the disk of "
      f"{folder.parent} has {free} left. Make room or choose an --output elsewhere."
    )
  target.parent.mkdir(parents=True, exist_ok=True)
  with files.open_atomically(target) as out:
    for chunk in _chunks(archive, entry):
      out.write(chunk)


def _chunks(archive: pathlib.Path, entry: _Entry) -> Iterator[bytes]:
  """The bytes of a member: as many as the archive states, or an error."""
  left = entry.size
  try:
    with entry.open() as source:
      while chunk := source.read(_CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
          break
        yield chunk
  except archives.UNREADABLE as error:
    raise archives.unreadable(archive, entry.name, error) from error
  if left:
    raise base.RawDataError(
      f"{archive}: the member {entry.name} does not have the {entry.size} bytes that "
      "the archive states."
    )


@contextlib.contextmanager
def _opened(archive: pathlib.Path, progress: bool) -> Iterator[IO[bytes]]:
  """An archive whose reading moves a bar."""
  with (
    open(archive, "rb") as file,
    tqdm.tqdm.wrapattr(
      file,
      "read",
      total=archive.stat().st_size,
      desc=f"unpacking {archive.name}",
      disable=not progress,
      dynamic_ncols=True,
    ) as counted,
  ):
    yield typing.cast(IO[bytes], counted)


def _identity(archive: pathlib.Path) -> dict[str, Any]:
  """Name, size and a digest of both ends of an archive."""
  size = archive.stat().st_size
  with open(archive, "rb") as file:
    edges = file.read(_EDGE_BYTES)
    file.seek(max(0, size - _EDGE_BYTES))
    edges += file.read(_EDGE_BYTES)
  digest = hashlib.sha256(edges).hexdigest()
  return {"name": archive.name, "bytes": size, "sha256 of its ends": digest}


def _stored_identity(folder: pathlib.Path) -> Any:
  try:
    return json.loads((folder / _IDENTITY).read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return None
