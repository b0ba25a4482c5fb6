"""Descriptions of the tensors in pickles of PyTorch, checked and inert."""

import math
from typing import Any
from typing import NamedTuple

import numpy as np

from jmp_hk.interop import inert

# Directions of a tensor; weights have up to three.
MAX_RANK = 8
_MAX_SIZE = 1 << 40  # Elements along one direction.
BFLOAT16 = "bfloat16"
# Types of numbers: PyTorch's storage class and dtype, NumPy's type of the bytes.
_TYPES = (
  ("DoubleStorage", "float64", "f8"),
  ("FloatStorage", "float32", "f4"),
  ("HalfStorage", "float16", "f2"),
  ("BFloat16Storage", BFLOAT16, "u2"),
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
_FLOATS = ("float64", "float32", "float16", BFLOAT16)


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


def find_storage(pid: Any) -> Storage:
  """The description of the storage that a pickle's persistent id stands for.

  Raises:
    PickleError: it stands for something else.
  """
  if type(pid) is tuple and len(pid) >= 5:
    kind, dtype, key, _, size = pid[:5]
    is_storage = type(kind) is str and kind == "storage" and type(key) is str
    if is_storage and type(dtype) is inert.Name and _are_sizes((size,)):
      if dtype.origin in _UNTYPED:
        return Storage(key, None, size)
      if dtype.origin in _DTYPES:
        return Storage(key, _DTYPES[dtype.origin], size)
  raise inert.PickleError(f"expected a tensor storage, found {inert.describe(pid)}")


def _rebuild_tensor(arguments: tuple[Any, ...], budget: inert.Budget) -> Tensor:
  """Stands for `torch._utils._rebuild_tensor_v2`."""
  if len(arguments) < 4:
    raise inert.PickleError("a tensor has no storage, offset, shape and strides")
  storage = arguments[0]
  if not isinstance(storage, Storage) or storage.dtype is None:
    raise inert.PickleError("a tensor has no typed storage")
  return _make_tensor(storage, storage.dtype, storage.size, arguments[1:4], budget)


def _rebuild_typed_tensor(arguments: tuple[Any, ...], budget: inert.Budget) -> Tensor:
  """Stands for `torch._utils._rebuild_tensor_v3`, whose seventh argument is a dtype."""
  if len(arguments) < 7:
    raise inert.PickleError("a tensor has no storage, shape and dtype")
  storage, name = arguments[0], arguments[6]
  dtype = _DTYPES.get(name.origin) if type(name) is inert.Name else None
  is_untyped = isinstance(storage, Storage) and storage.dtype is None
  if not is_untyped or dtype is None or storage.size % dtype.itemsize:
    raise inert.PickleError("a tensor has no untyped storage or no dtype")
  count = storage.size // dtype.itemsize
  return _make_tensor(storage, dtype, count, arguments[1:4], budget)


def _make_tensor(
  storage: Storage,
  dtype: DType,
  count: int,
  view: tuple[Any, ...],
  budget: inert.Budget,
) -> Tensor:
  """A view (offset, shape, strides) of a storage, checked to lie inside."""
  offset, shape, strides = view
  valid = (
    type(shape) is tuple
    and type(strides) is tuple
    and len(shape) == len(strides) <= MAX_RANK
    and _are_sizes((offset, *shape, *strides))
  )
  if not valid or math.prod(max(size, 1) for size in shape) >= _MAX_SIZE:
    found = "a tensor has the impossible shape "
    raise inert.PickleError(found + _describe_shape(shape))
  steps = zip(shape, strides, strict=True)
  last = offset + sum((size - 1) * stride for size, stride in steps)
  if math.prod(shape) and last >= count:
    raise inert.PickleError(f"a tensor of shape {shape} exceeds its storage")
  budget.take_array(math.prod(shape) * dtype.itemsize)
  return Tensor(storage, dtype, offset, shape, strides)


def _describe_shape(shape: Any) -> str:
  if type(shape) is not tuple or len(shape) > MAX_RANK:
    return inert.describe(shape)
  return "(" + ", ".join(map(inert.describe, shape)) + ")"


def _rebuild_parameter(arguments: tuple[Any, ...], budget: inert.Budget) -> Any:
  """Stands for `torch._utils._rebuild_parameter`: a parameter is its tensor."""
  del budget
  if not arguments:
    raise inert.PickleError("a parameter has no tensor")
  return arguments[0]


def _size(arguments: tuple[Any, ...], budget: inert.Budget) -> tuple[Any, ...]:
  """Stands for `torch.Size`."""
  sizes = arguments[0] if arguments else ()
  if type(sizes) not in (tuple, list):
    raise inert.PickleError(f"expected a shape, found {inert.describe(sizes)}")
  budget.take_values(len(sizes))
  return tuple(sizes)


def _are_sizes(values: tuple[Any, ...]) -> bool:
  """Whether all values are possible numbers of elements."""
  return all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)


_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
_DTYPES = {
  f"torch.{key}": DType(name, stored)
  for kind, name, stored in _TYPES
  for key in (kind, name)
  if key
}
KNOWN: inert.Known = {
  **inert.DICTIONARIES,
  ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed_tensor,
  ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
  ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
  ("torch", "Size"): _size,
}
