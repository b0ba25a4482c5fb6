"""Anything that ASE reads: extxyz, traj, db, cif, …, with chosen label keys.

  python -m data.convert --dataset=ase --input='runs/*.xyz' --output=mine \
      --split_fractions=0.8,0.1,0.1

Splits come from `--split_fractions`, or from folders train, val and test below the
input, or everything is the one split that `--split` names.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import ase
from ase import constraints as ase_constraints
from ase import units as ase_units
import ase.io
from ase.io import formats as ase_formats
import numpy as np

from data.conversion import base
from jmp_hk import dataset_summary
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

_SPLITS = ("train", "val", "test")
_ADSORBATE_ELEMENTS = (1, 6, 7, 8)
_ENERGY_UNITS = {
  "eV": 1.0,
  "meV": 1e-3,
  "Hartree": ase_units.Hartree,
  "Ry": ase_units.Rydberg,
  "kcal/mol": ase_units.kcal / ase_units.mol,
  "kJ/mol": ase_units.kJ / ase_units.mol,
}
_LENGTH_UNITS = {"Ang": 1.0, "Bohr": ase_units.Bohr}


@dataclasses.dataclass(frozen=True)
class AseOptions(base.Options):
  """Options of `--dataset=ase`."""

  name: str = base.option("ase", "Name of the dataset.")
  pattern: str = base.option("*", "Files to read below a folder, e.g. *.traj.")
  energy_key: str = base.option("energy", "Energy label, or none.")
  forces_key: str = base.option("forces", "Force label, or none.")
  energy_unit: str = base.option("eV", f"One of {', '.join(_ENERGY_UNITS)}.")
  forces_unit: str = base.option(
    "eV/Ang", "An energy unit, a slash, and Ang or Bohr, e.g. kcal/mol/Ang."
  )
  targets: str = base.option(
    "",
    "Further labels: NAME[:KIND[:UNIT]], comma separated; the kinds are "
    "structure, class and atoms.",
  )
  tags_key: str = base.option(
    "none",
    "Array with tags (0 sub-surface, 1 surface, 2 adsorbate); none gives all "
    "atoms tag 2; oc20_rule derives them: fixed 0, free slab 1, and 2 for the free "
    "H, C, N, O atoms at the end.",
  )
  split_fractions: str = base.option(
    "", "Shares of train, val and test, e.g. 0.8,0.1,0.1, drawn at random."
  )
  split_by: str = base.option(
    "frame",
    "What the fractions divide: frame, or file, so that frames of one file "
    "stay together.",
  )
  split_seed: int = base.option(0, "Seed of the random split.")
  cutoff: float = base.option(12.0, "Cutoff of the neighbor graphs, Å.")
  max_neighbors: int = base.option(
    30, "Largest number of neighbors of an atom in the main graph."
  )
  evaluate_free_atoms_only: bool = base.option(
    False, "Leave fixed atoms out of force metrics."
  )
  periodic_in_3d: bool = base.option(
    False,
    "The structures are periodic in all three directions, also across the vacuum of "
    "a slab; structures to predict are then taken to be so as well.",
  )


class AseReadable(base.Converter):
  """Structures in any format that ASE reads."""

  name = "ase"
  options_type = AseOptions

  def declare(self) -> dataset_summary.Declaration:
    o = self.options
    return dataset_summary.Declaration(
      name=o.name,
      graph=graph_config.GraphConfig(o.cutoff, o.max_neighbors),
      energy=o.energy_key != "none",
      forces=o.forces_key != "none",
      targets=parse_targets(o.targets),
      evaluate_free_atoms_only=o.evaluate_free_atoms_only,
      periodic_in_3d=o.periodic_in_3d,
      notes={
        "energy_unit_in_eV": _energy_unit(o.energy_unit),
        "forces_unit_in_eV_per_Ang": _forces_unit(o.forces_unit),
      },
    )

  def units(self) -> Sequence[base.Unit]:
    files = [
      path
      for path in base.find_files(self.source, self.options.pattern)
      if not any(part.startswith(".") for part in path.relative_to(self.root).parts)
    ]
    if not self.options.split_fractions:
      splits = base.split_by_folder(self.source, self.split, files)
      return [
        base.Unit(split, self.relative(path), (self.relative(path),))
        for split, paths in splits.items()
        for path in paths
      ]
    shares = _fractions(self.options.split_fractions)
    if self.options.split_by == "file":
      counts = [1] * len(files)
    elif self.options.split_by == "frame":
      counts = [sum(1 for _ in _frames(path)) for path in files]
    else:
      raise base.PlanError(f"--split_by={self.options.split_by} must be frame or file.")
    order = np.random.RandomState(self.options.split_seed).permutation(sum(counts))
    stops = np.rint(np.cumsum(shares) * len(order)).astype(int)
    starts = np.concatenate([[0], np.cumsum(counts)])
    result = []
    for split, drawn in zip(_SPLITS, np.split(order, stops[:-1]), strict=True):
      drawn = np.sort(drawn)
      for path, start, stop in zip(files, starts[:-1], starts[1:], strict=True):
        mine = drawn[(drawn >= start) & (drawn < stop)] - start
        if len(mine):
          name = self.relative(path)
          payload = mine.tolist() if self.options.split_by == "frame" else None
          result.append(base.Unit(split, f"{name}[{split}]", (name,), payload))
    return result

  def read(self, unit: base.Unit) -> Iterator[base.Item]:
    (name,) = unit.files
    wanted = None if unit.payload is None else set(unit.payload)
    targets = parse_targets(self.options.targets)
    for index, atoms in enumerate(_frames(self.root / name)):
      if wanted is not None and index not in wanted:
        continue
      record_id = f"{name}:{index}"
      try:
        yield to_structure(atoms, self.options, targets, record_id)
      except ValueError as error:
        yield base.Invalid(record_id, str(error))


def to_structure(
  atoms: ase.Atoms,
  options: AseOptions,
  targets: dict[str, dataset_summary.Label],
  record_id: str,
) -> structure_lib.Structure:
  """A structure with the labels that the options name.

  Raises:
    ValueError: a label is missing or has the wrong shape.
  """
  energy = forces = None
  if options.energy_key != "none":
    value = np.asarray(_label(atoms, options.energy_key), np.float64)
    if value.size != 1:
      raise ValueError(f"expected one number as energy, found shape {value.shape}")
    energy = float(value.reshape(-1)[0]) * _energy_unit(options.energy_unit)
  if options.forces_key != "none":
    forces = np.asarray(_label(atoms, options.forces_key), np.float64)
    forces = forces * _forces_unit(options.forces_unit)
  fixed = np.zeros(len(atoms), bool)
  for constraint in atoms.constraints:
    if isinstance(constraint, ase_constraints.FixAtoms):
      fixed[constraint.index] = True
  return structure_lib.Structure(
    positions=atoms.positions,
    atomic_numbers=atoms.numbers.astype(np.int32),
    cell=np.array(atoms.cell),
    pbc=np.array(atoms.pbc),
    tags=_tags(atoms, options.tags_key, fixed),
    fixed=fixed,
    energy=energy,
    forces=forces,
    targets={name: _target(atoms, name, t) for name, t in targets.items()},
    record_id=record_id,
  )


def derive_oc20_tags(atomic_numbers: np.ndarray, fixed: np.ndarray) -> np.ndarray:
  """Tags of an OC20 trajectory, which does not store them.

  Args:
    atomic_numbers: [n]; the adsorbate stands at the end.
    fixed: [n] bool.

  Returns:
    [n] int32: 0 where fixed, 2 for the free H, C, N, O atoms at the end, else 1.
  """
  tags = np.where(fixed, structure_lib.TAG_SUBSURFACE, structure_lib.TAG_SURFACE)
  candidate = ~fixed & np.isin(atomic_numbers, _ADSORBATE_ELEMENTS)
  trailing = np.cumprod(candidate[::-1])[::-1].astype(bool)
  tags[trailing] = structure_lib.TAG_ADSORBATE
  return tags.astype(np.int32)


def parse_targets(text: str) -> dict[str, dataset_summary.Label]:
  """Targets from `NAME[:KIND[:UNIT]],…`."""
  targets = {}
  for part in filter(None, text.split(",")):
    name, kind, unit = (part.split(":", 2) + ["", ""])[:3]
    if kind not in ("", "structure", "class", "atoms"):
      raise base.PlanError(f"--targets={text}: the kind {kind!r} is unknown.")
    targets[name] = dataset_summary.Label(unit, kind or "structure")
  return targets


def _frames(path: pathlib.Path) -> Iterator[ase.Atoms]:
  count = 0
  try:
    for atoms in ase.io.iread(path, ":", do_not_split_by_at_sign=True):
      yield atoms
      count += 1
  except GeneratorExit:
    raise
  except Exception as error:  # ASE's readers raise nearly anything
    if isinstance(error, ase_formats.UnknownFileTypeError):
      hint = "; name the files to read with --pattern"
    else:
      hint = ""
    raise base.RawDataError(
      f"{path}: ASE fails after {count} frames: {type(error).__name__}: {error}{hint}."
    ) from error


def _label(atoms: ase.Atoms, key: str) -> Any:
  """A label by name, wherever ASE keeps it."""
  results = atoms.calc.results if atoms.calc is not None else {}
  row = atoms.info.get("key_value_pairs", {}) | atoms.info.get("data", {})
  for place in (atoms.info, atoms.arrays, results, row):
    if key in place:
      return place[key]
  known = sorted({*atoms.info, *atoms.arrays, *results, *row})
  raise ValueError(f"expected the label {key!r}, found {known}")


def _target(atoms: ase.Atoms, name: str, target: dataset_summary.Label) -> np.ndarray:
  value = np.asarray(_label(atoms, name), np.float64)
  if target.kind == "atoms":
    return value.reshape(len(atoms), -1)
  return value.reshape(-1) if value.size > 1 else value.reshape(())


def _tags(atoms: ase.Atoms, key: str, fixed: np.ndarray) -> np.ndarray:
  if key == "none":
    return np.full(len(atoms), structure_lib.TAG_ADSORBATE, np.int32)
  if key == "oc20_rule":
    return derive_oc20_tags(atoms.numbers, fixed)
  return np.asarray(_label(atoms, key)).astype(np.int32)


def _energy_unit(unit: str) -> float:
  if unit not in _ENERGY_UNITS:
    raise base.PlanError(
      f"--energy_unit={unit} is unknown; known are {', '.join(_ENERGY_UNITS)}."
    )
  return _ENERGY_UNITS[unit]


def _forces_unit(unit: str) -> float:
  energy, _, length = unit.rpartition("/")
  if energy not in _ENERGY_UNITS or length not in _LENGTH_UNITS:
    raise base.PlanError(
      f"--forces_unit={unit} must be one of {', '.join(_ENERGY_UNITS)}, a slash, and "
      f"one of {', '.join(_LENGTH_UNITS)}."
    )
  return _ENERGY_UNITS[energy] / _LENGTH_UNITS[length]


def _fractions(text: str) -> np.ndarray:
  try:
    shares = np.array([float(part) for part in text.split(",")])
  except ValueError:
    shares = np.array([])
  if not 1 <= len(shares) <= 3 or min(shares) < 0 or abs(shares.sum() - 1) > 1e-6:
    raise base.PlanError(
      f"--split_fractions={text} must be up to three shares that add up to 1."
    )
  return np.concatenate([shares, np.zeros(3 - len(shares))])


CONVERTER = AseReadable
