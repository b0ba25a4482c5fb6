"""The contract of converters: what one small file says about a dataset.

To add a dataset, write `data/converters/NAME.py` with

  class Mine(base.Converter):
    name = "mine"                       # --dataset=mine
    options_type = MineOptions          # a frozen dataclass; its fields become flags

    def declare(self): …                # units, labels, graph, scales
    def units(self): …                  # the plan: what becomes which shard
    def read(self, unit): …             # yields the structures of one unit

  CONVERTER = Mine

`data/conversion/runner.py` does everything else: processes, atomic shards, restart,
checks, statistics and `dataset_info.json`.
"""

import abc
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
import re
from typing import Any
from typing import ClassVar

from jmp_hk import dataset_summary
from jmp_hk import published
from jmp_hk import ranges
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

TRAIN = dataset_summary.TRAIN
_SPLIT_FOLDER = re.compile(
  r"(?:s2ef[_-])?(?:(?P<train>train(?:[_-].*)?)|(?P<held>(?:val|test)(?:[_-].*)?))"
)


class RawDataError(ValueError):
  """A raw file is missing, unreadable, truncated or wrongly keyed."""


class PlanError(ValueError):
  """Options or input do not describe a conversion; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Invalid:
  """A record that could not be made a structure; reading goes on after it.

  Attributes:
    record_id: file and position of the record.
    reason: what was expected and what was found instead.
  """

  record_id: str
  reason: str


@dataclasses.dataclass(frozen=True)
class Filtered:
  """Records that the published rules leave out; the provenance counts them."""

  reason: str
  count: int = 1


Item = structure_lib.Structure | Invalid | Filtered


def published_declaration(
  name: str, notes: Mapping[str, Any] | None = None
) -> dataset_summary.Declaration:
  """Declares a dataset of the published pre-training with its published constants.

  Args:
    name: one of `published.PRETRAINING`.
    notes: facts for the provenance.
  """
  constants = published.PRETRAINING[name]
  return dataset_summary.Declaration(
    name=name,
    graph=graph_config.GraphConfig(constants.cutoff, constants.max_neighbors),
    published_scales=dataset_summary.Scales(
      constants.energy_scale, constants.force_scale
    ),
    evaluate_free_atoms_only=constants.evaluate_free_atoms_only,
    periodic_in_3d=constants.periodic_in_3d,
    force_coefficient=constants.force_coefficient,
    notes=notes or {},
  )


@dataclasses.dataclass(frozen=True)
class Unit:
  """A piece of work that becomes exactly one shard of one split.

  Attributes:
    split: name of the split.
    name: what it covers, for messages and the plan.
    files: the raw files that it reads, relative to `Converter.root`.
    payload: whatever `read` needs, as plain JSON values; part of the plan's identity.
    records: number of its records where the plan knows it, for estimates.
  """

  split: str
  name: str
  files: tuple[str, ...]
  payload: Any = None
  records: int | None = None


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of a converter; each field with a default and metadata {"help": …}.

  Types: str, int, float, bool. A field becomes the flag of the same name.
  """


def option(default: Any, help_text: str, allowed: ranges.Range | None = None) -> Any:
  """A field of an `Options` dataclass.

  Args:
    default: its default, which says its type.
    help_text: its help.
    allowed: the numbers that it takes; by default all finite ones of its type.
  """
  if allowed is None and type(default) in (int, float):
    allowed = ranges.Range(is_whole=isinstance(default, int))
  return dataclasses.field(
    default=default, metadata={"help": help_text, "allowed": allowed}
  )


@dataclasses.dataclass(frozen=True)
class Converter(abc.ABC):
  """Reads one dataset's raw release files.

  Instances are small and picklable: each process gets a copy. `units` must be
  deterministic and must not depend on the number of processes.

  Attributes:
    source: `--input`, a file or a folder.
    split: `--split`; "" means every split that the source has. Sources that are one
      split take this name for it.
    options: an instance of `options_type`.
  """

  source: pathlib.Path
  split: str = ""
  options: Any = dataclasses.field(default_factory=Options)

  name: ClassVar[str]
  options_type: ClassVar[type[Options]] = Options

  @functools.cached_property
  def root(self) -> pathlib.Path:
    """The folder that `Unit.files` are relative to."""
    return self.source if self.source.is_dir() else self.source.parent

  def relative(self, path: pathlib.Path) -> str:
    """A path as `Unit.files` and record ids give it."""
    return pathlib.Path(path).relative_to(self.root).as_posix()

  def packed(self) -> pathlib.Path | None:
    """The archive that `prepare` unpacks; None where it has nothing to unpack."""
    return None

  def prepare(self, output: pathlib.Path, progress: bool = True) -> "Converter":
    """The converter that reads this one's source, unpacked where it has to be.

    Args:
      output: directory of the converted dataset; what is unpacked lies beside it.
      progress: whether to show a progress bar.

    Raises:
      PlanError: the source or the options make no sense, or the disk is too small.
      RawDataError: an archive cannot be read.
    """
    del output, progress
    return self

  def resolve(self) -> "Converter":
    """The converter with options that the source decides, e.g. names of labels.

    Raises:
      PlanError: the source does not decide them; the message says what to do.
      RawDataError: a raw file cannot be read.
    """
    return self

  @abc.abstractmethod
  def declare(self) -> dataset_summary.Declaration:
    """Says what is known before any record is read: labels, units, settings."""

  @abc.abstractmethod
  def units(self) -> Sequence[Unit]:
    """Makes the plan of every split that the source has.

    Raises:
      PlanError: the source or the options make no sense.
      RawDataError: a raw file cannot be read.
    """

  def count(self, unit: Unit) -> int | None:
    """Number of records of a unit where it is known without reading them all.

    Raises:
      RawDataError: a raw file cannot be read.
    """
    return unit.records

  @abc.abstractmethod
  def read(self, unit: Unit) -> Iterator[Item]:
    """Yields the items of a unit in a fixed order, one at a time.

    Raises:
      RawDataError: the rest of the unit cannot be read.
    """


def find_files(source: pathlib.Path, *patterns: str) -> list[pathlib.Path]:
  """The file `source`, or the files below the folder `source` that match, sorted.

  Raises:
    PlanError: there are none.
  """
  if source.is_file():
    return [source]
  if not source.exists():
    raise PlanError(f"--input={source} does not exist.")
  found = {path for pattern in patterns for path in source.rglob(pattern)}
  files = sorted(path for path in found if path.is_file())
  if not files:
    raise PlanError(f"--input={source} holds no file called {' or '.join(patterns)}.")
  return files


def find_file(source: pathlib.Path, *patterns: str) -> pathlib.Path:
  """Like `find_files`, for a dataset that is one file."""
  files = find_files(source, *patterns)
  if len(files) > 1:
    raise PlanError(
      f"--input={source} holds {len(files)} such files; name one of them."
    )
  return files[0]


def split_by_folder(
  source: pathlib.Path, split: str, files: Sequence[pathlib.Path]
) -> dict[str, list[pathlib.Path]]:
  """Splits of a source whose files are in one split each.

  Folders below `source` that are called like splits (train, val_id, s2ef_train_2M, …)
  are splits; without any, all files are the one split that `--split` names, or else
  the name of `source`.

  Args:
    source: `--input`, a folder, or a file that is one split.
    split: `--split`.
    files: raw files at or below `source`; for an archive, its members as if it were a
      folder.

  Raises:
    PlanError: nothing says which split the files are, or folders contradict `--split`.
  """
  splits: dict[str, list[pathlib.Path]] = {}
  for path in files:
    folders = path.relative_to(source).parts[:-1]
    named = [name for name in map(split_of, folders) if name]
    splits.setdefault(named[0] if named else "", []).append(path)
  if list(splits) == [""] and (name := split or split_of(source.name.split(".")[0])):
    return {name: list(files)}
  if "" in splits:
    raise PlanError(
      f"--input={source} does not say for every file which split it is: name one "
      "split, for example --split=train, or sort the files into folders train, val "
      "and test."
    )
  if split and split not in splits:
    if source.is_file() and len(splits) == 1:
      return {split: list(files)}
    raise PlanError(
      f"--input={source} has no split {split!r}; it has {', '.join(splits)}. To give "
      "a folder another name, point --input at the folder itself."
    )
  return splits


def split_of(folder: str) -> str:
  """The split that a folder's name stands for, or "".

  Training sets of several sizes (s2ef_train_2M) are all the split `train`.
  """
  match = _SPLIT_FOLDER.fullmatch(folder)
  if not match:
    return ""
  return TRAIN if match["train"] else match["held"]
