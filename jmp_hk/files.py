"""Files that appear whole or not at all."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import tempfile
from typing import IO

# How the names of unfinished files end, for those who clear up after killed programs.
TEMPORARY_SUFFIX = ".tmp"


@contextlib.contextmanager
def open_atomically(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO]:
  """Opens a temporary file that becomes `path` when the block succeeds.

  The content is flushed to disk before the file gets its name, so that a file of that
  name is whole even after the machine lost power. The folder must exist.

  Args:
    path: where the file appears; a file that is already there is replaced.
    mode: "wb" for bytes, "w" for text in UTF-8.

  Yields:
    The open file. Where the block raises, the file is deleted.
  """
  path = pathlib.Path(path)
  handle, temporary = tempfile.mkstemp(
    dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX
  )
  encoding = None if "b" in mode else "utf-8"
  try:
    with os.fdopen(handle, mode, encoding=encoding) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise
  _sync(path.parent)


@contextlib.contextmanager
def named_atomically(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Like `open_atomically`, for what opens files by their names itself.

  Args:
    path: where the file appears; a file that is already there is replaced.

  Yields:
    Path of a file to write, which does not exist yet.
  """
  path = pathlib.Path(path)
  with tempfile.TemporaryDirectory(
    dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX
  ) as folder:
    temporary = pathlib.Path(folder) / path.name
    yield temporary
    _sync(temporary)
    os.replace(temporary, path)
  _sync(path.parent)


def _sync(path: pathlib.Path) -> None:
  """Flushes a file or a folder to disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
  """Writes a file, and the folders above it where they are missing.

  Args:
    path: where the file appears; a file that is already there is replaced.
    content: all of it; text is stored in UTF-8.
  """
  pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
  with open_atomically(path) as file:
    file.write(content.encode("utf-8") if isinstance(content, str) else content)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
  """Deletes what killed programs left behind, in a folder and all below it.

  Args:
    folder: a folder that no other program writes to; it need not exist.
  """
  for path in list(pathlib.Path(folder).rglob(f".*{TEMPORARY_SUFFIX}")):
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)
