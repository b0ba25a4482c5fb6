"""A whole file: fetched, resumed after breaks, checked, and only then named."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import dataclasses
import errno
import http.client
import io
import logging
import pathlib
import shutil
import time
from typing import NoReturn

import tqdm

from data.downloads import checks
from data.downloads import http as http_lib
from data.downloads import part_file

_CHUNK_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Retries:
  """How stubbornly a download is tried.

  Attributes:
    attempts: attempts in a row that bring no byte, until an address is given up.
    first_wait: seconds before the second attempt; the waits double.
    longest_wait: longest wait in seconds, also of those that a server asks for.
  """

  attempts: int = 6
  first_wait: float = 1.0
  longest_wait: float = 120.0

  def wait(self, failures: int, asked: float = 0.0) -> float:
    """Seconds to wait after some failures in a row, at least what a server asks for."""
    return min(max(self.first_wait * 2 ** (failures - 1), asked), self.longest_wait)


@dataclasses.dataclass(frozen=True)
class Options:
  """How files are fetched.

  Attributes:
    retries: how often broken connections are repeated.
    progress: whether to show bars.
    say: is told in sentences what happens; by default they are logged.
  """

  retries: Retries = Retries()
  progress: bool = True
  say: Callable[[str], None] = _LOG.info


def download(
  addresses: Sequence[str],
  path: pathlib.Path,
  expected: checks.Expected = checks.Expected(),
  options: Options = Options(),
) -> None:
  """Fetches a file, or what is missing of it, and checks it.

  A file that is there already is checked and left alone.

  Args:
    addresses: where the file is; they are tried one after another.
    path: where it shall lie; the folder is made.
    expected: its size and checksums.
    options: retries and messages.

  Raises:
    DownloadError: no address gives the file, the disk is too small, it is not the
      expected file, or another process fetches it.
    OSError: it cannot be written.
  """
  for address in addresses:
    http_lib.check_address(address)
  path.parent.mkdir(parents=True, exist_ok=True)
  if not path.exists():
    with part_file.locked(path) as part:
      if not path.exists():  # Another process may just have finished it.
        if not part.is_complete:
          _from_any(addresses, part, expected, options)
        _check(part, expected, options)
        part.finish()
        return
  _check_present(path, expected, options)


def _from_any(
  addresses: Sequence[str],
  part: part_file.PartFile,
  expected: checks.Expected,
  options: Options,
) -> None:
  """Fetches the file from the first address that gives it.

  Raises:
    DownloadError: none does.
  """
  errors: list[http_lib.RefusedError] = []
  for number, address in enumerate(addresses, 1):
    try:
      _from_one(address, part, expected, options)
      return
    except http_lib.RefusedError as error:
      errors.append(error)
      if number < len(addresses):
        options.say(f"{error} Trying {addresses[number]}.")
  reasons = " ".join(map(str, errors))
  if all(isinstance(error, http_lib.UnknownHostError) for error in errors):
    reasons += (
      " Compute nodes often have no connection to the internet; login nodes do."
    )
  if part.size:
    reasons += f" {part.name} keeps what has arrived."
  raise http_lib.DownloadError(
    f"{part.path.name} could not be fetched. {reasons} Run the command again later, "
    "name a copy with --mirror, or fetch the file with a browser, put it at "
    f"{part.path}, and run the command again to check it."
  )


def _from_one(
  address: str,
  part: part_file.PartFile,
  expected: checks.Expected,
  options: Options,
) -> None:
  """Fetches what is missing from one address, as often as it takes.

  Raises:
    RefusedError: the address does not give the file.
    DownloadError: the disk is too small.
  """
  failures = 0
  size = part.state.size if part.state else expected.size
  with checks.bar(part.path.name, size, options.progress, part.size) as bar:
    while True:
      before = part.size
      try:
        _receive(address, part, expected, bar)
        return
      except http_lib.BrokenError as error:
        failures = 1 if part.size > before else failures + 1
        if failures >= options.retries.attempts:
          raise http_lib.RefusedError(
            f"{error}; given up after {failures} attempts without progress."
          ) from error
        wait = options.retries.wait(failures, error.wait)
        options.say(f"{error}; trying again in {wait:.0f} s.")
        time.sleep(wait)


def _receive(
  address: str,
  part: part_file.PartFile,
  expected: checks.Expected,
  bar: "tqdm.tqdm[NoReturn]",
) -> None:
  """One request: appends to the part what is missing.

  Raises:
    BrokenError: some of it is still missing.
    RefusedError: it is not the expected file.
    DownloadError: the disk is too small.
  """
  start, validator = part.resume_from(address, bool(expected.checksums))
  reply = http_lib.request(address, start, validator)
  with contextlib.closing(reply.stream):
    if None not in (expected.size, reply.size) and reply.size != expected.size:
      raise http_lib.RefusedError(
        f"{address} gives a file of {reply.size} bytes, expected {expected.size}: it "
        "is not the file that this program knows."
      )
    part.accept(address, reply)
    size = (part.state.size if part.state else None) or expected.size
    bar.total, bar.n = size, part.size
    bar.refresh()
    _check_space(part, size or expected.about)
    while chunk := _read(address, reply.stream):
      _write(part, chunk)
      bar.update(len(chunk))
  if size is not None and part.size < size:
    raise http_lib.BrokenError(
      f"{address} promised {size} bytes and ended after {part.size}"
    )


def _read(address: str, stream: io.BufferedIOBase) -> bytes:
  """What has arrived, at least one byte; nothing at the end."""
  try:
    return stream.read1(_CHUNK_BYTES)
  except (OSError, http.client.HTTPException) as error:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise http_lib.BrokenError(f"The connection to {address} broke ({text})") from error


def _write(part: part_file.PartFile, chunk: bytes) -> None:
  try:
    part.write(chunk)
  except OSError as error:
    if error.errno in _DISK_FULL:
      raise http_lib.DownloadError(
        f"The disk is full: {part.name} keeps {checks.size_text(part.size)}. Make "
        "room and run the command again."
      ) from error
    raise


def _check_space(part: part_file.PartFile, size: int) -> None:
  """Checks that what is missing of a file fits on its disk."""
  missing, free = size - part.size, shutil.disk_usage(part.path.parent).free
  if missing > free:
    raise http_lib.DownloadError(
      f"{part.path.name} needs {checks.size_text(missing)} more and the disk of "
      f"{part.path.parent} has {checks.size_text(free)} left. Make room or choose "
      "another --output."
    )


def _check_present(
  path: pathlib.Path, expected: checks.Expected, options: Options
) -> None:
  """Checks a file that was there before."""
  found = checks.compare(path, expected, options.progress)
  if found.problem:
    raise http_lib.DownloadError(
      f"{path} is there already but is not the expected file: {found.problem}. Delete "
      "it, or choose another --output."
    )
  options.say(f"{path} is there already ({_describe(path, found)}).")


def _check(
  part: part_file.PartFile, expected: checks.Expected, options: Options
) -> None:
  """Checks a file before it gets its name; one that is wrong is deleted."""
  found = checks.compare(part.name, expected, options.progress)
  if found.problem:
    part.remove()
    raise http_lib.DownloadError(
      f"What was fetched as {part.path.name} is not the expected file and was deleted: "
      f"{found.problem}. Run the command again; if that does not help, the file has "
      "changed where it is published, and --noverify takes it as it is."
    )
  options.say(f"{part.path} is complete ({_describe(part.name, found)}).")


def _describe(path: pathlib.Path, found: checks.Comparison) -> str:
  size = checks.size_text(path.stat().st_size)
  if not found.agrees:
    return f"{size}; no size or checksum is known to compare it with"
  return f"{size}; {found.agrees} as expected"
