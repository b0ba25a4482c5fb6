"""Writes tiny raw files in the exact layout of each release."""

from collections.abc import Mapping
from collections.abc import Sequence
import io
import lzma
import math
import pathlib
import pickle
import re
import struct
import sys
import tarfile
import types

import h5py
import lmdb
import numpy as np

FRAME = """{n}
Lattice="{lattice}" Properties={properties} \
energy={energy!r} free_energy=0.0 pbc="T T T"
{lines}
"""
PROPERTIES = "species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3"


def oc20_frame(seed: int, n: int = 5, energy: float | None = None, **changes) -> str:
  """One frame as OC20 writes it; `changes` replace parts of it."""
  rng = np.random.default_rng(seed)
  positions = rng.uniform(0, 5, (n, 3))
  forces = rng.normal(size=(n, 3))
  symbols = rng.choice(["Pt", "Cu", "H", "C", "O"], n)
  lines = [
    f"{s:8s} {p[0]:.8f} {p[1]:.8f} {p[2]:.8f} {'TF'[i % 2]} {i % 3} "
    f"{f[0]:.8f} {f[1]:.8f} {f[2]:.8f}"
    for i, (s, p, f) in enumerate(zip(symbols, positions, forces))
  ]
  values = {
    "n": n,
    "lattice": "5.0 0.0 0.0 0.0 6.0 0.0 0.5 0.0 20.0",
    "properties": PROPERTIES,
    "energy": float(rng.normal() - 100) if energy is None else energy,
    "lines": "\n".join(lines),
  }
  return FRAME.format(**(values | changes))


def write_oc20(
  folder: pathlib.Path, frames: Mapping[int, Sequence[str]]
) -> pathlib.Path:
  """Writes pairs `N.extxyz.xz`, `N.txt.xz`."""
  folder.mkdir(parents=True, exist_ok=True)
  for number, texts in frames.items():
    with lzma.open(folder / f"{number}.extxyz.xz", "wt") as file:
      file.write("".join(texts))
    with lzma.open(folder / f"{number}.txt.xz", "wt") as file:
      for i, text in enumerate(texts):
        file.write(f"random{number},frame{i},{_reference(text)}\n")
  return folder


def _reference(frame: str) -> float:
  """A reference energy near the energy of a frame, or -1.5 where it has none."""
  match = re.search(r" energy=(\S+)", frame)
  try:
    energy = float(match[1]) if match else math.nan
  except ValueError:
    energy = math.nan
  return round(energy - 2.5, 6) if math.isfinite(energy) else -1.5


def oc20_folder(folder: pathlib.Path, files: int = 3, frames: int = 4) -> pathlib.Path:
  """A folder of valid pairs."""
  return write_oc20(
    folder,
    {k: [oc20_frame(100 * k + i, 3 + i) for i in range(frames)] for k in range(files)},
  )


def write_tar(
  path: pathlib.Path, folder: pathlib.Path, mode: str = "w"
) -> pathlib.Path:
  """Packs a folder, as `tar` does: under the folder's own name."""
  with tarfile.open(path, mode) as tar:  # pyright: ignore[reportCallIssue]
    tar.add(folder, folder.name)
  return path


def write_ani1x(
  path: pathlib.Path, groups: Mapping[str, tuple], skip_keys: Sequence[str] = ()
) -> pathlib.Path:
  """Writes formula → (atomic_numbers, coordinates, energies, forces) in hartree."""
  with h5py.File(path, "w") as file:
    for formula, (numbers, coordinates, energies, forces) in groups.items():
      group = file.create_group(formula)
      for key, value, dtype in (
        ("atomic_numbers", numbers, "u1"),
        ("coordinates", coordinates, "f4"),
        ("wb97x_dz.energy", energies, "f8"),
        ("wb97x_dz.forces", forces, "f4"),
        ("wb97x_tz.energy", np.full(len(energies), np.nan), "f8"),
      ):
        if key not in skip_keys:
          group.create_dataset(key, data=np.asarray(value, dtype))
  return path


def ani1x_groups(count: int, frames: int, seed: int = 0) -> dict[str, tuple]:
  """Random groups of four atoms with the given number of frames."""
  rng = np.random.default_rng(seed)
  return {
    f"C1H{k + 3}": (
      [6] + [1] * (k + 3),
      rng.normal(size=(frames, k + 4, 3)),
      rng.normal(size=frames) - 40,
      rng.normal(size=(frames, k + 4, 3)),
    )
    for k in range(count)
  }


def write_transition1x(path: pathlib.Path, frames: int = 3) -> pathlib.Path:
  """Writes train, val, test and data with the repeated end points."""
  rng = np.random.default_rng(1)
  with h5py.File(path, "w") as file:
    for k, split in enumerate(("train", "val", "test")):
      reaction = file.create_group(f"{split}/C2H4/rxn{k:04d}")
      numbers = np.array([6, 6, 1, 1, 1, 1], np.uint8)
      for group, count in ((reaction, frames), (reaction.create_group("reactant"), 1)):
        group["atomic_numbers"] = numbers
        group["positions"] = rng.normal(size=(count, 6, 3))
        group["wB97x_6-31G(d).energy"] = rng.normal(size=count) - 2000
        group["wB97x_6-31G(d).forces"] = rng.normal(size=(count, 6, 3))
      file[f"data/C2H4/rxn{k:04d}"] = reaction
  return path


def write_oc22(path: pathlib.Path, records: Sequence[dict]) -> pathlib.Path:
  """Writes pickled PyG `Data` objects under "0", "1", … and `length`."""
  path.parent.mkdir(parents=True, exist_ok=True)
  environment = lmdb.open(str(path), subdir=False, map_size=1 << 24)
  with environment.begin(write=True) as transaction:
    for i, record in enumerate(records):
      transaction.put(str(i).encode(), pickle_data(record))
    transaction.put(b"length", pickle.dumps(len(records), protocol=4))
  environment.close()
  return path


def oc22_record(seed: int, n: int = 6) -> dict:
  """The attributes of an OC22 record."""
  rng = np.random.default_rng(seed)
  return {
    "y": float(rng.normal() - 500),
    "pos": rng.uniform(0, 5, (n, 3)).astype(np.float32),
    "cell": (np.eye(3)[None] * 8).astype(np.float32),
    "atomic_numbers": rng.choice([8, 22, 1], n).astype(np.float32),
    "natoms": n,
    "force": rng.normal(size=(n, 3)).astype(np.float32),
    "fixed": np.array([1, 0] * (n // 2), np.float32),
    "tags": np.array([0, 1, 2] * (n // 3), np.int64),
    "nads": 1,
    "sid": seed,
    "fid": 7,
    "oc22": 1,
  }


def pickle_data(attributes: Mapping[str, object]) -> bytes:
  """Pickles a PyG 2 `Data` with tensors as PyTorch would, without either."""
  kinds = _fake_modules()
  data = kinds["Data"].__new__(kinds["Data"])
  store = kinds["GlobalStorage"].__new__(kinds["GlobalStorage"])
  store.__dict__["_mapping"] = {
    k: kinds["Tensor"](v) if isinstance(v, np.ndarray) else v
    for k, v in attributes.items()
  }
  data.__dict__["_store"] = store
  try:
    return pickle.dumps(data, protocol=4)
  finally:
    for name in _MODULES:
      sys.modules.pop(name, None)


_MODULES = (
  "torch",
  "torch._utils",
  "torch.storage",
  "torch_geometric",
  "torch_geometric.data",
  "torch_geometric.data.data",
  "torch_geometric.data.storage",
)
_STORAGE = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage"}


def _fake_modules() -> dict[str, type]:
  """Empty modules with just the names that such a pickle refers to."""
  modules = {name: types.ModuleType(name) for name in _MODULES}
  sys.modules.update(modules)
  kinds = {}
  for module, name in (
    ("torch_geometric.data.data", "Data"),
    ("torch_geometric.data.storage", "GlobalStorage"),
  ):
    kinds[name] = type(name, (), {"__module__": module})
    setattr(modules[module], name, kinds[name])
  for name in _STORAGE.values():
    setattr(modules["torch"], name, type(name, (), {"__module__": "torch"}))

  def _rebuild_tensor_v2(*args):
    del args

  def _load_from_bytes(*args):
    del args

  for module, function in (
    ("torch._utils", _rebuild_tensor_v2),
    ("torch.storage", _load_from_bytes),
  ):
    function.__module__, function.__qualname__ = module, function.__name__
    setattr(modules[module], function.__name__, function)

  class Storage:
    def __init__(self, array: np.ndarray):
      self.array = array

    def __reduce__(self):
      return _load_from_bytes, (_legacy_storage(self.array),)

  class Tensor:
    def __init__(self, array: np.ndarray):
      self.array = np.ascontiguousarray(array)

    def __reduce__(self):
      strides = tuple(s // self.array.itemsize for s in self.array.strides)
      return _rebuild_tensor_v2, (
        Storage(self.array),
        0,
        self.array.shape,
        strides,
        False,
        {},
      )

  return kinds | {"Tensor": Tensor}


def _legacy_storage(array: np.ndarray) -> bytes:
  """A storage in the stream format of `torch.save`."""
  kind = getattr(sys.modules["torch"], _STORAGE[array.dtype.str[1:]])
  token = object()

  class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
      if obj is token:
        return ("storage", kind, "77", "cpu", array.size, None)
      return None

  file = io.BytesIO()
  pickle.dump(0x1950A86A20F9469CFC6C, file, protocol=2)
  pickle.dump(1001, file, protocol=2)
  pickle.dump({"little_endian": True}, file, protocol=2)
  Pickler(file, 2).dump(token)
  pickle.dump(["77"], file, protocol=2)
  file.write(struct.pack("<q", array.size) + array.tobytes())
  return file.getvalue()
