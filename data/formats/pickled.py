"""Reads pickled PyTorch Geometric records without PyTorch, and safely.

OC20's and OC22's LMDB values are pickles of `torch_geometric.data.Data`. A pickle may
name any function to call, so only what these records need is known here: tensors,
which become NumPy arrays, and plain containers. Every other name becomes an inert
object that does nothing (`jmp_hk.interop.restricted_pickle`).
"""

from collections.abc import Mapping
import io
from typing import Any

import numpy as np
from numpy._core import multiarray  # Where NumPy's own pickles find their functions.

from jmp_hk.interop import restricted_pickle

_STORAGES = {
  "DoubleStorage": "<f8",
  "FloatStorage": "<f4",
  "HalfStorage": "<f2",
  "LongStorage": "<i8",
  "IntStorage": "<i4",
  "ShortStorage": "<i2",
  "CharStorage": "i1",
  "ByteStorage": "u1",
  "BoolStorage": "?",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

Inert = restricted_pickle.Inert
PickleError = restricted_pickle.PickleError


def load(data: bytes) -> Any:
  """Unpickles some bytes, with arrays for tensors and `Inert` for unknown objects.

  Raises:
    PickleError: the bytes are truncated or corrupt.
  """
  return restricted_pickle.loads(data, _KNOWN)


def load_record(data: bytes) -> Mapping[str, Any]:
  """The attributes of a pickled `Data` (PyG 1 or 2), or a pickled dict.

  Raises:
    PickleError: the bytes hold something else.
  """
  return attributes(load(data))


def attributes(record: Any) -> Mapping[str, Any]:
  """The attributes of an unpickled `Data`, or of a dict."""
  if isinstance(record, Inert):
    state = record.state
    if isinstance(state, dict):
      store = state.get("_store")
      if isinstance(store, Inert) and isinstance(store.state, dict):
        store = store.state.get("_mapping")
      record = store if isinstance(store, dict) else state
  if not isinstance(record, dict):
    raise PickleError(f"expected a pickled Data object, found {type(record).__name__}")
  return record


def _load_from_bytes(data: bytes) -> np.ndarray:
  """The values of a storage saved by `torch.save` in its stream format."""
  file = io.BytesIO(data)
  dtypes: dict[str, np.dtype] = {}

  def storage(pid: Any) -> np.dtype:
    kind, dtype, key = pid[:3]
    if kind != "storage" or not isinstance(dtype, np.dtype):
      raise PickleError(f"expected a tensor storage, found {kind!r}")
    dtypes[key] = dtype
    return dtype

  def load_next() -> Any:
    return restricted_pickle.Unpickler(file, _KNOWN, storage).load()

  if load_next() != _LEGACY_MAGIC:
    raise PickleError("expected a tensor storage in PyTorch's stream format")
  load_next()  # protocol
  load_next()  # byte order and integer sizes
  load_next()  # the storage itself
  keys = load_next()
  if len(keys) != 1 or keys[0] not in dtypes:
    raise PickleError(f"expected one tensor storage, found {len(keys)}")
  dtype = dtypes[keys[0]]
  count = int(np.frombuffer(file.read(8), "<i8")[0])
  values = file.read(count * dtype.itemsize)
  if len(values) != count * dtype.itemsize:
    raise PickleError("a tensor storage is truncated")
  return np.frombuffer(values, dtype)


def _rebuild_tensor(
  storage: np.ndarray,
  offset: int,
  size: tuple[int, ...],
  stride: tuple[int, ...],
  *unused: Any,
) -> np.ndarray:
  """A tensor as a copy of its part of a storage, bounds checked."""
  del unused
  size, stride = tuple(size), tuple(stride)
  last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
  if 0 in size:
    return np.zeros(size, storage.dtype)
  if offset < 0 or min((*size, *stride), default=0) < 0 or last >= len(storage):
    raise PickleError(f"a tensor of shape {size} exceeds its storage")
  strides = tuple(s * storage.itemsize for s in stride)
  return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


_Function = restricted_pickle.Function
_KNOWN: restricted_pickle.Known = {
  **restricted_pickle.DICTIONARIES,
  **{("torch", name): np.dtype(kind) for name, kind in _STORAGES.items()},
  ("torch.storage", "_load_from_bytes"): _Function(_load_from_bytes),
  ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
  ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
  ("torch", "Size"): tuple,
  ("numpy", "dtype"): np.dtype,
  ("numpy", "ndarray"): np.ndarray,
  **{
    (f"numpy.{core}.multiarray", name): getattr(multiarray, name)
    for core in ("core", "_core")
    for name in ("scalar", "_reconstruct")
  },
}
