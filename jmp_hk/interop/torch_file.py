"""Reads files that `torch.save` wrote, without PyTorch and one tensor at a time.

Such a file is a zip archive: `NAME/data.pkl` is a pickle in which every tensor refers
to a storage, and `NAME/data/KEY` holds the bytes of that storage. The pickle is read
without calling anything that it names (`restricted_pickle`). Tensors become
descriptions, `torch_tensors.Tensor`, which `TorchFile.read` turns into arrays.

What the archive and the pickle announce is compared with what is there before memory is
taken for it: sizes of entries and storages, bounds of tensors, and their bytes in all.
"""

import os
import pathlib
from typing import Any
import zipfile

import numpy as np

from jmp_hk import zip_entries
from jmp_hk.interop import inert
from jmp_hk.interop import restricted_pickle
from jmp_hk.interop import torch_tensors

# Bytes of the pickle. That of a checkpoint of JMP-L has five million.
MAX_PICKLE_BYTES = 1 << 28
# Times that the tensors of a file may use its bytes. Published files use a few tensors
# twice.
MAX_SHARING = 4
_SMALL = 1 << 20  # Bytes that the tensors of any file may have.
_DATA = "/data.pkl"

Tensor = torch_tensors.Tensor


class TorchFileError(ValueError):
  """A file is not what `torch.save` writes; the message says what is wrong."""


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
    except (FileNotFoundError, PermissionError):
      raise
    except zip_entries.UNREADABLE as error:
      raise TorchFileError(
        f"{path} is not a zip archive as torch.save writes (since PyTorch 1.6), or it "
        f"is truncated: {error}"
      ) from error
    try:
      self._check_entries()
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
      flat = np.frombuffer(self._storage_bytes(tensor.storage), stored)
      strides = [stride * stored.itemsize for stride in tensor.strides]
      values = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
      )
    if tensor.dtype.name == torch_tensors.BFLOAT16:  # The upper half of a float32.
      return np.asarray(values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.dtype(tensor.dtype.stored), copy=False)

  def _check_entries(self) -> None:
    if problem := zip_entries.find_archive_problem(self._archive):
      raise TorchFileError(f"{self.path} is refused: {problem}.")

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
    name = self._prefix + _DATA
    size = self._archive.getinfo(name).file_size
    if size > MAX_PICKLE_BYTES:
      raise TorchFileError(
        f"{self.path} is refused: {name} has {size} bytes, more than "
        f"{MAX_PICKLE_BYTES}."
      )
    entries = sum(entry.file_size for entry in self._archive.infolist())
    budget = inert.Budget(array_bytes=_SMALL + MAX_SHARING * entries)
    data = self._read_entry(name)
    try:
      return restricted_pickle.loads(
        data, torch_tensors.KNOWN, self._find_storage, budget
      )
    except inert.PickleError as error:
      raise TorchFileError(f"{self.path} cannot be read: {error}.") from error

  def _find_storage(self, pid: Any) -> torch_tensors.Storage:
    """The storage that a persistent id stands for, which is as large as it says."""
    storage = torch_tensors.find_storage(pid)
    name = f"{self._prefix}/data/{storage.key}"
    wanted = storage.size * (storage.dtype.itemsize if storage.dtype else 1)
    try:
      found = self._archive.getinfo(name).file_size
    except KeyError as error:
      raise TorchFileError(f"{self.path} is truncated: it has no {name}.") from error
    if found != wanted:
      raise TorchFileError(
        f"{self.path}: storage {storage.key} has {found} bytes instead of {wanted}."
      )
    return storage

  def _storage_bytes(self, storage: torch_tensors.Storage) -> bytes:
    return self._read_entry(f"{self._prefix}/data/{storage.key}")

  def _read_entry(self, name: str) -> bytes:
    try:
      return self._archive.read(name)
    except zip_entries.UNREADABLE as error:
      raise TorchFileError(f"{self.path}: {name} cannot be read: {error}.") from error
