"""MD22: molecular dynamics of seven large molecules (PBE+MBD).

Reads either distribution of sgdml.org: `md22_<molecule>.npz` or extended xyz, both in
kcal/mol and Å. Split as JMP does: frames shuffled with seed 42, the published number
for training, of which the first 95 % train and 5 % (rounded down) validate, the rest
for testing. Chmiela et al., Sci. Adv. 9, eadf0873.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import re

from data.conversion import base
from data.conversion import splits
from data.formats import extxyz
from data.formats import npz_frames
from jmp_hk import dataset_summary
from jmp_hk import ranges
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

# Frames for training and validation together, as published.
TRAINING_FRAMES = {
  "Ac-Ala3-NHMe": 6000,
  "DHA": 8000,
  "stachyose": 8000,
  "AT-AT": 3000,
  "AT-AT-CG-CG": 2000,
  "buckyball-catcher": 600,
  "double-walled_nanotube": 800,
}
KEYS = npz_frames.Keys("z", "R", "E", "F")
_UNIT_SIZE = 8_192


@dataclasses.dataclass(frozen=True)
class Md22Options(base.Options):
  """Options of `--dataset=md22`."""

  molecule: str = base.option(
    "",
    "NAME: Which molecule it is, by default from the file name: one of "
    f"{', '.join(TRAINING_FRAMES)}, or any name with --train_size and --val_size.",
  )
  train_size: int = base.option(
    0, "Number of training structures; 0 takes the published one.", ranges.COUNT
  )
  val_size: int = base.option(
    0, "Number of validation structures; 0 takes the published one.", ranges.COUNT
  )


def molecule_of(name: str) -> str:
  """The longest known molecule in a file name, or ""."""
  found = [m for m in TRAINING_FRAMES if _simple(m) in _simple(name)]
  return max(found, key=len, default="")


def published_sizes(molecule: str) -> tuple[int, int]:
  """Numbers of training and validation frames.

  Raises:
    PlanError: the molecule is not one of the seven.
  """
  if molecule not in TRAINING_FRAMES:
    raise base.PlanError(
      f"{molecule or 'The molecule'} is not one of {', '.join(TRAINING_FRAMES)}: "
      "name it with --molecule, or give --train_size and --val_size."
    )
  both = TRAINING_FRAMES[molecule]
  val = int(0.05 * both)
  return both - val, val


class Md22(base.Converter):
  """Converts one molecule of MD22."""

  name = "md22"
  options_type = Md22Options

  @property
  def path(self) -> pathlib.Path:
    """The .npz or .xyz file."""
    found = base.find_files(self.source, "*.npz", "*.xyz")
    if len(found) > 1 and self.options.molecule:
      wanted = self.options.molecule
      found = [p for p in found if (molecule_of(p.stem) or p.stem) == wanted]
    if len(found) != 1:
      raise base.PlanError(
        f"--input={self.source} holds {len(found)} files that could be meant; name "
        "the .npz or .xyz file of one molecule."
      )
    return found[0]

  @property
  def molecule(self) -> str:
    """Name of the molecule: given, or found in the file name."""
    return self.options.molecule or molecule_of(self.path.stem)

  def declare(self) -> dataset_summary.Declaration:
    molecule = self.molecule or self.path.stem
    return dataset_summary.Declaration(
      name=f"md22_{re.sub(r'[^a-z0-9]+', '_', molecule.lower())}",
      graph=graph_config.GraphConfig(cutoff=12.0),
      notes={
        "molecule": molecule,
        "kcal_per_mol_in_eV": 1.0 / npz_frames.KCAL_PER_MOL_PER_EV,
      },
    )

  def units(self) -> list[base.Unit]:
    path, options = self.path, self.options
    train, val = options.train_size, options.val_size
    if not (train and val):
      published = published_sizes(self.molecule)
      train, val = train or published[0], val or published[1]
    count = npz_frames.count(path, KEYS) if _is_npz(path) else _count_xyz(path)
    file = self.relative(path)
    return splits.units(
      splits.rest_is_test(count, train, val), (file,), _UNIT_SIZE, file
    )

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    read = _read_npz if _is_npz(self.path) else _read_xyz
    yield from read(self.path, unit.payload, unit.files[0])


def _simple(text: str) -> str:
  return re.sub(r"[^a-z0-9]", "", text.lower())


def _is_npz(path: pathlib.Path) -> bool:
  return path.suffix == ".npz"


def _read_npz(path: pathlib.Path, wanted: list[int], name: str) -> Iterator[base.Item]:
  return npz_frames.read(path, KEYS, wanted, name)


def _frames(path: pathlib.Path) -> Iterator[extxyz.Frame | extxyz.FrameError]:
  count = 0
  try:
    with open(path, "rb") as file:
      for frame in extxyz.read_frames(file):
        yield frame
        count += 1
  except (OSError, extxyz.FileError) as error:
    raise base.RawDataError(f"{path}: after {count} frames: {error}.") from error


def _count_xyz(path: pathlib.Path) -> int:
  return sum(1 for _ in _frames(path))


def _read_xyz(path: pathlib.Path, wanted: list[int], name: str) -> Iterator[base.Item]:
  remaining = iter(wanted)
  next_wanted = next(remaining, None)
  for index, frame in enumerate(_frames(path)):
    if next_wanted is None:
      return
    if index == next_wanted:
      yield _structure(frame, f"{name}:{index}")
      next_wanted = next(remaining, None)


def _structure(frame: extxyz.Frame | extxyz.FrameError, record_id: str) -> base.Item:
  if isinstance(frame, extxyz.FrameError):
    return base.Invalid(record_id, str(frame))
  try:
    return structure_lib.molecule(
      frame.column("pos", (3,)),
      frame.column("species", ()),
      record_id,
      energy=frame.numbers("Energy", 1)[0] / npz_frames.KCAL_PER_MOL_PER_EV,
      forces=frame.column("forces", (3,)) / npz_frames.KCAL_PER_MOL_PER_EV,
    )
  except extxyz.FrameError as error:
    return base.Invalid(record_id, str(error))


CONVERTER = Md22
