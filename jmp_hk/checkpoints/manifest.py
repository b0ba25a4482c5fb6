"""What belongs to a checkpoint, with checksums, so that damage is noticed and named.

Every checkpoint has `manifest/manifest.json`, which appears together with it:

  step         training step
  arrays       for each folder of arrays: shape, data type and CRC-32 of every array
  documents    CRC-32 of the content of each JSON file
  has_metrics  whether the checkpoint has metrics, which rank it
  checksum     CRC-32 of all of this

Checksums are those of the arrays and JSON values that were saved, not of files, so that
everything between memory and memory is covered: file system, compression and layout.
A checkpoint of an earlier version has no manifest and is read without verification.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import concurrent.futures
import dataclasses
import logging
import os
import pathlib
from typing import Any
import zlib

import numpy as np

from jmp_hk import serialization
from jmp_hk import strict_json

logger = logging.getLogger(__name__)

ITEM = "manifest"  # Folder in a checkpoint.
FILE = "manifest.json"
# From this version of the format on, every checkpoint has a manifest.
FIRST_VERSION = 2
METRICS_CHECKSUM = "checksum"  # Key among the metrics of a checkpoint.
# Files of JSON in a checkpoint, by item.
DOCUMENTS = {"model": "config.json", "host": "state.json"}
ARRAYS = ("params", "ema", "scales", "optimizer")
_MOST_NAMED = 5  # Arrays.
_THREADS = min(8, os.cpu_count() or 1)


class CheckpointError(ValueError):
  """A checkpoint is missing or cannot be understood; the message says what to do."""


class DamagedError(CheckpointError):
  """A checkpoint is not what was saved; the message names the parts that are not."""


@dataclasses.dataclass(frozen=True)
class ArrayEntry:
  """One array.

  Attributes:
    shape: its shape.
    dtype: name of its data type, e.g. "float32".
    crc32: CRC-32 of its bytes in row-major order.
  """

  shape: tuple[int, ...]
  dtype: str
  crc32: int


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What belongs to a checkpoint.

  Attributes:
    step: training step.
    arrays: arrays by folder and name; a folder that is not named does not belong to
      the checkpoint.
    documents: checksums of the JSON files by folder, see `strict_json.checksum`.
    has_metrics: whether metrics belong to it. Their own checksum lies beside them, for
      they may come later.
  """

  step: int
  arrays: Mapping[str, Mapping[str, ArrayEntry]]
  documents: Mapping[str, int]
  has_metrics: bool = False

  def to_json(self) -> dict[str, Any]:
    """JSON values with their checksum, as the file has them."""
    return strict_json.with_checksum(serialization.to_json(self))

  def check_document(self, item: str, values: serialization.Json) -> None:
    """Checks what was read from a JSON file.

    Args:
      item: folder of the file, a key of `DOCUMENTS`.
      values: what it holds.

    Raises:
      DamagedError: it is not what was saved.
    """
    if item not in self.documents:
      raise DamagedError(f"{item}/ does not belong to it")
    if strict_json.checksum(values) != self.documents[item]:
      raise DamagedError(
        f"the content of {item}/{DOCUMENTS[item]} is not what was saved: its checksum "
        "is wrong"
      )

  def check_arrays(self, item: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Checks the arrays that were read from a folder.

    Args:
      item: name of the folder, one of `ARRAYS`.
      arrays: the arrays by name.

    Raises:
      DamagedError: they are not those that were saved; names them.
    """
    if item not in self.arrays:
      raise DamagedError(f"{item}/ does not belong to it")
    wanted = self.arrays[item]
    problems = [f"{name} is missing" for name in wanted if name not in arrays]
    problems += [
      f"{name} does not belong there" for name in arrays if name not in wanted
    ]
    both = [name for name in wanted if name in arrays]
    found = describe_arrays({name: arrays[name] for name in both})
    problems += [
      f"{name} {_difference(found[name], wanted[name])}"
      for name in both
      if found[name] != wanted[name]
    ]
    if problems:
      more = len(problems) - _MOST_NAMED
      listed = problems[:_MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])
      raise DamagedError(f"of the arrays of {item}/, {', '.join(listed)}")


def describe_arrays(arrays: Mapping[str, Any]) -> dict[str, ArrayEntry]:
  """Entries of arrays by name; their checksums are computed in several threads."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    entries = pool.map(describe_array, arrays.values())
    return dict(zip(arrays, entries, strict=True))


def describe_array(array: Any) -> ArrayEntry:
  """The entry of one array."""
  array = np.asarray(array)
  content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
  return ArrayEntry(array.shape, array.dtype.name, zlib.crc32(content))


def checksum_of_metrics(step: int, metrics: Mapping[str, float]) -> int:
  """Checksum that is stored among the metrics of a step, see `METRICS_CHECKSUM`."""
  own = {name: value for name, value in metrics.items() if name != METRICS_CHECKSUM}
  return strict_json.checksum([step, own])


def path_of(checkpoint: pathlib.Path) -> pathlib.Path:
  """Where the manifest of a checkpoint is."""
  return checkpoint / ITEM / FILE


def read(checkpoint: pathlib.Path) -> Manifest | None:
  """The manifest of a checkpoint; None where it is of a version without one.

  Args:
    checkpoint: directory of the checkpoint.

  Raises:
    DamagedError: the manifest is missing, damaged or that of another step.
  """
  path = path_of(checkpoint)
  if not path.exists():
    if _version(checkpoint) < FIRST_VERSION:
      return None
    raise DamagedError(f"{ITEM}/{FILE} is missing{_hint(checkpoint)}")
  try:
    values = strict_json.read(path)
    manifest = serialization.from_json(Manifest, values, "manifest")
  except (OSError, serialization.SerializationError) as error:
    raise DamagedError(f"{ITEM}/{FILE} cannot be read: {reason(error)}") from error
  if checkpoint.name.isdecimal() and int(checkpoint.name) != manifest.step:
    raise DamagedError(
      f"the folder is called {checkpoint.name}, but holds step {manifest.step}: rename "
      f"it to {manifest.step}"
    )
  return manifest


def tell_unverified(checkpoint: pathlib.Path) -> None:
  """Says that a checkpoint without a manifest is read as it is."""
  logger.info(
    "%s is of an earlier version, without checksums: it is not verified.", checkpoint
  )


def check_parts(
  checkpoint: pathlib.Path, manifest: Manifest, items: Iterable[str]
) -> None:
  """Checks that parts of a checkpoint are there, and no arrays that are not its own.

  Args:
    checkpoint: directory of the checkpoint.
    manifest: what belongs to it.
    items: the folders that are needed.

  Raises:
    DamagedError: a folder is missing, or there is one of another checkpoint.
  """
  missing = [item for item in items if not (checkpoint / item).is_dir()]
  if missing:
    names = " and ".join(f"{item}/" for item in missing)
    verb = "are" if len(missing) > 1 else "is"
    raise DamagedError(f"{names} {verb} missing{_hint(checkpoint)}")
  for item in ARRAYS:
    if item not in manifest.arrays and (checkpoint / item).exists():
      raise DamagedError(f"{item}/ does not belong to it; remove that folder")


def reason(error: Exception) -> str:
  """The message of an error as a clause in one line."""
  return " ".join(str(error).split()).rstrip(".")


def _version(checkpoint: pathlib.Path) -> int:
  """Version of the format, as the description of the model says.

  Raises:
    DamagedError: it does not say.
  """
  path = checkpoint / "model" / DOCUMENTS["model"]
  name = f"model/{path.name}"
  try:
    version = strict_json.read(path)["format_version"]
  except FileNotFoundError as error:
    raise DamagedError(f"{name} is missing{_hint(checkpoint)}") from error
  except (OSError, TypeError, KeyError, serialization.SerializationError) as error:
    raise DamagedError(f"{name} cannot be read: {reason(error)}") from error
  if type(version) is not int or version < 1:
    raise DamagedError(f"{name} has the unknown format version {version!r}")
  return version


def _hint(checkpoint: pathlib.Path) -> str:
  """Which folders are there that no checkpoint has; one may have been renamed."""
  known = {*DOCUMENTS, *ARRAYS, ITEM, "metrics"}
  if not checkpoint.is_dir():
    return ""
  folders = sorted(path.name for path in checkpoint.iterdir() if path.is_dir())
  others = [f"{name}/" for name in folders if name not in known]
  if not others:
    return ""
  return f"; if {' or '.join(others[:_MOST_NAMED])} is that, rename it back"


def _difference(found: ArrayEntry, wanted: ArrayEntry) -> str:
  """How an array differs from what was saved."""
  if found.shape != wanted.shape:
    return f"has shape {found.shape} instead of {wanted.shape}"
  if found.dtype != wanted.dtype:
    return f"is {found.dtype} instead of {wanted.dtype}"
  return "has other values than were saved"
