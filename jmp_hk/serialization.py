"""Nested frozen dataclasses to JSON and back, strictly.

One helper for every config and for `DatasetInfo`: unknown keys, missing keys and
values of the wrong type are errors that name the place, so that a config written by
another version is never half understood.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
import json
import math
import os
import pathlib
import tempfile
import types
import typing
from typing import Any
from typing import TypeVar

T = TypeVar("T")
Json = Any  # None, bool, int, float, str, list or dict with string keys.

_UNION_ORIGINS = (typing.Union, types.UnionType)


class ConfigError(ValueError):
  """A config cannot be read from or written to JSON."""


def to_json(value: Any) -> Json:
  """Turns a nested config into values that `json` writes without loss.

  Args:
    value: dataclass, enum, mapping, sequence, string, number, bool, None or NumPy
      scalar. Non-finite floats become "inf", "-inf" and "nan".

  Returns:
    The same as dicts, lists and plain scalars.

  Raises:
    ConfigError: something else is inside.
  """
  if value is None or isinstance(value, (bool, str)):
    return value
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    return {field.name: to_json(getattr(value, field.name)) for field in fields}
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, Mapping):
    return {str(key): to_json(item) for key, item in value.items()}
  if hasattr(value, "tolist"):  # NumPy scalars and arrays.
    return to_json(value.tolist())
  if isinstance(value, (Sequence, set, frozenset)):
    return [to_json(item) for item in value]
  if isinstance(value, int):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise ConfigError(f"Cannot write a {type(value).__name__} to JSON: {value!r}.")


def from_json(cls: type[T], data: Json, where: str = "") -> T:
  """Rebuilds a value of type `cls` from what `to_json` made of it.

  Args:
    cls: a dataclass or any annotation built from dataclasses, enums, scalars,
      `tuple`, `list`, `Mapping`, `dict`, unions and `Any`.
    data: parsed JSON.
    where: name of the place for error messages.

  Returns:
    The value. Dataclass fields with defaults may be absent from `data`.

  Raises:
    ConfigError: unknown key, missing key or a value of another type.
  """
  if dataclasses.is_dataclass(cls):
    return _read_dataclass(cls, data, where or cls.__name__)
  origin = typing.get_origin(cls)
  if origin in _UNION_ORIGINS:
    return _read_union(cls, data, where)
  if origin is tuple:
    return _read_tuple(cls, data, where)
  if origin is not None and issubclass(origin, Mapping):
    _expect(isinstance(data, Mapping), data, "a mapping", where)
    key_type, item_type = typing.get_args(cls)
    return {
      _read_scalar(key_type, key, where): from_json(item_type, item, f"{where}.{key}")
      for key, item in data.items()
    }
  if origin is not None and issubclass(origin, Sequence):
    _expect(isinstance(data, list), data, "a list", where)
    (item_type,) = typing.get_args(cls)
    return [from_json(item_type, x, f"{where}[{i}]") for i, x in enumerate(data)]
  if cls in (Any, object):
    return data
  return _read_scalar(cls, data, where)


def save(value: Any, path: str | os.PathLike[str]) -> None:
  """Writes a config as indented JSON; the file appears whole or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  text = json.dumps(to_json(value), indent=2) + "\n"
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
  try:
    with os.fdopen(handle, "w", encoding="utf-8") as file:
      file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise


def load(cls: type[T], path: str | os.PathLike[str]) -> T:
  """Reads what `save` wrote.

  Raises:
    ConfigError: the file is no JSON or does not fit `cls`; names the file.
    FileNotFoundError: there is no such file.
  """
  try:
    data = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    return from_json(cls, data)
  except ValueError as error:
    raise ConfigError(f"Cannot read {os.fspath(path)}: {error}") from error


def differences(old: Json, new: Json, where: str = "") -> list[str]:
  """Lists the places where two JSON values differ, as "key: old → new"."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    keys = list(dict.fromkeys([*old, *new]))
    return [
      line
      for key in keys
      for line in differences(
        old.get(key), new.get(key), f"{where}.{key}" if where else str(key)
      )
    ]
  if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
    pairs = enumerate(zip(old, new))
    return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
  return [] if old == new else [f"{where}: {old!r} → {new!r}"]


def _expect(condition: bool, data: Json, expected: str, where: str) -> None:
  if not condition:
    raise ConfigError(f"{where or 'The value'} should be {expected}, not {data!r}.")


def _read_dataclass(cls: type[T], data: Json, where: str) -> T:
  """Reads one dataclass; every key must be a field of it."""
  _expect(
    isinstance(data, Mapping),
    data,
    f"a mapping with the fields of {cls.__name__}",
    where,
  )
  hints = typing.get_type_hints(cls)
  fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
  unknown = sorted(set(data) - set(fields))
  if unknown:
    raise ConfigError(
      f"{where} has no {' and no '.join(map(repr, unknown))}; it knows "
      f"{', '.join(fields)}."
    )
  missing = [
    name
    for name, field in fields.items()
    if name not in data
    and field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise ConfigError(f"{where} lacks {', '.join(map(repr, missing))}.")
  return cls(
    **{
      name: from_json(hints[name], item, f"{where}.{name}")
      for name, item in data.items()
    }
  )


def _read_union(cls: Any, data: Json, where: str) -> Any:
  """Reads the first member of a union that fits; None only where it is a member."""
  members = typing.get_args(cls)
  if data is None and type(None) in members:
    return None
  errors = []
  for member in members:
    if member is type(None):
      continue
    try:
      return from_json(member, data, where)
    except ConfigError as error:
      errors.append(str(error))
  raise ConfigError(errors[0] if errors else f"{where} cannot be {data!r}.")


def _read_tuple(cls: Any, data: Json, where: str) -> tuple[Any, ...]:
  """Reads `tuple[X, ...]` or a tuple of fixed length."""
  _expect(isinstance(data, list), data, "a list", where)
  types_ = typing.get_args(cls)
  if len(types_) == 2 and types_[1] is Ellipsis:
    types_ = (types_[0],) * len(data)
  _expect(len(types_) == len(data), data, f"a list of {len(types_)}", where)
  return tuple(
    from_json(t, item, f"{where}[{i}]") for i, (t, item) in enumerate(zip(types_, data))
  )


def _read_scalar(cls: type[T], data: Json, where: str) -> T:
  """Reads a bool, int, float, string or enum. Mapping keys arrive as strings."""
  if isinstance(cls, type) and issubclass(cls, enum.Enum):
    known = [member.value for member in cls]
    _expect(data in known, data, f"one of {known}", where)
    return cls(data)
  if cls is int and isinstance(data, str) and data.lstrip("-").isdigit():
    return int(data)
  if cls is float and isinstance(data, str):
    _expect(data in ("inf", "-inf", "nan"), data, "a number", where)
    return float(data)
  if cls is float and isinstance(data, int) and not isinstance(data, bool):
    return float(data)
  if cls is int and isinstance(data, bool):
    _expect(False, data, "an integer", where)
  if isinstance(cls, type) and isinstance(data, cls):
    return data
  name = getattr(cls, "__name__", str(cls))
  raise ConfigError(f"{where or 'The value'} should be of type {name}, not {data!r}.")
