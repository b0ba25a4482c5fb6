"""Writes files in exactly the layout of `torch.save`, without PyTorch.

Checked against PyTorch 2.13, which writes the same pickle, byte for byte.
"""

import collections
import dataclasses
import io
import pickle
from typing import Any
import zipfile

import numpy as np

_STORAGE = {
  "float64": "DoubleStorage",
  "float32": "FloatStorage",
  "float16": "HalfStorage",
  "bfloat16": "BFloat16Storage",
  "int64": "LongStorage",
  "bool": "BoolStorage",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
  """A tensor: its array, and PyTorch's name of its type where NumPy has none.

  The array is stored with its strides, as a view of the array it owns.
  """

  array: np.ndarray
  dtype: str = ""

  @property
  def kind(self) -> str:
    return self.dtype or self.array.dtype.name


@dataclasses.dataclass(frozen=True)
class Global:
  """A name that the pickle refers to; never looked up here."""

  module: str
  name: str

  def __call__(self, *args: Any) -> None:
    raise AssertionError("only its name is pickled")


@dataclasses.dataclass(frozen=True, eq=False)
class Object:
  """An object that the pickle makes by calling a name, with a state."""

  function: Global
  arguments: tuple[Any, ...] = ()
  state: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
  key: str
  kind: str
  size: int


class _Pickler(pickle._Pickler):  # pylint: disable=protected-access
  """The pure-Python pickler, which does not look names up that it is told to write."""

  def __init__(self, file: io.BytesIO, untyped: bool) -> None:
    super().__init__(file, protocol=2)
    self._untyped = untyped
    self._names: dict[Global, Global] = {}
    self.storages: dict[int, tuple[_Storage, np.ndarray]] = {}

  def save(self, obj: Any, save_persistent_id: bool = True) -> None:
    if id(obj) in self.memo:
      self.write(self.get(self.memo[id(obj)][0]))
    elif isinstance(obj, Global):
      self._save_name(obj)
    elif isinstance(obj, Object):
      self.save_reduce(obj.function, obj.arguments, obj.state, obj=obj)
    elif isinstance(obj, Tensor):
      self._save_tensor(obj)
    else:
      super().save(obj, save_persistent_id)

  def _save_name(self, name: Global) -> None:
    name = self._names.setdefault(name, name)
    if known := self.memo.get(id(name)):
      self.write(self.get(known[0]))
    else:
      self.write(pickle.GLOBAL + f"{name.module}\n{name.name}\n".encode())
      self.memoize(name)

  def persistent_id(self, obj: Any) -> Any:
    if not isinstance(obj, _Storage):
      return None
    kind = Global("torch", _STORAGE[obj.kind])
    size = obj.size
    if self._untyped:
      kind, size = Global("torch.storage", "UntypedStorage"), 4 * size
    return ("storage", kind, obj.key, "cpu", size)

  def _save_tensor(self, tensor: Tensor) -> None:
    array = tensor.array
    owner = array if array.base is None else array.base
    if id(owner) not in self.storages:
      flat = owner.reshape(-1)
      storage = _Storage(str(len(self.storages)), tensor.kind, flat.size)
      self.storages[id(owner)] = storage, flat
    storage, flat = self.storages[id(owner)]
    start = array.__array_interface__["data"][0] - flat.__array_interface__["data"][0]
    size = array.itemsize
    view = (
      storage,
      start // size,
      array.shape,
      tuple(s // size for s in array.strides),
    )
    hooks = collections.OrderedDict()
    if self._untyped:
      rebuild = Global("torch._utils", "_rebuild_tensor_v3")
      arguments = (*view, False, hooks, Global("torch", tensor.kind))
    else:
      rebuild = Global("torch._utils", "_rebuild_tensor_v2")
      arguments = (*view, False, hooks)
    self.save_reduce(rebuild, arguments, obj=tensor)


def save(root: Any, path, *, byteorder: str = "little", untyped: bool = False) -> None:
  """Writes an object of containers, numbers, `Tensor` and `Object`.

  Args:
    root: the object.
    path: of the file.
    byteorder: "little", "big", or "" for a file from before it was recorded.
    untyped: store 4-byte tensors as `torch.save` stores types without a storage class.
  """
  buffer = io.BytesIO()
  pickler = _Pickler(buffer, untyped)
  pickler.dump(root)
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", buffer.getvalue())
    if byteorder:
      archive.writestr("archive/byteorder", byteorder)
    for storage, flat in pickler.storages.values():
      data = flat.astype(flat.dtype.newbyteorder("><"[byteorder != "big"]))
      archive.writestr(f"archive/data/{storage.key}", data.tobytes())
    archive.writestr("archive/version", "3\n")


def parameter(array: np.ndarray) -> Object:
  """A tensor wrapped as `torch.nn.Parameter`."""
  return Object(
    Global("torch._utils", "_rebuild_parameter"),
    (Tensor(array), True, collections.OrderedDict()),
  )
