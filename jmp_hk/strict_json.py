"""JSON text, read strictly and within bounds, with checksums of its content.

A key that occurs twice, a number that is not finite, lists nested beyond reason and
text that is no UTF-8 are errors; so is content that does not fit its checksum.
"""

from collections.abc import Mapping
import json
import math
import os
from typing import Any
import zlib

Json = Any  # None, bool, int, float, str, list or dict with string keys.

MAX_BYTES = 1 << 28  # Of a file; the longest lists of records that were left out fit.
MAX_DEPTH = 100  # Of nested lists and mappings; what is stored has less than 20.
_TOO_DEEP = f"it has lists or mappings that are nested more than {MAX_DEPTH} deep"
_MOST_SHOWN = 200  # Characters of a value in a message.
CHECKSUM_KEY = "checksum"  # Under it a file has the checksum of the rest.
_CHECKSUM_PREFIX = "crc32:"


class SerializationError(ValueError):
  """A value cannot be read from or written to JSON."""


def parse(text: str | bytes, *, non_finite: bool = False) -> Json:
  """Parses JSON text, strictly and within bounds.

  Args:
    text: the text, or its bytes in UTF-8.
    non_finite: whether NaN, Infinity and -Infinity are numbers, as Python writes them.

  Returns:
    The values.

  Raises:
    SerializationError: it is no JSON; a key occurs twice in a mapping, a number is not
      finite, or it is nested too deep.
  """
  try:
    if isinstance(text, bytes):
      text = text.decode("utf-8")
    data = json.loads(
      text,
      object_pairs_hook=_unique_keys,
      parse_float=_finite,
      parse_constant=float if non_finite else _refuse_constant,
    )
  except SerializationError:
    raise
  except UnicodeDecodeError as error:
    raise SerializationError(f"it is no text in UTF-8: {error}") from error
  except ValueError as error:
    raise SerializationError(f"it is no JSON: {error}") from error
  except RecursionError:
    raise SerializationError(_TOO_DEEP) from None
  _check_depth(data)
  return data


def read(path: str | os.PathLike[str], *, non_finite: bool = False) -> Json:
  """Parses a file of JSON, strictly and within bounds, and verifies its checksum.

  Args:
    path: the file.
    non_finite: see `parse`.

  Raises:
    SerializationError: see `parse`, or the checksum is wrong; names the file.
    OSError: it cannot be read, e.g. FileNotFoundError.
  """
  with open(path, "rb") as file:
    content = file.read(MAX_BYTES + 1)
  try:
    if len(content) > MAX_BYTES:
      raise SerializationError(f"it has more than {MAX_BYTES} bytes")
    return _verified(parse(content, non_finite=non_finite))
  except SerializationError as error:
    raise SerializationError(f"Cannot read {os.fspath(path)}: {error}.") from error


def checksum(data: Json) -> int:
  """CRC-32 of JSON values, whatever the order of keys and the layout of the text."""
  text = json.dumps(data, sort_keys=True, separators=(",", ":"))
  return zlib.crc32(text.encode("utf-8"))


def with_checksum(data: Mapping[str, Json]) -> dict[str, Json]:
  """JSON values with a checksum, which `read` verifies and leaves out."""
  return {**data, CHECKSUM_KEY: f"{_CHECKSUM_PREFIX}{checksum(data):08x}"}


def _verified(data: Json) -> Json:
  """Values without their checksum, where they have one.

  Raises:
    SerializationError: it is wrong.
  """
  stored = data.get(CHECKSUM_KEY) if isinstance(data, dict) else None
  if not isinstance(stored, str) or not stored.startswith(_CHECKSUM_PREFIX):
    return data
  rest = {key: value for key, value in data.items() if key != CHECKSUM_KEY}
  if with_checksum(rest) != data:
    raise SerializationError(
      "its content does not fit its checksum. Copy it again from where it is whole; if "
      f"it was changed on purpose, delete its entry {CHECKSUM_KEY!r}"
    )
  return rest


def _finite(text: str) -> float:
  """Parses a number with a point or exponent."""
  value = float(text)
  if not math.isfinite(value):
    raise SerializationError(f"the number {brief(text)} is too large")
  return value


def _refuse_constant(name: str) -> float:
  raise SerializationError(f"{name} is no number of JSON")


def _unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
  """A mapping from its entries."""
  result = dict(pairs)
  if len(result) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise SerializationError(f"the key {brief(twice)} occurs twice")
  return result


def _check_depth(data: Json) -> None:
  level, depth = [data], 0
  while level := [item for item in level if isinstance(item, (dict, list))]:
    depth += 1
    if depth > MAX_DEPTH:
      raise SerializationError(_TOO_DEEP)
    level = [
      child
      for item in level
      for child in (item.values() if isinstance(item, dict) else item)
    ]


def brief(value: Json) -> str:
  """A value as messages show it."""
  text = repr(value)
  return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
