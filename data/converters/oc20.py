"""OC20 S2EF from its release: numbered pairs `N.extxyz.xz` and `N.txt.xz`.

A folder such as `s2ef_train_2M` is one split, which `--split` names; a folder of such
folders is several. Energies are the raw total energies (RPBE, eV), as the published
model was trained on; the reference energies of the txt files are not needed. Forces
are those of VASP, also on fixed atoms. Each pair becomes one shard.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import io
import lzma
import pathlib

import numpy as np

from data.conversion import base
from data.formats import extxyz
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib

_FRAMES = ".extxyz.xz"
_IDS = ".txt.xz"
_BUFFER = 1 << 18


class OC20(base.Converter):
  """OC20, structure to energy and forces."""

  name = "oc20"

  def declare(self) -> dataset_summary.Declaration:
    return base.published_declaration(
      "oc20",
      notes={"energy": "total RPBE energy as in the raw files, not adsorption energy"},
    )

  def units(self) -> Sequence[base.Unit]:
    paths = base.find_files(self.source, f"*{_FRAMES}")
    splits = base.split_by_folder(self.source, self.split, paths)
    return [
      self._unit(split, path)
      for split, files in splits.items()
      for path in sorted(files, key=_natural_order)
    ]

  def _unit(self, split: str, path: pathlib.Path) -> base.Unit:
    if not path.name.endswith(_FRAMES):
      raise base.PlanError(f"{path} is not called *{_FRAMES}.")
    files = (self.relative(path),)
    ids = _ids_path(path)
    if ids.exists():
      files += (self.relative(ids),)
    return base.Unit(split, files[0], files)

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    path = self.root / unit.files[0]
    ids_file = unit.files[1] if len(unit.files) == 2 else None
    ids = None if ids_file is None else _read_ids(self.root / ids_file)
    index = -1
    try:
      with lzma.open(path) as raw:
        frames = extxyz.read_frames(io.BufferedReader(raw, _BUFFER))
        for index, frame in enumerate(frames):
          record_id = f"{unit.name}:{index}"
          if ids is not None:
            if index >= len(ids):
              raise base.RawDataError(
                f"{path}: expected {len(ids)} frames as in {ids_file}, found more"
              )
            record_id += f":{ids[index]}"
          yield _item(frame, record_id)
    except (lzma.LZMAError, EOFError, OSError, extxyz.FileError) as error:
      raise base.RawDataError(f"{path}: after {index + 1} frames: {error}.") from error
    if ids is not None and index + 1 != len(ids):
      raise base.RawDataError(
        f"{path}: expected {len(ids)} frames as in {ids_file}, found {index + 1}."
      )


def _item(frame: extxyz.Frame | extxyz.FrameError, record_id: str) -> base.Item:
  if isinstance(frame, extxyz.FrameError):
    return base.Invalid(record_id, str(frame))
  try:
    return structure_lib.Structure(
      positions=frame.column("pos", (3,)),
      atomic_numbers=frame.column("species", ()),
      cell=np.array(frame.numbers("Lattice", 9)).reshape(3, 3),
      pbc=_pbc(frame),
      tags=frame.column("tags", ()),
      fixed=~frame.column("move_mask", ()),
      energy=frame.numbers("energy", 1)[0],
      forces=frame.column("forces", (3,)),
      record_id=record_id,
    )
  except extxyz.FrameError as error:
    return base.Invalid(record_id, str(error))


def _pbc(frame: extxyz.Frame) -> np.ndarray:
  """A lattice without `pbc` is periodic, as the format says."""
  values = frame.info.get("pbc", "T T T").split()
  if len(values) != 3 or not set(values) <= {"T", "F"}:
    raise extxyz.FrameError(f"expected three of T and F in pbc, found {values}")
  return np.array([value == "T" for value in values])


def _ids_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name.removesuffix(_FRAMES) + _IDS)


def _natural_order(path: pathlib.Path) -> tuple[str, int, str]:
  """2.extxyz.xz comes before 10.extxyz.xz."""
  stem = path.name.removesuffix(_FRAMES)
  return str(path.parent), int(stem) if stem.isdigit() else -1, stem


def _read_ids(path: pathlib.Path) -> list[str]:
  """`random<sid>,frame<fid>` of every frame; the reference energy is dropped."""
  try:
    with lzma.open(path, "rt", encoding="utf-8") as file:
      return [line.strip().rpartition(",")[0] for line in file if line.strip()]
  except (lzma.LZMAError, EOFError, OSError, UnicodeDecodeError) as error:
    raise base.RawDataError(f"{path} cannot be read: {error}.") from error


CONVERTER = OC20
