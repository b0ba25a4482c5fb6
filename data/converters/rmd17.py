"""rMD17: molecular dynamics of one of ten small molecules (PBE/def2-SVP).

Reads `rmd17_<molecule>.npz` of the figshare release (Christensen and von Lilienfeld,
2020), or the release itself, `rmd17.tar.bz2`, which is unpacked beside the output once
for all molecules. By default it is split as JMP does: all frames shuffled with seed 42,
the first 950 for training, the next 50 for validation, the rest for testing. The five
official splits are `--splits=official:01` … `official:05`: their 1,000 test frames, and
their 1,000 training frames shuffled with seed 42, of which the last 50 are for
validation.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import re

import numpy as np

from data.conversion import base
from data.conversion import splits
from data.formats import archives
from data.formats import npz_frames
from data.formats import unpacking
from jmp_hk import dataset_summary
from jmp_hk import ranges
from jmp_hk.graphs import config as graph_config

OFFICIAL_SIZE = 1_000  # Frames of each official list.
_FEWEST_FRAMES = 99_000  # Of a molecule of the release; azobenzene has 99,988.
TRAIN_SIZE = 950
VAL_SIZE = 50
KEYS = npz_frames.Keys("nuclear_charges", "coords", "energies", "forces")
MOLECULES = (
  "aspirin",
  "azobenzene",
  "benzene",
  "ethanol",
  "malonaldehyde",
  "naphthalene",
  "paracetamol",
  "salicylic",
  "toluene",
  "uracil",
)
_UNIT_SIZE = 16_384

# JMP was fine-tuned on rMD17 with these settings.
GRAPH = graph_config.GraphConfig(cutoff=7.0, max_neighbors=100)


@dataclasses.dataclass(frozen=True)
class Rmd17Options(base.Options):
  """Options of `--dataset=rmd17`."""

  molecule: str = base.option(
    "", "NAME: Which molecule to convert, where --input is a folder with several."
  )
  splits: str = base.option(
    "jmp",
    "SPLITS: The random splits of JMP's paper (jmp), or one of those that the release "
    "comes with (official:01 to official:05).",
  )
  splits_dir: str = base.option(
    "", "DIR: Folder of the official csv files, by default splits/ near --input."
  )
  train_size: int = base.option(
    0, "Number of training structures; 0 takes the published one.", ranges.COUNT
  )
  val_size: int = base.option(
    0, "Number of validation structures; 0 takes the published one.", ranges.COUNT
  )


def official_split(
  train: np.ndarray, test: np.ndarray, train_size: int = 0, val_size: int = 0
) -> dict[str, np.ndarray]:
  """Splits the frames of one pair of official files.

  Args:
    train: indices of the official training frames. They are shuffled with seed 42;
      the first `train_size` are for training and the next `val_size` for validation.
    test: indices of the official test frames, kept as they are.
    train_size: 0 takes all that validation leaves.
    val_size: 0 takes 50 of 1,000, the same share of another number.

  Raises:
    PlanError: there are fewer frames.
  """
  count = len(train)
  val_size = val_size or max(1, count * VAL_SIZE // (TRAIN_SIZE + VAL_SIZE))
  train_size = train_size or count - val_size
  if train_size < 1 or train_size + val_size > count:
    raise base.PlanError(
      f"The official split has {count} training frames, too few for {train_size} "
      f"training and {val_size} validation frames."
    )
  order = np.asarray(train)[splits.shuffled(count)][: train_size + val_size]
  cut = splits.cut(order, {"train": train_size, "val": val_size})
  return cut | {"test": np.asarray(test)}


def read_indices(path: pathlib.Path, count: int) -> np.ndarray:
  """Indices of an official csv file, one a line.

  Raises:
    RawDataError: it is unreadable, or an index repeats or is not below `count`.
  """
  try:
    text = path.read_text()
    indices = np.array(text.split(), np.int64)
  except (OSError, ValueError) as error:
    raise base.RawDataError(f"{path} is not a list of indices: {error}") from error
  is_release = count >= _FEWEST_FRAMES
  if not text.endswith("\n") or (is_release and len(indices) != OFFICIAL_SIZE):
    size = f"{OFFICIAL_SIZE} whole lines" if is_release else "whole lines"
    raise base.RawDataError(
      f"{path}: expected {size}, found {len(indices)} numbers and "
      f"{text[-8:]!r} at the end. It may be truncated; download it again."
    )
  if not len(indices) or len(np.unique(indices)) != len(indices):
    raise base.RawDataError(f"{path}: expected distinct frame indices.")
  if indices.min() < 0 or indices.max() >= count:
    raise base.RawDataError(
      f"{path}: expected indices below {count}, the number of frames, found "
      f"{indices.max()}; the split belongs to another copy of the data."
    )
  return indices


class Rmd17(base.Converter):
  """Converts one molecule of rMD17."""

  name = "rmd17"
  options_type = Rmd17Options

  def packed(self) -> pathlib.Path | None:
    return archives.find(self.source, "rmd17_*.npz")

  def prepare(self, output: pathlib.Path, progress: bool = True) -> base.Converter:
    archive = self.packed()
    if archive is None:
      return self
    if not self.options.molecule:
      raise base.PlanError(
        f"--input={self.source} holds several molecules: {', '.join(MOLECULES)}; "
        "choose one with --molecule."
      )
    folder = unpacking.unpacked(archive, output, _is_needed, progress)
    return dataclasses.replace(self, source=folder)

  @property
  def path(self) -> pathlib.Path:
    """The .npz file."""
    molecule = self.options.molecule
    found = base.find_files(self.source, f"rmd17_{molecule or '*'}.npz")
    if len(found) > 1:
      names = [self.relative(path) for path in found]
      raise base.PlanError(
        f"--input={self.source} holds several molecules: {names}; choose one with "
        "--molecule."
      )
    return found[0]

  @property
  def molecule(self) -> str:
    """Name of the molecule: given, or what follows rmd17_ in the file name."""
    return self.options.molecule or self.path.stem.removeprefix("rmd17_")

  def declare(self) -> dataset_summary.Declaration:
    return dataset_summary.Declaration(
      name=f"rmd17_{self.molecule}",
      graph=GRAPH,
      notes={
        "molecule": self.molecule,
        "splits": self.options.splits,
        "kcal_per_mol_in_eV": 1.0 / npz_frames.KCAL_PER_MOL_PER_EV,
      },
    )

  def units(self) -> list[base.Unit]:
    lists = self._official_files()
    files = [self.relative(self.path)]
    files += [self.relative(path) for path in lists if path.is_relative_to(self.root)]
    by_split = self._split(npz_frames.count(self.path, KEYS), lists)
    return splits.units(by_split, tuple(files), _UNIT_SIZE, files[0])

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    yield from npz_frames.read(self.path, KEYS, unit.payload, unit.files[0])

  def _split(
    self, count: int, lists: tuple[pathlib.Path, ...]
  ) -> dict[str, np.ndarray]:
    options = self.options
    if not lists:
      return splits.rest_is_test(
        count, options.train_size or TRAIN_SIZE, options.val_size or VAL_SIZE
      )
    train, test = (read_indices(path, count) for path in lists)
    both = np.intersect1d(train, test)
    if len(both):
      raise base.RawDataError(
        f"{len(both)} frames are in both {lists[0]} and {lists[1]}, the first is "
        f"{both[0]}."
      )
    return official_split(train, test, options.train_size, options.val_size)

  def _official_files(self) -> tuple[pathlib.Path, ...]:
    """The csv files of the training and the test frames; none for JMP's split."""
    if self.options.splits == "jmp":
      return ()
    match = re.fullmatch(r"official:0?([1-5])", self.options.splits)
    if not match:
      raise base.PlanError(
        f"--splits={self.options.splits} is unknown; expected jmp, or official:01 to "
        "official:05."
      )
    names = (f"index_{part}_0{match[1]}.csv" for part in ("train", "test"))
    return tuple(self._split_file(name) for name in names)

  def _split_file(self, name: str) -> pathlib.Path:
    given = self.options.splits_dir
    here = self.path.parent
    near = [here / "splits", here.parent / "splits"]
    folders = [pathlib.Path(given)] if given else near
    for folder in folders:
      for candidate in (folder / f"{self.molecule}_{name}", folder / name):
        if candidate.is_file():
          return candidate
    raise base.PlanError(
      f"Found no {name} in {' or '.join(map(str, folders))}; name the folder with "
      "--splits_dir."
    )


def _is_needed(member: str) -> bool:
  """Whether a member of the release is one of the data files or of the splits."""
  name = pathlib.PurePosixPath(member).name
  return bool(re.fullmatch(r"rmd17_.*\.npz|index_(train|test)_\d\d\.csv", name))


CONVERTER = Rmd17
