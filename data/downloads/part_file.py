"""The unfinished file of a download: NAME.part, and beside it NAME.part.json.

The second says which version of which address the bytes belong to, so that a killed
download goes on where it stopped and never joins pieces of different files.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib

from data.downloads import http as http_lib
from jmp_hk import files
from jmp_hk import serialization

SUFFIX = ".part"
STATE_SUFFIX = ".part.json"


@dataclasses.dataclass(frozen=True)
class State:
  """Which version of a file the bytes belong to.

  Attributes:
    address: where they come from.
    size: bytes of the whole file; None where the server did not say.
    etag: the server's name for the version, or "".
    last_modified: when it changed, as the server puts it, or "".
  """

  address: str
  size: int | None
  etag: str
  last_modified: str


class PartFile:
  """The unfinished file, open and locked.

  Attributes:
    path: where the file will be.
    name: where it is until then.
    size: bytes that are there.
    state: what they belong to; None where nothing or something unknown is there.
  """

  def __init__(self, path: pathlib.Path, file: io.FileIO):
    self.path = path
    self.name = path.with_name(path.name + SUFFIX)
    self._file = file
    self._state_path = path.with_name(path.name + STATE_SUFFIX)
    self.size = file.seek(0, os.SEEK_END)
    self.state: State | None = None
    with contextlib.suppress(OSError, serialization.SerializationError):
      self.state = serialization.load(State, self._state_path)

  @property
  def is_complete(self) -> bool:
    """Whether only the check and the name are missing."""
    return self.state is not None and self.state.size == self.size > 0

  def resume_from(self, address: str, has_checksum: bool) -> tuple[int, str]:
    """Which byte to ask for, and of which version of the file ("" for any).

    Args:
      address: where it is asked for.
      has_checksum: whether a checksum will tell if the bytes belong together; without
        one, bytes are joined only where the server vouches for the version.
    """
    if self.state is None or not self.size:
      return 0, ""
    validator = http_lib.strong_validator(self.state.etag, self.state.last_modified)
    if self.state.address == address and validator:
      return self.size, validator
    return (self.size, "") if has_checksum else (0, "")

  def accept(self, address: str, reply: http_lib.Reply) -> None:
    """Makes the file ready for the bytes of an answer.

    Raises:
      BrokenError: they do not continue the bytes that are there, which are dropped.
    """
    state = State(address, reply.size, reply.etag, reply.last_modified)
    if reply.start == 0:
      self._truncate()
    elif self.state is None or _differ(self.state, state) or self._ends(reply):
      self._truncate()
      raise http_lib.BrokenError(
        f"{address} gives another file than the one whose beginning is here; it is "
        "fetched anew"
      )
    elif state.size is None:
      state = dataclasses.replace(state, size=self.state.size)
    self.state = state
    files.write_atomically(self._state_path, json.dumps(dataclasses.asdict(state)))

  def write(self, chunk: bytes) -> None:
    """Appends bytes; where the disk is full, as many as it takes."""
    rest = memoryview(chunk)
    while rest:
      count = self._file.write(rest)
      self.size += count
      rest = rest[count:]

  def remove(self) -> None:
    """Deletes what was fetched."""
    self.name.unlink(missing_ok=True)
    self._state_path.unlink(missing_ok=True)

  def finish(self) -> None:
    """Gives the complete file its name."""
    os.fsync(self._file.fileno())
    os.replace(self.name, self.path)
    self._state_path.unlink(missing_ok=True)

  def _ends(self, reply: http_lib.Reply) -> bool:
    """Whether more bytes are here than the server's file has."""
    return reply.size is not None and reply.start > reply.size

  def _truncate(self) -> None:
    self._file.seek(0)
    self._file.truncate()
    self.size = 0
    self.state = None
    self._state_path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[PartFile]:
  """Opens the unfinished file of `path` for one process; an empty one is deleted.

  Raises:
    DownloadError: another process has it.
  """
  # Without a buffer, what is written is there also when the process is killed.
  with open(path.with_name(path.name + SUFFIX), "ab+", buffering=0) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise http_lib.DownloadError(
        f"Another process is fetching {path}; wait for it."
      ) from error
    part = PartFile(path, file)
    try:
      yield part
    finally:
      if not part.size:
        part.remove()


def _differ(old: State, new: State) -> bool:
  """Whether two answers are about different versions of a file."""
  if None not in (old.size, new.size) and old.size != new.size:
    return True
  if old.address != new.address:  # Every server names versions as it likes.
    return False
  return any(
    before and now and before != now
    for before, now in (
      (old.etag, new.etag),
      (old.last_modified, new.last_modified),
    )
  )
