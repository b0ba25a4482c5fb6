"""OC20 S2EF from its release: numbered pairs `N.extxyz.xz` and `N.txt.xz`.

The pairs are read inside the released archives (`s2ef_train_200K.tar`), which need not
be unpacked, or as files, also decompressed ones (`N.extxyz` and `N.txt`). An archive or
folder such as `s2ef_train_2M` is one split, which `--split` can give another name; a
folder of such archives or folders is several. Energies are the raw total energies
(RPBE, eV), as the published model was trained on; the reference energies of the txt
files only tell whether they belong to the frames. Forces are those of VASP, also on
fixed atoms. Each pair becomes one shard.
"""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import io
import math
import pathlib
import re
import statistics
from typing import IO

import numpy as np

from data.conversion import base
from data.formats import archives
from data.formats import expansion
from data.formats import extxyz
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib

_FRAMES = (".extxyz.xz", ".extxyz")
# The line of a frame: system, frame, and the reference energy in eV.
_ROW = re.compile(r"[^,\s]+,frame\d+,[-+.\deE]+")
_MOST_SHOWN = 60  # Characters of a line in a message.
# Energies of frames differ from the reference energies of their systems by up to 10 eV,
# energies of two systems by hundreds.
_MOST_APART = 50.0  # eV, median of a file.
_IDS = {".extxyz.xz": ".txt.xz", ".extxyz": ".txt"}


@dataclasses.dataclass(frozen=True)
class _Place:
  """Where a raw file is: on disk, or inside a tar file.

  Attributes:
    path: its path; for a member of a tar file, as if that were a folder.
    tar: the tar file, or None.
    offset: where its bytes begin in the tar file.
    size: how many they are.
  """

  path: pathlib.Path
  tar: pathlib.Path | None = None
  offset: int = 0
  size: int = 0


@dataclasses.dataclass(frozen=True)
class _Row:
  """What a txt file says about a frame.

  Attributes:
    name: `random<sid>,frame<fid>`.
    reference: reference energy of its system in eV; 0 where it is not known.
  """

  name: str
  reference: float

  def distance(self, energy: float | None) -> list[float]:
    """How far an energy is from the reference in eV; empty where one is not known."""
    if energy is None or not math.isfinite(energy) or not self.reference:
      return []
    return [abs(energy - self.reference)]


class OC20(base.Converter):
  """OC20, structure to energy and forces."""

  name = "oc20"

  def declare(self) -> dataset_summary.Declaration:
    return base.published_declaration(
      "oc20",
      notes={"energy": "total RPBE energy as in the raw files, not adsorption energy"},
    )

  def units(self) -> Sequence[base.Unit]:
    places = {place.path: place for place in self._places()}
    frames = [path for path in places if path.name.endswith(_FRAMES)]
    if not frames:
      raise base.PlanError(f"--input={self.source} holds no {' or '.join(_FRAMES)}.")
    _check_unique(frames)
    _check_ids(frames, places)
    splits = base.split_by_folder(self.source, self.split, frames)
    return [
      self._unit(split, places[path], places.get(_ids_path(path)))
      for split, paths in splits.items()
      for path in sorted(paths, key=_natural_order)
    ]

  def _places(self) -> list[_Place]:
    """All raw files, in tar files where there are such."""
    if self.source.is_file():
      if self.source.suffix == ".tar":
        return _members(self.source, self.source)
      pair = [self.source, _ids_path(self.source)]
      return [_Place(path) for path in pair if path.exists()]
    patterns = [f"*{suffix}" for pair in _IDS.items() for suffix in pair]
    found = base.find_files(self.source, *patterns, "*.tar")
    tars = [path for path in found if path.suffix == ".tar"]
    others = [path for path in found if path.suffix != ".tar"]
    if tars and others:
      raise base.PlanError(
        f"--input={self.source} holds archives ({tars[0].name}, …) and unpacked files "
        f"({others[0].relative_to(self.source)}, …), which may be the same: name one "
        "of them, or keep them in folders of their own."
      )
    members = [m for tar in tars for m in _members(tar, tar.with_suffix(""))]
    return [*members, *map(_Place, others)]

  def _unit(self, split: str, frames: _Place, ids: _Place | None) -> base.Unit:
    pair = [frames] if ids is None else [frames, ids]
    if frames.tar is None:
      files = tuple(self.relative(place.path) for place in pair)
      return base.Unit(split, files[0], files)
    name = frames.path.relative_to(self.source).as_posix()
    parts = [[place.path.name, place.offset, place.size] for place in pair]
    return base.Unit(split, name, (self.relative(frames.tar),), parts)

  def count(self, unit: base.Unit) -> int | None:
    frames, *rest = self._opened(unit)
    frames[1].close()
    return len(_read_rows(*rest[0])) if rest else None

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    path = self.root / unit.name
    frames, *rest = self._opened(unit)
    rows = _read_rows(*rest[0]) if rest else None
    index, apart = -1, []
    try:
      with _decompressed(*frames) as file:
        for index, frame in enumerate(extxyz.read_frames(file)):
          record_id = f"{unit.name}:{index}"
          if rows is not None:
            if index >= len(rows):
              raise base.RawDataError(
                f"{path}: expected {len(rows)} frames as in {rest[0][0]}, found more"
              )
            record_id += f":{rows[index].name}"
          item = _item(frame, record_id)
          if rows is not None and isinstance(item, structure_lib.Structure):
            apart += rows[index].distance(item.energy)
          yield item
    except (*expansion.UNREADABLE, extxyz.FileError) as error:
      raise base.RawDataError(f"{path}: after {index + 1} frames: {error}.") from error
    if rows is not None and index + 1 != len(rows):
      raise base.RawDataError(
        f"{path}: expected {len(rows)} frames as in {rest[0][0]}, found {index + 1}."
      )
    if apart and statistics.median(apart) > _MOST_APART:
      raise base.RawDataError(
        f"{path}: expected energies within some eV of the reference energies in "
        f"{rest[0][0]}, found a median of {statistics.median(apart):.0f} eV between "
        "them: that file belongs to other frames. Unpack the release again."
      )

  def _opened(self, unit: base.Unit) -> list[tuple[str, IO[bytes]]]:
    """Name and content of the file of frames, and of that of ids where there is one."""
    try:
      if unit.payload is None:
        return [(name, open(self.root / name, "rb")) for name in unit.files]
      tar = self.root / unit.files[0]
      return [
        (name, archives.open_member(tar, offset, size))
        for name, offset, size in unit.payload
      ]
    except OSError as error:
      raise base.RawDataError(f"{unit.name} cannot be read: {error}.") from error


def _members(tar: pathlib.Path, folder: pathlib.Path) -> list[_Place]:
  """The files of a tar file as if it were a folder."""
  return [
    _Place(folder / member.name, tar, member.offset, member.size)
    for member in archives.members(tar)
  ]


def _check_unique(frames: Sequence[pathlib.Path]) -> None:
  """Checks that no file is there both compressed and decompressed."""
  both = {path.with_suffix("") for path in frames if path.suffix == ".xz"} & set(frames)
  if both:
    path = min(both)
    raise base.PlanError(
      f"{path} and {path}.xz would be converted twice: keep one of the two."
    )


def _check_ids(frames: Sequence[pathlib.Path], known: Collection[pathlib.Path]) -> None:
  """Checks that files of ids lie beside all files of frames, or beside none."""
  lacking = [path for path in frames if _ids_path(path) not in known]
  if lacking and len(lacking) < len(frames):
    path = min(lacking)
    raise base.PlanError(
      f"{path} has no {_ids_path(path).name} beside it, as other files of the input "
      f"have ({len(lacking)} of {len(frames)} lack theirs): unpack the release again."
    )


@contextlib.contextmanager
def _decompressed(name: str, file: IO[bytes]) -> Iterator[io.BufferedReader]:
  """The content of a file that may be compressed; closes it."""
  with file:
    yield expansion.open_stream(file, name)


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


def _suffix(path: pathlib.Path) -> str:
  return next((suffix for suffix in _FRAMES if path.name.endswith(suffix)), "")


def _ids_path(path: pathlib.Path) -> pathlib.Path:
  """Where the ids of a file of frames are; the file itself where it is none."""
  suffix = _suffix(path)
  return path.with_name(path.name.removesuffix(suffix) + _IDS.get(suffix, ""))


def _natural_order(path: pathlib.Path) -> tuple[str, int, str]:
  """2.extxyz.xz comes before 10.extxyz.xz."""
  stem = path.name.removesuffix(_suffix(path))
  return str(path.parent), int(stem) if stem.isdigit() else -1, stem


def _read_rows(name: str, file: IO[bytes]) -> list[_Row]:
  """What the txt file says about every frame."""
  try:
    with _decompressed(name, file) as content:
      lines = content.read().decode("utf-8").splitlines()
  except (*expansion.UNREADABLE, UnicodeDecodeError) as error:
    raise base.RawDataError(f"{name} cannot be read: {error}.") from error
  rows = [line.strip() for line in lines if line.strip()]
  found = [_parse_row(row, f"{name}, line {n}") for n, row in enumerate(rows, 1)]
  if len({row.name for row in found}) != len(found):
    raise base.RawDataError(f"{name}: a frame is listed twice.")
  return found


def _parse_row(text: str, where: str) -> _Row:
  """Reads the line of a frame.

  Raises:
    RawDataError: it is none.
  """
  name, _, energy = text.rpartition(",")
  try:
    reference = float(energy) if _ROW.fullmatch(text) else math.nan
  except ValueError:
    reference = math.nan
  if not math.isfinite(reference):
    raise base.RawDataError(
      f"{where}: expected random<ID>,frame<NUMBER>,<ENERGY>, found "
      f"{text[:_MOST_SHOWN]!r}."
    )
  return _Row(name, reference)


CONVERTER = OC20
