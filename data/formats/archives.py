"""Raw files inside archives, read where they are.

Members of uncompressed tar files and of zip files can be entered at once. Compressed
tar files have to be read from front to back, or unpacked (`data/formats/unpacking.py`).
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import io
import lzma
import pathlib
import tarfile
from typing import IO
from typing import Any
import zipfile

from data.conversion import base
from jmp_hk import zip_entries

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_BUFFER_BYTES = 1 << 18
MAX_DEPTH = 2  # Archives in archives.
# What damaged archives raise.
UNREADABLE = (
  tarfile.TarError,
  lzma.LZMAError,
  *zip_entries.UNREADABLE,
)


@dataclasses.dataclass(frozen=True)
class Member:
  """A file inside an uncompressed tar file.

  Attributes:
    name: its path in the archive.
    offset: where its bytes begin in the tar file.
    size: how many they are.
  """

  name: str
  offset: int
  size: int


class TarHeader(tarfile.TarInfo):
  """The head of a member of a tar file; a damaged one is an error wherever it is.

  Python's reader takes a damaged head behind the first member for the end of the
  archive, and leaves out all members from there on.
  """

  @classmethod
  def frombuf(cls, buf: Any, encoding: str, errors: str) -> "TarHeader":
    """Reads the head.

    Raises:
      EOFHeaderError: it is the mark at the end of an archive.
      ReadError: it is damaged, or the archive ends without a mark.
    """
    try:
      return super().frombuf(buf, encoding, errors)
    except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(f"a member has a damaged head: {error}") from error


def is_archive(name: str | pathlib.Path) -> bool:
  """Whether a file is called like an archive."""
  return str(name).lower().endswith(SUFFIXES)


def find(source: pathlib.Path, *patterns: str) -> pathlib.Path | None:
  """The archive that `--input` is, or that alone lies in the folder that it is.

  Args:
    source: `--input`.
    patterns: raw files that make an archive beside them unnecessary.
  """
  if source.is_file():
    return source if is_archive(source) else None
  if any(next(source.rglob(pattern), None) for pattern in patterns):
    return None
  archives = [path for path in source.iterdir() if path.is_file() and is_archive(path)]
  return archives[0] if len(archives) == 1 else None


def members(path: pathlib.Path) -> list[Member]:
  """The files inside an uncompressed tar file.

  Raises:
    RawDataError: it is no uncompressed tar file, or is truncated.
  """
  found = []
  try:
    with tarfile.open(path, "r:", tarinfo=TarHeader) as tar:
      for info in tar:
        if info.isreg() and not info.issparse():
          found.append(Member(info.name, info.offset_data, info.size))
  except UNREADABLE as error:
    raise unreadable(path, found[-1].name if found else "", error) from error
  return found


def open_member(path: pathlib.Path, offset: int, size: int) -> io.BufferedReader:
  """Opens a part of a file as a file."""
  return io.BufferedReader(_Section(path, offset, size), _BUFFER_BYTES)


class _Section(io.RawIOBase):
  """A part of a file."""

  def __init__(self, path: pathlib.Path, offset: int, size: int):
    self._file = open(path, "rb", buffering=0)  # noqa: SIM115
    self._position, self._end = offset, offset + size

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    """Reads as many bytes as the buffer takes and the part has left."""
    view = memoryview(buffer)[: max(0, self._end - self._position)]
    self._file.seek(self._position)
    count = self._file.readinto(view)
    self._position += count
    return count

  def close(self) -> None:
    self._file.close()
    super().close()


@contextlib.contextmanager
def open_in_zip(path: pathlib.Path, name: str) -> Iterator[IO[bytes]]:
  """Opens the file `name` in any folder of a zip file, or of a zip file inside it.

  Raises:
    RawDataError: there is none, or more than one.
    zipfile.BadZipFile: it is no zip file.
  """
  with open(path, "rb") as file, contextlib.ExitStack() as stack:
    yield stack.enter_context(_find_in_zip(path, file, name, stack))


def _find_in_zip(
  path: pathlib.Path, file: IO[bytes], name: str, stack: contextlib.ExitStack
) -> IO[bytes]:
  """Looks for a file in a zip file, and then in the zip files that it holds."""
  waiting = [file]
  for _ in range(MAX_DEPTH):
    archives = [stack.enter_context(zipfile.ZipFile(part)) for part in waiting]
    for archive in archives:
      check_zip(str(path), archive)
    names = [(a, m) for a in archives for m in a.namelist()]
    found = [(a, m) for a, m in names if pathlib.PurePosixPath(m).name == name]
    if len(found) > 1:
      raise base.RawDataError(f"{path} holds {name} {len(found)} times, expected once.")
    if found:
      archive, member = found[0]
      return archive.open(member)
    waiting = [
      stack.enter_context(a.open(m)) for a, m in names if m.lower().endswith(".zip")
    ]
  raise base.RawDataError(f"{path} does not hold {name}.")


def check_zip(name: str, archive: zipfile.ZipFile) -> None:
  """Refuses a zip file whose members share bytes or grow beyond all measure.

  Raises:
    RawDataError: it is such a file.
  """
  if problem := zip_entries.find_archive_problem(archive):
    raise base.RawDataError(f"{name} is refused: {problem}.")


def unreadable(
  archive: pathlib.Path, member: str, error: BaseException
) -> base.RawDataError:
  """The error about an archive that cannot be read after some member."""
  where = f" after {member}" if member else ""
  text = str(error) or type(error).__name__
  return base.RawDataError(
    f"{archive} cannot be read{where}: {text}. It may be truncated; fetch it again."
  )
