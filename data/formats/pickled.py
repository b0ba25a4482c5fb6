"""Reads pickled PyTorch Geometric records without PyTorch, and safely.

OC20's and OC22's LMDB values are pickles of `torch_geometric.data.Data`. A pickle may
name any function to call; `jmp_hk.interop.restricted_pickle` calls none of them. What
these records need is known here: tensors and arrays, which are checked descriptions
until the functions of this module make NumPy arrays of them, and plain containers.
"""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from data.formats import pickled_arrays
from jmp_hk.interop import inert
from jmp_hk.interop import restricted_pickle

# Bytes of arrays that one record may make, for each byte that it has: records do not
# share their storages, so that they make about one.
MAX_EXPANSION = 4
# Levels of lists that stand for an array.
_MAX_LIST_LEVELS = 3
_SMALL = 1 << 16  # Bytes of arrays that any record may make.
_STORAGES = {
  "torch.DoubleStorage": "<f8",
  "torch.FloatStorage": "<f4",
  "torch.HalfStorage": "<f2",
  "torch.LongStorage": "<i8",
  "torch.IntStorage": "<i4",
  "torch.ShortStorage": "<i2",
  "torch.CharStorage": "i1",
  "torch.ByteStorage": "u1",
  "torch.BoolStorage": "?",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

Inert = inert.Inert
PickleError = inert.PickleError


def load(data: bytes) -> Any:
  """Unpickles some bytes, with arrays for tensors and `Inert` for unknown objects.

  Raises:
    PickleError: the bytes are truncated or corrupt.
  """
  budget = inert.Budget(array_bytes=_SMALL + MAX_EXPANSION * len(data))
  return restricted_pickle.loads(data, _KNOWN, None, budget)


def load_record(data: bytes) -> Mapping[str, Any]:
  """The attributes of a pickled `Data` (PyG 1 or 2), or a pickled dict.

  Raises:
    PickleError: the bytes hold something else.
  """
  return attributes(load(data))


def attributes(record: Any) -> Mapping[str, Any]:
  """The attributes of an unpickled `Data`, or of a dict.

  Numbers and lists of numbers are as in the pickle; NumPy's arrays are arrays.
  """
  if isinstance(record, Inert):
    state = record.state
    if isinstance(state, dict):
      store = state.get("_store")
      if isinstance(store, Inert) and isinstance(store.state, dict):
        store = store.state.get("_mapping")
      record = store if isinstance(store, dict) else state
  if not isinstance(record, dict):
    found = inert.describe(record)
    raise PickleError(f"expected a pickled Data object, found {found}")
  return {
    name: value.array if isinstance(value, pickled_arrays.Array) else value
    for name, value in record.items()
    if type(name) is str
  }


def as_numbers(value: Any) -> np.ndarray:
  """An attribute of a record as an array of numbers.

  Raises:
    PickleError: it is neither an array nor a number nor a short list of these.
  """
  if isinstance(value, np.ndarray):
    return value
  if not _is_plain(value, _MAX_LIST_LEVELS):
    raise PickleError(f"expected numbers, found {inert.describe(value)}")
  try:
    array = np.asarray(value)
  except ValueError as error:
    raise PickleError("expected rows of equal length") from error
  if array.dtype.kind not in "biuf":
    raise PickleError("expected numbers of at most 64 bits, found larger ones")
  return array


def _is_plain(value: Any, levels: int) -> bool:
  """Whether a value is a number, or lists of numbers of so many levels."""
  if type(value) in (list, tuple):
    return levels > 0 and all(_is_plain(part, levels - 1) for part in value)
  return isinstance(value, (bool, int, float, np.number, np.bool_))


def _load_from_bytes(arguments: tuple[Any, ...], budget: inert.Budget) -> np.ndarray:
  """The values of a storage saved by `torch.save` in its stream format."""
  if len(arguments) != 1 or type(arguments[0]) is not bytes:
    raise PickleError("expected the bytes of a tensor storage")
  (data,) = arguments
  position = _after_header(data, budget)
  dtypes: dict[Any, str] = {}

  def storage(pid: Any) -> None:
    _, name, key = pid[:3] if type(pid) is tuple and len(pid) > 2 else [None] * 3
    dtype = _STORAGES.get(name.origin) if type(name) is inert.Name else None
    if dtype is None or type(key) is not str:
      raise PickleError("expected a tensor storage in PyTorch's stream format")
    dtypes[key] = dtype

  _, position = _part(data, position, budget, storage)
  keys, position = _part(data, position, budget)
  if type(keys) is not list or len(keys) != 1 or [*dtypes] != keys:
    raise PickleError("expected one tensor storage in PyTorch's stream format")
  dtype = np.dtype(dtypes[keys[0]])
  count = int.from_bytes(data[position : position + 8], "little", signed=True)
  available = len(data) - position - 8
  if not 0 <= count * dtype.itemsize <= available:
    raise PickleError(
      f"a tensor storage is truncated: expected {count} numbers of {dtype.itemsize} "
      f"bytes, found {max(0, available)} bytes"
    )
  return np.frombuffer(data, dtype, count, position + 8)


def _after_header(data: bytes, budget: inert.Budget) -> int:
  """Where the header of a storage in PyTorch's stream format ends."""
  for header in _headers:
    if data.startswith(header):
      return len(header)
  magic, position = _part(data, 0, budget)
  if magic != _LEGACY_MAGIC:
    raise PickleError("expected a tensor storage in PyTorch's stream format")
  _, position = _part(data, position, budget)  # protocol
  order, position = _part(data, position, budget)  # byte order and integer sizes
  if type(order) is not dict or order.get("little_endian") is not True:
    raise PickleError("expected a tensor storage of little-endian numbers")
  if len(_headers) < _MOST_HEADERS:
    _headers.append(data[:position])
  return position


def _part(
  data: bytes, position: int, budget: inert.Budget, persistent_load: Any = None
) -> tuple[Any, int]:
  """One of the pickles that PyTorch's stream format consists of, and where it ends."""
  value, end = restricted_pickle.load_at(data, position, {}, persistent_load, budget)
  budget.take_values(end - position)  # It has as many instructions at most.
  return value, end


def _rebuild_tensor(arguments: tuple[Any, ...], budget: inert.Budget) -> np.ndarray:
  """A tensor as a copy of its part of a storage, bounds checked."""
  if len(arguments) < 4 or not isinstance(arguments[0], np.ndarray):
    raise PickleError("a tensor has no storage")
  storage, offset, size, stride = arguments[:4]
  pickled_arrays.check_shape(size, offset)
  pickled_arrays.check_shape(stride)
  if len(size) != len(stride):
    raise PickleError(f"a tensor of shape {size} has the strides {stride}")
  last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
  if 0 in size:
    return pickled_arrays.empty(size, storage.dtype)
  if last >= len(storage):
    raise PickleError(f"a tensor of shape {size} exceeds its storage")
  budget.take_array(math.prod(size) * storage.itemsize)
  strides = tuple(s * storage.itemsize for s in stride)
  return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


def _size(arguments: tuple[Any, ...], budget: inert.Budget) -> tuple[Any, ...]:
  """Stands for `torch.Size`."""
  if len(arguments) != 1 or type(arguments[0]) not in (tuple, list):
    raise PickleError("expected the shape of a tensor")
  budget.take_values(len(arguments[0]))
  return tuple(arguments[0])


_headers: list[bytes] = []  # Of storages that were read: nearly all are equal.
_MOST_HEADERS = 4
_KNOWN: inert.Known = {
  **inert.DICTIONARIES,
  ("torch.storage", "_load_from_bytes"): _load_from_bytes,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
  ("torch", "Size"): _size,
  **pickled_arrays.KNOWN,
}
