"""What entries of a zip archive may be, checked before any of them is unpacked."""

import struct
import zipfile
import zlib

# What Python's zipfile raises for damaged archives.
UNREADABLE = (
  zipfile.BadZipFile,
  zlib.error,
  struct.error,
  EOFError,
  KeyError,
  OSError,
  OverflowError,
  RuntimeError,  # for encrypted entries and unknown versions
  ValueError,
)
# Bytes that one byte of an archive may become. Arrays and texts of the releases become
# up to twelve; hostile archives become a thousand.
MAX_EXPANSION = 100
_SMALL = 1 << 20  # Bytes that any entry may have.
# Others are unpacked by Python without a limit on what one read returns.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SHOWN = 80  # Letters of a name in a message.


def find_archive_problem(archive: zipfile.ZipFile) -> str:
  """What speaks against unpacking an archive, as a clause; "" where nothing does."""
  problems = (find_overlap(archive), *map(find_problem, archive.infolist()))
  return next(filter(None, problems), "")


def find_problem(entry: zipfile.ZipInfo) -> str:
  """What speaks against unpacking an entry, as a clause; "" where nothing does."""
  name = entry.filename[:_SHOWN]
  if entry.compress_type not in _METHODS:
    return (
      f"{name} is compressed by method {entry.compress_type}: expected "
      f"{zipfile.ZIP_STORED} (stored) or {zipfile.ZIP_DEFLATED} (deflated)"
    )
  if entry.file_size > max(_SMALL, MAX_EXPANSION * entry.compress_size):
    return (
      f"{name} becomes {entry.file_size} bytes from {entry.compress_size}, more than "
      f"{MAX_EXPANSION} times as many"
    )
  return ""


def find_overlap(archive: zipfile.ZipFile) -> str:
  """Says which entries share their bytes, as a clause; "" where none do.

  Many entries of the same bytes would be unpacked many times.
  """
  end, last = 0, ""
  for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
    if entry.header_offset < end:
      return f"{entry.filename[:_SHOWN]} lies in the bytes of {last[:_SHOWN]}"
    end, last = entry.header_offset + entry.compress_size, entry.filename
  return ""
