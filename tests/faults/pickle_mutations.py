"""Makes damaged and hostile pickles from good ones, and reads them under watch.

Run as a program, in a process of its own, with the number of pickles and a seed:

  python -m tests.faults.pickle_mutations 100000 0

It prints what happened as JSON. A sentinel ends the process if reading a pickle
imports, opens, compiles or starts anything.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import io
import json
import os
import pathlib
import pickle
import pickletools
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile

import numpy as np

from data.formats import lmdb_records
from data.formats import pickled
from jmp_hk.interop import inert
from jmp_hk.interop import torch_file
from jmp_hk.interop import weights
from tests.data import raw_files
from tests.jmp_hk.interop import torch_save

MOST_SECONDS = 10.0  # For one pickle.
MOST_BYTES = 2 << 30  # Of the whole process, beyond what it has at the beginning.
# Events that reading a pickle may not cause.
_FORBIDDEN = ("compile", "exec", "import", "open", "os.", "subprocess.", "pickle.")
_FORBIDDEN += ("ctypes.", "socket.", "shutil.", "code.", "marshal.", "sys.")
_CODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
_SIZES = (0, 1, 2, 7, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_NAMES = (
  ("os", "system"),
  ("builtins", "eval"),
  ("builtins", "getattr"),
  ("numpy", "dtype"),
  ("numpy", "ndarray"),
  ("numpy.core.multiarray", "scalar"),
  ("numpy.core.multiarray", "_reconstruct"),
  ("torch._utils", "_rebuild_tensor_v2"),
  ("torch._utils", "_rebuild_tensor_v3"),
  ("torch._utils", "_rebuild_parameter"),
  ("torch.storage", "_load_from_bytes"),
  ("torch", "Size"),
  ("torch", "FloatStorage"),
  ("collections", "OrderedDict"),
  ("tests.faults.pickle_mutations", "detonate"),
)


def detonate(*unused: object) -> None:
  """Ends the process: no pickle may call this."""
  os._exit(99)


class _Detonator:
  def __reduce__(self):
    return detonate, ("called",)


def good_records() -> list[bytes]:
  """Pickles of the kinds that are read from LMDB."""
  records = [raw_files.pickle_data(raw_files.oc22_record(seed)) for seed in range(3)]
  arrays = {
    "pos": np.eye(3, dtype=np.float32),
    "y": np.float64(-1.5),
    "tags": np.arange(3),
    "nested": [{"a": (1, 2.5, None, True)}, {3, 4}, frozenset({"b"}), b"bytes"],
  }
  records += [pickle.dumps(arrays, protocol) for protocol in range(5)]
  records.append(pickle.dumps({"y": _Detonator()}, 2))
  # The type of objects whose flags are cleared, and an address: NumPy's own functions
  # take it for an object.
  dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8K\x00K\x01tR(K\x03X\x01\x00\x00\x00|"
  dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
  address = b"C\x08" + struct.pack("<Q", 0x4141414141414141)
  records.append(
    b"\x80\x04cnumpy.core.multiarray\nscalar\n(" + dtype + address + b"tR."
  )
  return records


def good_checkpoints() -> list[bytes]:
  """Pickles of the kinds that are read from PyTorch's files."""
  state = {
    "a.weight": torch_save.Tensor(np.ones((4, 3), np.float32)),
    "b.weight": torch_save.Tensor(np.arange(5, dtype=np.float32)),
    "c.weight": torch_save.parameter(np.ones(3, np.float32)),
  }
  found = []
  average = {"ema": list(state.values())}
  for root in (state, {"state_dict": state, "optimizer_states": [average]}):
    for untyped in (False, True):
      with tempfile.NamedTemporaryFile() as file:
        torch_save.save(root, file.name, untyped=untyped)
        with zipfile.ZipFile(file.name) as archive:
          found.append(archive.read("archive/data.pkl"))
  return found


def mutated(good: list[bytes], rng: random.Random) -> Iterator[bytes]:
  """Endless mutations of good pickles."""
  parts = [_instructions(data) for data in good]
  while True:
    number = rng.randrange(len(good))
    if rng.random() < 0.3:
      yield _flipped(good[number], rng)
      continue
    sequence = list(parts[number])
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
      rng.choice(_CHANGES)(sequence, parts, rng)
    yield b"".join(sequence)


def _instructions(data: bytes) -> list[bytes]:
  """The bytes of each instruction."""
  places = [position for _, _, position in pickletools.genops(data)]
  return [
    data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)
  ]


def _flipped(data: bytes, rng: random.Random) -> bytes:
  """Some bits flipped, some bytes replaced, or the end cut off."""
  changed = bytearray(data)
  for _ in range(rng.choice((1, 1, 2, 5, 20))):
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
  if rng.random() < 0.2:
    del changed[rng.randrange(len(changed)) :]
  return bytes(changed)


def _random_instruction(rng: random.Random) -> bytes:
  """An instruction with any argument, possible or not."""
  kind = rng.random()
  if kind < 0.2:
    module, name = rng.choice(_NAMES)
    return f"c{module}\n{name}\n".encode()
  if kind < 0.3:
    return b"J" + struct.pack("<I", rng.choice(_SIZES) & 0xFFFFFFFF)
  code = rng.choice(_CODES)
  size = rng.choice(_SIZES)
  argument = rng.choice(
    (
      b"",
      bytes((size & 255,)),
      struct.pack("<I", size & 0xFFFFFFFF),
      struct.pack("<Q", size),
      str(size).encode() + b"\n",
      b"9" * rng.choice((1, 100, 10_000)) + b"\n",
      rng.randbytes(rng.randrange(12)),
    )
  )
  return code + argument


def _replace(sequence: list[bytes], parts: object, rng: random.Random) -> None:
  sequence[rng.randrange(len(sequence))] = _random_instruction(rng)


def _insert(sequence: list[bytes], parts: object, rng: random.Random) -> None:
  sequence.insert(rng.randrange(len(sequence)), _random_instruction(rng))


def _delete(sequence: list[bytes], parts: object, rng: random.Random) -> None:
  del sequence[rng.randrange(len(sequence))]
  if not sequence:
    sequence.append(b".")


def _swap(sequence: list[bytes], parts: object, rng: random.Random) -> None:
  first, second = rng.randrange(len(sequence)), rng.randrange(len(sequence))
  sequence[first], sequence[second] = sequence[second], sequence[first]


def _splice(
  sequence: list[bytes], parts: list[list[bytes]], rng: random.Random
) -> None:
  """Puts a part of another pickle somewhere."""
  other = rng.choice(parts)
  start = rng.randrange(len(other))
  place = rng.randrange(len(sequence))
  sequence[place:place] = other[start : start + rng.randrange(30)]


def _repeat(sequence: list[bytes], parts: object, rng: random.Random) -> None:
  """Repeats an instruction many times."""
  place = rng.randrange(len(sequence))
  sequence[place:place] = [sequence[place]] * rng.choice((2, 50, 3000))


def _double(sequence: list[bytes], parts: object, rng: random.Random) -> None:
  """Tuples that share their parts, with an exponential number of values."""
  place = rng.randrange(len(sequence))
  end = rng.choice((b"", b"NsNs", b"K\x00s", b"Q", b"\x85R", b"\x91", b"a", b"b"))
  sequence.insert(place, b"N" + b"2\x86" * rng.choice((3, 30, 300)) + end)


_CHANGES: tuple[Callable[..., None], ...] = (
  _replace,
  _replace,
  _insert,
  _insert,
  _delete,
  _swap,
  _splice,
  _repeat,
  _double,
)


def read_record(data: bytes) -> None:
  """Reads a record as a conversion does."""
  record = pickled.load_record(data)
  # As `lmdb_records.read` does: the record is invalid, and named.
  with contextlib.suppress(KeyError, ValueError, TypeError):
    lmdb_records.to_structure(record, "record")


class _Checkpoints:
  """Reads pickles as parts of PyTorch's files."""

  def __init__(self, folder: pathlib.Path) -> None:
    self._path = folder / "file.pt"

  def __call__(self, data: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
      archive.writestr("archive/data.pkl", data)
      for key, size in enumerate((48, 20, 12)):
        archive.writestr(f"archive/data/{key}", bytes(size))
    _Watch.active = False
    self._path.write_bytes(buffer.getvalue())
    _Watch.active = True
    with torch_file.TorchFile(self._path) as file:
      for tensor in weights.find(file.root).tensors.values():
        file.read(tensor)


class _Watch:
  """Which events are watched, and what they may open."""

  active = False
  may_open = ""


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
  if not _Watch.active or not event.startswith(_FORBIDDEN):
    return
  if event == "open" and str(arguments[0]) == _Watch.may_open:
    return
  os.write(2, f"forbidden: {event} {arguments!r:.200}\n".encode())
  os._exit(98)


def run(count: int, seed: int) -> dict[str, object]:
  """Reads mutated pickles, and counts what happened."""
  rng = random.Random(seed)
  table: Counter[str] = Counter()
  slowest, failures = 0.0, []
  with tempfile.TemporaryDirectory() as folder:
    _Watch.may_open = str(pathlib.Path(folder) / "file.pt")
    checkpoints = _Checkpoints(pathlib.Path(folder))
    kinds = (
      ("record", mutated(good_records(), rng), read_record),
      ("checkpoint", mutated(good_checkpoints(), rng), checkpoints),
    )
    for read, data in ((read_record, good_records()[0]), (checkpoints, b"N.")):
      _attempt(read, data)  # What is imported late is imported now.
    _Watch.active = False
    warnings.simplefilter("error")  # They would open source files to be shown.
    sys.addaudithook(_on_event)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MOST_BYTES,) * 2)
    for _ in range(count):
      kind, source, read = kinds[rng.random() < 0.3]
      data = next(source)
      start = time.perf_counter()
      _Watch.active = True
      outcome = _attempt(read, data)
      _Watch.active = False
      seconds = time.perf_counter() - start
      slowest = max(slowest, seconds)
      if seconds > MOST_SECONDS:
        outcome = "too slow"
      table[f"{kind}: {outcome}"] += 1
      if outcome not in ("accepted", "refused") and len(failures) < 20:
        failures.append([kind, outcome, data[:2000].hex()])
  grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - memory
  return {
    "table": dict(sorted(table.items())),
    "slowest": round(slowest, 3),
    "grown_megabytes": grown >> 20,
    "failures": failures,
  }


def _attempt(read: Callable[[bytes], None], data: bytes) -> str:
  try:
    read(data)
  except (inert.PickleError, torch_file.TorchFileError, weights.WeightsError):
    return "refused"
  except BaseException as error:
    return f"{type(error).__name__}: {str(error)[:80]}"
  return "accepted"


def _address_space() -> int:
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  return pages * resource.getpagesize()


if __name__ == "__main__":
  print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))))
