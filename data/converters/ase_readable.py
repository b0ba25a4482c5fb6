"""Anything that ASE reads: extxyz, traj, db, cif, …, with chosen label keys.

  python -m data.convert --dataset=ase --input='runs/*.xyz' --output=mine \
      --split_fractions=0.8,0.1,0.1

Splits come from `--split_fractions`, or from folders train, val and test below the
input, or everything is the one split that `--split` names. A CSV table of an identifier
and values beside its structures is an input, too, see `jmp_hk.ase_files`.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import logging
import pathlib

import numpy as np

from data.conversion import base
from data.formats import ase_atoms
from jmp_hk import ase_files
from jmp_hk import ase_labels
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")
_FOUND = (ase_atoms.AUTO, ase_atoms.REQUIRED, ase_atoms.OPTIONAL)
_SURVEYED = 1000  # Structures that decide the keys.
_UNIT_BYTES, _UNIT_FILES = 8 << 20, 1000  # Small files share a shard up to here.


class AseReadable(base.Converter):
  """Structures in any format that ASE reads."""

  name = "ase"
  options_type = ase_atoms.AseOptions

  def declare(self) -> dataset_summary.Declaration:
    o = self.options
    targets = ase_atoms.parse_targets(o.targets)
    if unknown := set(ase_atoms.parse_keys(o.target_keys)) - set(targets):
      raise base.PlanError(
        f"--target_keys={o.target_keys}: {', '.join(sorted(unknown))} is not among "
        "--targets."
      )
    if known := set(targets) & set(structure_lib.LABELS):
      raise base.PlanError(
        f"--targets={o.targets}: {', '.join(sorted(known))} is read without it, see "
        f"--{min(known)}_key."
      )
    optional = ase_atoms.parse_names(o.missing)
    if unknown := set(optional) - {*structure_lib.LABELS, *targets}:
      raise base.PlanError(
        f"--missing={o.missing}: {', '.join(sorted(unknown))} is no label of the data."
      )
    return dataset_summary.Declaration(
      name=o.name,
      graph=graph_config.GraphConfig(
        o.cutoff, o.max_neighbors, truncation=ase_atoms.truncation(o.truncation)
      ),
      energy=o.energy_key != ase_atoms.NONE,
      forces=o.forces_key != ase_atoms.NONE,
      stress=o.stress_key != ase_atoms.NONE,
      targets=targets,
      optional=optional,
      evaluate_free_atoms_only=o.evaluate_free_atoms_only,
      periodic_in_3d=o.periodic_in_3d,
      notes={
        "energy_unit_in_eV": ase_atoms.energy_unit(o.energy_unit),
        "forces_unit_in_eV_per_Ang": ase_atoms.forces_unit(o.forces_unit),
        "stress_unit_in_eV_per_cubic_Ang": ase_atoms.stress_unit(o.stress_unit),
      },
    )

  def resolve(self) -> "AseReadable":
    """Finds the keys that were not given; says which they are."""
    self.declare()  # Wrong options are told before files are read.
    o = self.options
    given = {label: getattr(o, f"{label}_key") for label in structure_lib.LABELS} | {
      name: ase_atoms.parse_keys(o.target_keys).get(name, ase_atoms.REQUIRED)
      for name in ase_atoms.parse_targets(o.targets)
    }
    unknown = {label for label, key in given.items() if key in _FOUND}
    if not unknown:
      return self
    found = self.survey()
    if not found.structures:
      raise base.RawDataError(f"{self.source}: expected records, found none.")
    left_out = {label for label in unknown if _is_left_out(found, label, given[label])}
    if not set(given) - left_out:
      raise base.PlanError(
        f"--input={self.source}: there are neither energies nor forces. Name labels "
        "with --energy_key, --forces_key or --targets; the structures have: "
        f"{found.describe()}."
      )
    try:
      keys = ase_labels.choose_keys(found, sorted(unknown - left_out))
    except ase_labels.KeyNotFoundError as error:
      flag = f"--target_keys={error.label}=KEY"
      if error.label in structure_lib.LABELS:
        flag = f"--{error.label}_key=KEY"
      raise base.PlanError(
        f"--input={self.source}: {error}. Say which with {flag}."
      ) from error
    if line := ase_labels.describe_keys(found, keys):
      logger.info("%s", line)
    chosen = self.with_keys(given | keys | dict.fromkeys(left_out, ase_atoms.NONE))
    if o.stress_key != ase_atoms.AUTO or "stress" in left_out:
      return chosen
    names = ase_atoms.parse_names(o.missing) | {"stress"}
    options = dataclasses.replace(chosen.options, missing=",".join(sorted(names)))
    return dataclasses.replace(chosen, options=options)

  def with_keys(self, keys: dict[str, str]) -> "AseReadable":
    """The converter that reads labels from entries by name, `none` leaves one out."""
    others = [
      f"{label}={key}"
      for label, key in keys.items()
      if label not in (*structure_lib.LABELS, key)
    ]
    return dataclasses.replace(
      self,
      options=dataclasses.replace(
        self.options,
        energy_key=keys["energy"],
        forces_key=keys["forces"],
        stress_key=keys["stress"],
        target_keys=",".join(others),
      ),
    )

  def survey(self) -> ase_labels.Survey:
    """Entries of the first structures, from which keys can be chosen."""
    limit = 0 if self._is_divided_by_frame else _SURVEYED
    return _contents(self._files(), self.root, limit).found

  @property
  def _is_divided_by_frame(self) -> bool:
    return bool(self.options.split_fractions) and self.options.split_by == "frame"

  def _files(self) -> tuple[pathlib.Path, ...]:
    try:
      return tuple(ase_files.find(self.source, self.options.pattern))
    except ase_files.FileError as error:
      raise base.PlanError(f"--input: {error}") from error

  def units(self) -> Sequence[base.Unit]:
    files = self._files()
    if not self.options.split_fractions:
      splits = base.split_by_folder(self.source, self.split, files)
      return [
        self._unit(split, dict.fromkeys(group))
        for split, paths in splits.items()
        for group in _groups(paths)
      ]
    if self.options.split_by == "file":
      counts, elements = [1] * len(files), None
    elif self.options.split_by == "frame":
      contents = _contents(files, self.root, 0)
      counts, elements = contents.counts, contents.elements
    else:
      raise base.PlanError(f"--split_by={self.options.split_by} must be frame or file.")
    shares = _fractions(self.options.split_fractions)
    drawn = _divide(sum(counts), shares, self.options.split_seed, elements)
    starts = dict(zip(files, np.cumsum([0, *counts[:-1]]), strict=True))
    sizes = dict(zip(files, counts, strict=True))
    result = []
    for split, indices in drawn.items():
      for group in _groups(files):
        mine: dict[pathlib.Path, list[int] | None] = {}
        for path in group:
          start = starts[path]
          inside = indices[(indices >= start) & (indices < start + sizes[path])]
          if len(inside):
            mine[path] = (inside - start).tolist() if elements is not None else None
        if mine:
          result.append(self._unit(split, mine, f"[{split}]"))
    return result

  def _unit(
    self,
    split: str,
    chosen: dict[pathlib.Path, list[int] | None],
    suffix: str = "",
  ) -> base.Unit:
    """A unit of some structures of some files; None stands for all of a file."""
    names = [self.relative(path) for path in chosen]
    try:
      files = [
        self.relative(file) for path in chosen for file in ase_files.files_of(path)
      ]
    except ase_files.FileError as error:
      raise base.RawDataError(str(error)) from error
    if len(files) == 1:
      (only,) = chosen.values()
      return base.Unit(split, names[0] + suffix, tuple(files), only)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    payload = dict(zip(names, chosen.values(), strict=True))
    return base.Unit(split, names[0] + more + suffix, tuple(files), payload)

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    chosen = unit.payload
    if not isinstance(chosen, dict):
      chosen = {unit.files[0]: chosen}
    targets = ase_atoms.parse_targets(self.options.targets)
    for name, indices in chosen.items():
      wanted = None if indices is None else set(indices)
      for index, frame in enumerate(_frames(self.root / name, self.root, quiet=True)):
        if wanted is not None and index not in wanted:
          continue
        try:
          yield ase_atoms.to_structure(frame.atoms, self.options, targets, frame.name)
        except ValueError as error:
          yield base.Invalid(frame.name, str(error))


def _is_left_out(found: ase_labels.Survey, label: str, wanted: str) -> bool:
  """Whether a label that may be absent is so."""
  if wanted == ase_atoms.AUTO:
    return not ase_labels.candidates(found, label)
  return wanted == ase_atoms.OPTIONAL and not ase_labels.can_choose(found, label)


@dataclasses.dataclass(frozen=True)
class _Contents:
  """What is in some files.

  Attributes:
    found: entries that could be labels.
    counts: structures by file.
    elements: elements by structure.
  """

  found: ase_labels.Survey
  counts: list[int]
  elements: list[frozenset[int]]


def _contents(
  files: Sequence[pathlib.Path], root: pathlib.Path, limit: int
) -> _Contents:
  """Reads files, up to `limit` structures where that is not 0; remembers the last."""
  stamps = []
  for path in files:
    status = path.stat()
    stamps.append((path, status.st_size, status.st_mtime_ns))
  return _read_contents(tuple(stamps), root, limit)


@functools.lru_cache(maxsize=2)
def _read_contents(
  stamps: tuple[tuple[pathlib.Path, int, int], ...], root: pathlib.Path, limit: int
) -> _Contents:
  """See `_contents`; sizes and times of the files tell whether they have changed."""
  found, counts, elements = ase_labels.Survey(), [], []
  known: dict[frozenset[int], frozenset[int]] = {}
  for path, _, _ in stamps:
    before = found.structures
    for frame in _frames(path, root):
      found.add(frame.atoms)
      present = frozenset(frame.atoms.numbers.tolist())
      elements.append(known.setdefault(present, present))
      if found.structures == limit:
        return _Contents(found, counts, elements)
    counts.append(found.structures - before)
  return _Contents(found, counts, elements)


def _groups(files: Sequence[pathlib.Path]) -> list[list[pathlib.Path]]:
  """Consecutive files that become one shard together: large files alone."""
  groups: list[list[pathlib.Path]] = []
  size = 0
  for path in files:
    mine = path.stat().st_size
    size += mine
    if not groups or size > _UNIT_BYTES or len(groups[-1]) == _UNIT_FILES:
      groups.append([])
      size = mine
    groups[-1].append(path)
  return groups


def _divide(
  count: int,
  shares: np.ndarray,
  seed: int,
  elements: Sequence[frozenset[int]] | None,
) -> dict[str, np.ndarray]:
  """Draws the splits; sorted indices by split.

  A share above zero gets a structure where there are several. Where the elements are
  known, structures with elements that no training structure has go to the training:
  nothing can be learned about them elsewhere.
  """
  order = np.random.RandomState(seed).permutation(count)
  stops = np.rint(np.cumsum(shares) * count).astype(int)
  pieces = np.split(order, stops[:-1])
  train, *held_out = (piece.tolist() for piece in pieces)
  for piece, share in zip(held_out, shares[1:], strict=True):
    if share and not piece and len(train) > 1:  # Rounding left it nothing.
      piece.append(train.pop())
  if shares[0] and count and not train:
    raise base.PlanError(
      f"{count} structures are too few for --split_fractions: none would be left to "
      "train on."
    )
  if train and elements is not None:
    known = frozenset().union(*(elements[i] for i in train))
    for piece in held_out:
      for index in list(piece):
        if not elements[index] <= known:
          piece.remove(index)
          train.append(index)
          known |= elements[index]
  return {
    split: np.sort(np.array(piece, int))
    for split, piece in zip(_SPLITS, (train, *held_out), strict=True)
  }


def _frames(
  path: pathlib.Path, root: pathlib.Path, *, quiet: bool = False
) -> Iterator[ase_files.Frame]:
  try:
    yield from ase_files.read(path, root, quiet=quiet)
  except ase_files.FileError as error:
    raise base.RawDataError(str(error)) from error


def _fractions(text: str) -> np.ndarray:
  try:
    shares = np.array([float(part) for part in text.split(",")])
  except ValueError:
    shares = np.array([])
  is_known = 1 <= len(shares) <= 3 and bool(np.isfinite(shares).all())
  if not (is_known and min(shares) >= 0 and abs(shares.sum() - 1) <= 1e-6):
    raise base.PlanError(
      f"--split_fractions={text} must be up to three shares that add up to 1."
    )
  return np.concatenate([shares, np.zeros(3 - len(shares))])


CONVERTER = AseReadable
