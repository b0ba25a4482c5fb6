"""Reads files that `torch.save` wrote, without PyTorch and one tensor at a time.

Such a file is a zip archive: `NAME/data.pkl` is a pickle in which every tensor refers
to a storage, and `NAME/data/KEY` holds the bytes of that storage. The pickle is read
with an allow-list (`restricted_pickle`). Tensors become descriptions of the class
`Tensor`, which `TorchFile.read` turns into arrays.
"""

import math
import os
import pathlib
from typing import Any
from typing import NamedTuple
import zipfile

import numpy as np

from jmp_hk.interop import restricted_pickle

_BFLOAT16 = "bfloat16"
# Types of numbers: PyTorch's storage class and dtype, NumPy's type of the bytes.
_TYPES = (
  ("DoubleStorage", "float64", "f8"),
  ("FloatStorage", "float32", "f4"),
  ("HalfStorage", "float16", "f2"),
  ("BFloat16Storage", _BFLOAT16, "u2"),
  ("LongStorage", "int64", "i8"),
  ("IntStorage", "int32", "i4"),
  ("ShortStorage", "int16", "i2"),
  ("CharStorage", "int8", "i1"),
  ("ByteStorage", "uint8", "u1"),
  ("BoolStorage", "bool", "?"),
  ("ComplexFloatStorage", "complex64", "c8"),
  ("ComplexDoubleStorage", "complex128", "c16"),
  ("", "uint16", "u2"),
  ("", "uint32", "u4"),
  ("", "uint64", "u8"),
)
_FLOATS = ("float64", "float32", "float16", _BFLOAT16)
_DATA = "/data.pkl"


class TorchFileError(ValueError):
  """A file is not what `torch.save` writes; the message says what is wrong."""


class DType(NamedTuple):
  """A type of numbers.

  Attributes:
    name: PyTorch's name.
    stored: NumPy's name of the type of the stored bytes.
  """

  name: str
  stored: str

  @property
  def itemsize(self) -> int:
    """Bytes of one number."""
    return np.dtype(self.stored).itemsize

  @property
  def is_floating(self) -> bool:
    """Whether the numbers are floating-point numbers."""
    return self.name in _FLOATS


class Storage(NamedTuple):
  """The bytes behind one or several tensors.

  Attributes:
    key: name of the archive's entry.
    dtype: type of the numbers; None for plain bytes.
    size: number of elements.
  """

  key: str
  dtype: DType | None
  size: int


class Tensor(NamedTuple):
  """A tensor in the archive, which is a view of a storage.

  Attributes:
    storage: the storage.
    dtype: type of the numbers.
    offset: number of elements before the first.
    shape: shape of the tensor.
    strides: distances along each axis, in elements.
  """

  storage: Storage
  dtype: DType
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class TorchFile:
  """An open file, to be used as a context manager.

  Attributes:
    path: path of the file.
    root: the unpickled object, with `Tensor` in place of tensors and `Inert` in place
      of objects of unknown classes.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Opens a file and unpickles it; tensors stay in the file.

    Args:
      path: path of the file.

    Raises:
      FileNotFoundError: there is no such file.
      TorchFileError: it is not what `torch.save` writes.
    """
    self.path = pathlib.Path(path)
    try:
      self._archive = zipfile.ZipFile(self.path)
    except (zipfile.BadZipFile, IsADirectoryError) as error:
      raise TorchFileError(
        f"{path} is not a zip archive as torch.save writes (since PyTorch 1.6), or it "
        f"is truncated: {error}"
      ) from error
    try:
      self._prefix = self._find_prefix()
      self._order = self._byte_order()
      self.root: Any = self._unpickle()
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> "TorchFile":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file; its tensors cannot be read any more."""
    self._archive.close()

  def read(self, tensor: Tensor) -> np.ndarray:
    """Reads one tensor.

    Args:
      tensor: a tensor of this file.

    Returns:
      A new array, possibly with the file's strides; bfloat16 becomes float32.

    Raises:
      TorchFileError: the storage is missing, truncated or corrupt.
    """
    if 0 in tensor.shape:
      values = np.zeros(tensor.shape, tensor.dtype.stored)
    else:
      stored = np.dtype(self._order + tensor.dtype.stored)
      flat = np.frombuffer(self._storage_bytes(tensor.storage, stored.itemsize), stored)
      strides = [stride * stored.itemsize for stride in tensor.strides]
      values = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
      )
    if tensor.dtype.name == _BFLOAT16:  # The upper half of a float32.
      return np.asarray(values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.dtype(tensor.dtype.stored), copy=False)

  def _find_prefix(self) -> str:
    entries = [name for name in self._archive.namelist() if name.endswith(_DATA)]
    if len(entries) != 1:
      raise TorchFileError(
        f"{self.path} is a zip archive but torch.save did not write it: expected one "
        f"entry called NAME{_DATA}, found {len(entries)}."
      )
    return entries[0].removesuffix(_DATA)

  def _byte_order(self) -> str:
    name = f"{self._prefix}/byteorder"
    if name not in self._archive.namelist():
      return "<"  # Older files have no such entry.
    order = self._read_entry(name).strip()
    if order not in (b"little", b"big"):
      raise TorchFileError(f"{self.path} has the unknown byte order {order!r}.")
    return "<" if order == b"little" else ">"

  def _unpickle(self) -> Any:
    data = self._read_entry(self._prefix + _DATA)
    try:
      return restricted_pickle.loads(data, _KNOWN, _persistent_load)
    except restricted_pickle.PickleError as error:
      raise TorchFileError(f"{self.path} cannot be read: {error}.") from error

  def _storage_bytes(self, storage: Storage, itemsize: int) -> bytes:
    data = self._read_entry(f"{self._prefix}/data/{storage.key}")
    wanted = storage.size * (itemsize if storage.dtype else 1)
    if len(data) != wanted:
      raise TorchFileError(
        f"{self.path}: storage {storage.key} has {len(data)} bytes instead of {wanted}."
      )
    return data

  def _read_entry(self, name: str) -> bytes:
    try:
      return self._archive.read(name)
    except (KeyError, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
      raise TorchFileError(f"{self.path}: {name} cannot be read: {error}.") from error


def _persistent_load(pid: Any) -> Storage:
  """The storage that a pickle's persistent id stands for."""
  if isinstance(pid, tuple) and len(pid) >= 5:
    kind, dtype, key, _, size = pid[:5]
    if kind == "storage" and isinstance(key, str) and _are_sizes((size,)):
      if dtype == _UNTYPED:
        return Storage(key, None, size)
      if isinstance(dtype, DType):
        return Storage(key, dtype, size)
  raise restricted_pickle.PickleError(f"expected a tensor storage, found {pid!r}")


def _rebuild_tensor(
  storage: Any, offset: Any, shape: Any, strides: Any, *unused: Any
) -> Tensor:
  """Stands for `torch._utils._rebuild_tensor_v2`."""
  del unused  # Whether it needs gradients, hooks.
  if not isinstance(storage, Storage) or storage.dtype is None:
    raise restricted_pickle.PickleError("a tensor has no typed storage")
  return _make_tensor(storage, storage.dtype, storage.size, offset, shape, strides)


def _rebuild_typed_tensor(
  storage: Any,
  offset: Any,
  shape: Any,
  strides: Any,
  gradient: Any,
  hooks: Any,
  dtype: Any,
  *unused: Any,
) -> Tensor:
  """Stands for `torch._utils._rebuild_tensor_v3`."""
  del gradient, hooks, unused
  is_untyped = isinstance(storage, Storage) and storage.dtype is None
  if not is_untyped or not isinstance(dtype, DType):
    raise restricted_pickle.PickleError("a tensor has no untyped storage or no dtype")
  count = storage.size // dtype.itemsize
  return _make_tensor(storage, dtype, count, offset, shape, strides)


def _make_tensor(
  storage: Storage, dtype: DType, count: int, offset: Any, shape: Any, strides: Any
) -> Tensor:
  """A view of a storage of `count` elements, checked to lie inside."""
  valid = (
    isinstance(shape, tuple)
    and isinstance(strides, tuple)
    and len(shape) == len(strides)
    and _are_sizes((offset, *shape, *strides))
  )
  if not valid:
    raise restricted_pickle.PickleError(f"a tensor has the impossible shape {shape!r}")
  steps = zip(shape, strides, strict=True)
  last = offset + sum((size - 1) * stride for size, stride in steps)
  if math.prod(shape) and last >= count:
    raise restricted_pickle.PickleError(
      f"a tensor of shape {shape} exceeds its storage"
    )
  return Tensor(storage, dtype, offset, shape, strides)


def _rebuild_parameter(data: Any, *unused: Any) -> Any:
  """Stands for `torch._utils._rebuild_parameter`: a parameter is its tensor."""
  del unused
  return data


def _are_sizes(values: tuple[Any, ...]) -> bool:
  """Whether all values are integers that are not negative."""
  return all(type(value) is int and value >= 0 for value in values)


_UNTYPED = "untyped storage"
_Function = restricted_pickle.Function
_KNOWN: restricted_pickle.Known = {
  **restricted_pickle.DICTIONARIES,
  ("torch._utils", "_rebuild_tensor"): _Function(_rebuild_tensor),
  ("torch._utils", "_rebuild_tensor_v2"): _Function(_rebuild_tensor),
  ("torch._utils", "_rebuild_tensor_v3"): _Function(_rebuild_typed_tensor),
  ("torch._utils", "_rebuild_parameter"): _Function(_rebuild_parameter),
  ("torch._utils", "_rebuild_parameter_with_state"): _Function(_rebuild_parameter),
  ("torch", "Size"): _Function(lambda values=(): tuple(values)),
  ("torch.storage", "UntypedStorage"): _UNTYPED,
  ("torch", "UntypedStorage"): _UNTYPED,
  **{("torch", kind): DType(name, stored) for kind, name, stored in _TYPES if kind},
  **{("torch", name): DType(name, stored) for _, name, stored in _TYPES},
}
