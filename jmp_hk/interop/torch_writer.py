"""Writes state dicts as `torch.save` does, without PyTorch and one tensor at a time."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import io
import math
import os
import pathlib
import struct
from typing import NamedTuple
import zipfile

import numpy as np

from jmp_hk import files

_ALIGNMENT = 64  # Storages start at multiples of this, in bytes, to be memory-mapped.
_PADDING_FIELD = 0x4246  # PyTorch's kind of extra field, "FB".
_HEADER_BYTES = 30  # Size of a zip entry's header without name and extra field.
_DATE = (1980, 1, 1, 0, 0, 0)  # Files do not depend on the time they are written at.


class Entry(NamedTuple):
  """One tensor of a state dict.

  Attributes:
    name: name of the tensor.
    shape: shape of the tensor.
    read: returns the tensor as an array; None for a second name of an earlier tensor.
    alias_of: name of that earlier tensor, or "".
  """

  name: str
  shape: tuple[int, ...]
  read: Callable[[], np.ndarray] | None
  alias_of: str = ""


def write_state_dict(path: str | os.PathLike[str], entries: Sequence[Entry]) -> None:
  """Writes a state dict of float32 tensors; the file appears whole or not at all.

  Args:
    path: the file to write.
    entries: the tensors, in their order.

  Raises:
    ValueError: a tensor has another shape than its entry says.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  keys: dict[str, str] = {}
  for entry in entries:
    keys[entry.name] = (
      keys[entry.alias_of] if entry.alias_of else str(len(set(keys.values())))
    )
  with files.open_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
    prefix = path.stem
    _add(archive, f"{prefix}/data.pkl", _pickle(entries, keys))
    _add(archive, f"{prefix}/.format_version", b"1")
    _add(archive, f"{prefix}/.storage_alignment", str(_ALIGNMENT).encode())
    _add(archive, f"{prefix}/byteorder", b"little")
    for entry in entries:
      if entry.read is not None:
        data = _tensor_bytes(entry, np.asarray(entry.read(), "<f4"))
        _add(archive, f"{prefix}/data/{keys[entry.name]}", data)
    _add(archive, f"{prefix}/version", b"3\n")


def _tensor_bytes(entry: Entry, array: np.ndarray) -> bytes:
  """Bytes of a tensor's storage, after a check of its shape."""
  if array.shape != tuple(entry.shape):
    raise ValueError(f"{entry.name} has shape {array.shape}, not {entry.shape}.")
  return array.tobytes()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
  """Adds an entry whose data start at a multiple of the alignment."""
  assert archive.fp is not None, "The archive is open."
  start = archive.fp.tell() + _HEADER_BYTES + len(name.encode()) + 4
  length = -start % _ALIGNMENT
  info = zipfile.ZipInfo(name, _DATE)
  info.extra = struct.pack("<HH", _PADDING_FIELD, length) + b"Z" * length
  archive.writestr(info, data)


def _pickle(entries: Iterable[Entry], keys: dict[str, str]) -> bytes:
  """The pickle (protocol 2) of an ordered dictionary of tensors."""
  ordered_dict = b"ccollections\nOrderedDict\n)R"
  out = io.BytesIO()
  out.write(b"\x80\x02" + ordered_dict + b"(")
  for entry in entries:
    count = math.prod(entry.shape)
    strides = [math.prod(entry.shape[i + 1 :]) for i in range(len(entry.shape))]
    out.write(_text(entry.name))
    out.write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
    out.write(_text("storage") + b"ctorch\nFloatStorage\n")
    out.write(_text(keys[entry.name]) + _text("cpu") + _integer(count) + b"tQ")
    out.write(_integer(0) + _integers(entry.shape) + _integers(strides))
    out.write(b"\x89" + ordered_dict + b"tR")  # No gradient, no hooks.
  out.write(b"u.")
  return out.getvalue()


def _text(value: str) -> bytes:
  data = value.encode()
  return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
  if value < 2**31:
    return b"J" + struct.pack("<i", value)
  data = value.to_bytes((value.bit_length() // 8) + 1, "little", signed=True)
  return b"\x8a" + struct.pack("<B", len(data)) + data


def _integers(values: Sequence[int]) -> bytes:
  return b"(" + b"".join(map(_integer, values)) + b"t"
