"""Dataclasses to JSON and back, strictly.

The one serialiser of the library: configurations, `DatasetInfo` and whatever else is
stored as JSON go through it. Unknown keys, missing keys and values of the wrong type
are errors that name the place, so that a file of another version is never half
understood. No type stands for another: `true` is no number, 1.0 is no integer, and "1"
is neither. Numbers are finite but where an annotation is `Unbounded`, and files are
read within bounds (`jmp_hk.strict_json`).

A dataclass can say more about how it is stored:

* `upgrade_json(data)`, a class method, turns what an earlier version of the class
  stored into what the present one reads;
* a class derived from `Polymorphic` is stored with the name of its class;
* files of a class with `store_checksum = True` end with a checksum of their content,
  which is verified wherever the file is read.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
import functools
import json
import math
import os
import re
import types
import typing
from typing import Any
from typing import ClassVar
from typing import TypeVar

from jmp_hk import files
from jmp_hk import strict_json

T = TypeVar("T")
Json = Any  # None, bool, int, float, str, list or dict with string keys.

_UNION_ORIGINS = (typing.Union, types.UnionType)
# Strings in JSON do not span lines, so that this finds lists alone.
_NUMBER_LIST = re.compile(r"\[\s*([-+.\de]+(?:,\n\s*[-+.\de]+)*)\n\s*\]")
# As Python writes integers, so that no two keys stand for one.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_NON_FINITE = ("inf", "-inf", "nan")
TYPE_KEY = "type"  # Under it the name of a class is stored.

# A float that may be infinite or NaN, e.g. the best of no results.
Unbounded = typing.Annotated[float, "unbounded"]


SerializationError = strict_json.SerializationError


class Polymorphic:
  """Base of dataclasses of which one of several subclasses is stored.

  A subclass is stored as `{"type": type_name, …fields}`; reading the base class picks
  the subclass by that name. A family of classes has a base class with a `registry` of
  its own; whoever adds a class to it sets its `type_name`.

  Attributes:
    type_name: name under which the class is stored.
    registry: classes of the family by name.
    default_type: name of the class where the stored value has none.
  """

  type_name: ClassVar[str] = ""
  registry: ClassVar[dict[str, type[Any]]] = {}
  default_type: ClassVar[str] = ""

  @classmethod
  def find_class(cls, name: str) -> type[Any]:
    """The class of a name; a family may import the module that defines it.

    Raises:
      SerializationError: there is no class of this name.
    """
    if name not in cls.registry:
      raise SerializationError(
        f"There is no {cls.__name__} of type {name!r}; known are "
        f"{', '.join(map(repr, cls.registry)) or 'none'}. Import the module that "
        "defines it first."
      )
    return cls.registry[name]


def add_class(
  registry: dict[str, type[T]], name: str, cls: type[T], family: str
) -> None:
  """Adds a class to a registry. A module that is executed again replaces its own.

  Args:
    registry: classes by name.
    name: name of the class.
    cls: the class.
    family: what such a class is, for the message.

  Raises:
    ValueError: the name is taken by another class.
  """
  known = registry.get(name, cls)
  if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
    raise ValueError(f"There is already a {family} {name!r}: {known.__qualname__}.")
  registry[name] = cls


def to_json(value: Any) -> Json:
  """Turns nested dataclasses into values that `json` writes without loss.

  Args:
    value: dataclass, enum, mapping, sequence, string, number, bool, None or NumPy
      scalar. Non-finite floats become "inf", "-inf" and "nan".

  Returns:
    The same as dicts, lists and plain scalars.

  Raises:
    SerializationError: something else is inside.
  """
  if value is None or isinstance(value, (bool, str)):
    return value
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = {
      f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)
    }
    kind = {TYPE_KEY: _stored_type(value)} if _is_polymorphic(value) else {}
    return kind | fields
  if isinstance(value, enum.Enum):
    return value.value
  if isinstance(value, Mapping):
    return {str(key): to_json(item) for key, item in value.items()}
  if tolist := getattr(value, "tolist", None):  # Scalars and arrays of NumPy or JAX.
    return to_json(tolist())
  if isinstance(value, (Sequence, set, frozenset)):
    return [to_json(item) for item in value]
  if isinstance(value, int):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  raise SerializationError(f"Cannot write a {type(value).__name__} to JSON: {value!r}.")


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
    SerializationError: unknown key, missing key or a value of another type.
  """
  return _read(cls, data, where)


def dumps(value: Any, *, store_checksum: bool = False) -> str:
  """JSON text of a value: indented, lists of numbers on one line, final newline.

  Args:
    value: a value that `to_json` takes.
    store_checksum: whether to add a checksum; some classes ask for it themselves.
  """
  data = to_json(value)
  if store_checksum or getattr(type(value), "store_checksum", False):
    data = strict_json.with_checksum(data)
  text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
  return _NUMBER_LIST.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def save(
  value: Any, path: str | os.PathLike[str], *, store_checksum: bool = False
) -> None:
  """Writes a value as JSON text; the file appears whole or not at all.

  Args:
    value: a value that `to_json` takes.
    path: where the file appears.
    store_checksum: see `dumps`.
  """
  files.write_atomically(path, dumps(value, store_checksum=store_checksum))


def load(cls: type[T], path: str | os.PathLike[str]) -> T:
  """Reads what `save` wrote.

  Raises:
    SerializationError: the file is no JSON or does not fit `cls`; names the file.
    FileNotFoundError: there is no such file.
  """
  data = strict_json.read(path)
  try:
    return from_json(cls, data)
  except SerializationError as error:
    raise SerializationError(f"Cannot read {os.fspath(path)}: {error}") from error


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
    pairs = enumerate(zip(old, new, strict=True))
    return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
  return [] if old == new else [f"{where}: {old!r} → {new!r}"]


def _expect(condition: bool, data: Json, expected: str, where: str) -> None:
  if not condition:
    raise SerializationError(
      f"{where or 'The value'} should be {expected}, not {strict_json.brief(data)}."
    )


def _read(cls: Any, data: Json, where: str) -> Any:
  """`from_json` for annotations that are no classes, too."""
  if isinstance(cls, type) and dataclasses.is_dataclass(cls):
    return _read_dataclass(cls, data, where or cls.__name__)
  origin = typing.get_origin(cls)
  if origin is typing.Annotated:
    if cls == Unbounded and isinstance(data, str) and data in _NON_FINITE:
      return float(data)
    return _read(typing.get_args(cls)[0], data, where)
  if origin in _UNION_ORIGINS:
    return _read_union(cls, data, where)
  if origin is tuple:
    return _read_tuple(cls, data, where)
  if origin is not None and issubclass(origin, Mapping):
    _expect(isinstance(data, Mapping), data, "a mapping", where)
    key_type, item_type = typing.get_args(cls)
    return {
      _read_key(key_type, key, where): _read(
        item_type, item, f"{where}.{key}" if where else str(key)
      )
      for key, item in data.items()
    }
  if origin is not None and issubclass(origin, Sequence):
    _expect(isinstance(data, list), data, "a list", where)
    (item_type,) = typing.get_args(cls)
    return [_read(item_type, x, f"{where}[{i}]") for i, x in enumerate(data)]
  if cls in (Any, object):
    return data
  return _read_scalar(cls, data, where)


def _is_polymorphic(value: Any) -> typing.TypeGuard[Polymorphic]:
  return isinstance(value, Polymorphic)


def _stored_type(value: Polymorphic) -> str:
  """Name of the class of a value, after a check that reading will find that class."""
  cls = type(value)
  if not cls.type_name or cls.registry.get(cls.type_name) is not cls:
    raise SerializationError(
      f"{cls.__qualname__} cannot be stored: no name is registered for this class."
    )
  return cls.type_name


def _chosen_class(cls: type[Any], data: Mapping[str, Json], where: str) -> type[Any]:
  """The class among `cls` and its subclasses that a stored value names."""
  name = data.get(TYPE_KEY, cls.type_name or cls.default_type)
  _expect(isinstance(name, str), name, "the name of a class", f"{where}.{TYPE_KEY}")
  try:
    chosen = cls.find_class(name)
  except SerializationError as error:
    raise SerializationError(f"{where}: {error}") from error
  if not issubclass(chosen, cls):
    raise SerializationError(
      f"{where} should be a {cls.__name__}, not a {chosen.__name__} ({name!r})."
    )
  return chosen


def _read_dataclass(cls: type[Any], data: Json, where: str) -> Any:
  """Reads one dataclass; every key must be a field of it."""
  expected = f"a mapping with the fields of {cls.__name__}"
  _expect(isinstance(data, Mapping), data, expected, where)
  if issubclass(cls, Polymorphic):
    cls = _chosen_class(cls, data, where)
    data = {name: item for name, item in data.items() if name != TYPE_KEY}
  if hasattr(cls, "upgrade_json"):
    data = _upgraded(cls, data, where)
  fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
  unknown = sorted(set(data) - set(fields))
  if unknown:
    raise SerializationError(
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
    raise SerializationError(f"{where} lacks {', '.join(map(repr, missing))}.")
  hints = _hints(cls)
  values = {
    name: _read(hints[name], item, f"{where}.{name}") for name, item in data.items()
  }
  return _with_place(where, cls, **values)


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
  """Annotations of the fields of a dataclass."""
  return typing.get_type_hints(cls, include_extras=True)


def _upgraded(
  cls: type[Any], data: Mapping[str, Json], where: str
) -> Mapping[str, Json]:
  """What an earlier version of a class stored, as the present one reads it."""
  try:
    upgraded = _with_place(where, cls.upgrade_json, dict(data))
  except (TypeError, AttributeError, LookupError) as error:
    raise SerializationError(
      f"{where} is not as any version of {cls.__name__} was stored: {error}."
    ) from error
  _expect(isinstance(upgraded, Mapping), upgraded, "a mapping", where)
  return upgraded


def _with_place(
  where: str, function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
  """Calls a function of a dataclass; what it refuses names the place."""
  try:
    return function(*args, **kwargs)
  except ValueError as error:
    raise SerializationError(f"{where}: {error}") from error


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
      return _read(member, data, where)
    except SerializationError as error:
      errors.append(str(error))
  raise SerializationError(errors[0] if errors else f"{where} cannot be {data!r}.")


def _read_tuple(cls: Any, data: Json, where: str) -> tuple[Any, ...]:
  """Reads `tuple[X, ...]` or a tuple of fixed length."""
  _expect(isinstance(data, list), data, "a list", where)
  types_ = typing.get_args(cls)
  if len(types_) == 2 and types_[1] is Ellipsis:
    types_ = (types_[0],) * len(data)
  _expect(len(types_) == len(data), data, f"a list of {len(types_)}", where)
  return tuple(
    _read(t, item, f"{where}[{i}]")
    for i, (t, item) in enumerate(zip(types_, data, strict=True))
  )


def _read_key(cls: Any, key: str, where: str) -> Any:
  """Reads the key of a mapping, which JSON has as a string."""
  if cls is int:
    is_integer = _INTEGER.fullmatch(key) is not None
    _expect(is_integer, key, "a mapping whose keys are of type int", where)
    return int(key)
  return _read_scalar(cls, key, where)


def _read_scalar(cls: Any, data: Json, where: str) -> Any:
  """Reads a bool, int, float, string or enum."""
  if isinstance(cls, type) and issubclass(cls, enum.Enum):
    known = [member.value for member in cls]
    matches = [v for v in known if type(v) is type(data) and v == data]
    _expect(bool(matches), data, f"one of {known}", where)
    return cls(data)
  if cls is float:
    is_number = isinstance(data, (int, float)) and not isinstance(data, bool)
    _expect(is_number, data, "a number", where)
    _expect(_is_finite(data), data, "a number that is finite", where)
    return float(data)
  if cls is int and isinstance(data, bool):
    _expect(False, data, "an integer", where)
  if isinstance(cls, type) and isinstance(data, cls):
    return data
  name = getattr(cls, "__name__", str(cls))
  raise SerializationError(
    f"{where or 'The value'} should be of type {name}, not {strict_json.brief(data)}."
  )


def _is_finite(number: float) -> bool:
  try:
    return math.isfinite(number)
  except OverflowError:  # An integer beyond all floats.
    return False
