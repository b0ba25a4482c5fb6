"""Structures from `ase.Atoms`, with the labels, units and tags that options name."""

import dataclasses

import ase
from ase import constraints as ase_constraints
from ase import units as ase_units
import numpy as np

from data.conversion import base
from jmp_hk import ase_labels
from jmp_hk import dataset_summary
from jmp_hk import ranges
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

# Keys that are found: where there is anything like the label; at any rate; where all
# structures have it without doubt. And labels that are left out.
AUTO, REQUIRED, OPTIONAL, NONE = "auto", "required", "optional", "none"
_ADSORBATE_ELEMENTS = (1, 6, 7, 8)
_ENERGY_UNITS = {
  "eV": 1.0,
  "meV": 1e-3,
  "Hartree": ase_units.Hartree,
  "Ry": ase_units.Rydberg,
  "kcal/mol": ase_units.kcal / ase_units.mol,
  "kJ/mol": ase_units.kJ / ase_units.mol,
}
_SEED = ranges.Range(least=0, most=2**32 - 1, is_whole=True)  # Of NumPy's generator.
_STRESS_UNITS = {
  "eV/Ang3": 1.0,
  "meV/Ang3": 1e-3,
  "GPa": ase_units.GPa,
  "kbar": 0.1 * ase_units.GPa,
  "Hartree/Bohr3": ase_units.Hartree / ase_units.Bohr**3,
}
_LENGTH_UNITS = {"Ang": 1.0, "Bohr": ase_units.Bohr}


@dataclasses.dataclass(frozen=True)
class AseOptions(base.Options):
  """Options of `--dataset=ase`."""

  name: str = base.option("ase", "Name of the dataset.")
  pattern: str = base.option("*", "Files to read below a folder, e.g. *.traj.")
  energy_key: str = base.option(
    AUTO,
    "Entry that holds the energies. auto finds it (REF_energy, energy, …) if there is "
    "one, required in any case, optional if all structures have it; none reads none.",
  )
  forces_key: str = base.option(AUTO, "Entry that holds the forces, likewise.")
  stress_key: str = base.option(
    AUTO,
    "Entry that holds the stress, as ASE has it (positive under tension; xx, yy, zz, "
    "yz, xz, xy, or a matrix), or the virial, which is -V times that. auto finds it "
    "(REF_stress, stress, virial, …) if there is one; structures may lack it.",
  )
  energy_unit: str = base.option("eV", f"One of {', '.join(_ENERGY_UNITS)}.")
  forces_unit: str = base.option(
    "eV/Ang", "An energy unit, a slash, and Ang or Bohr, e.g. kcal/mol/Ang."
  )
  stress_unit: str = base.option(
    "eV/Ang3", f"One of {', '.join(_STRESS_UNITS)}. Virials have the energy unit."
  )
  targets: str = base.option(
    "",
    "Further labels: NAME[:KIND[:UNIT]], comma separated; the kinds are "
    "structure, class and atoms.",
  )
  target_keys: str = base.option(
    "",
    "NAME=KEY, comma separated: entries that hold such labels, where they are not "
    "called by the label's name.",
  )
  missing: str = base.option(
    "", "Names of labels, comma separated, that some structures may lack."
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
  split_seed: int = base.option(0, "Seed of the random split.", _SEED)
  cutoff: float = base.option(
    12.0, "Cutoff of the neighbor graphs, Å.", graph_config.GraphConfig.RANGES["cutoff"]
  )
  max_neighbors: int = base.option(
    30,
    "Largest number of neighbors of an atom in the main graph.",
    graph_config.GraphConfig.RANGES["max_neighbors"],
  )
  truncation: str = base.option(
    graph_config.Truncation.PUBLISHED.value,
    "How the graphs end: published takes the nearest neighbors; shells takes equally "
    "distant ones together; smooth lets edges vanish smoothly, for molecular dynamics.",
  )
  evaluate_free_atoms_only: bool = base.option(
    False, "Leave fixed atoms out of force metrics."
  )
  periodic_in_3d: bool = base.option(
    False,
    "The structures are periodic in all three directions, also across the vacuum of "
    "a slab; structures to predict are then taken to be so as well.",
  )


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
  optional = parse_names(options.missing)
  energy = forces = None
  if options.energy_key != NONE:
    value = _label(atoms, options.energy_key, "energy" in optional)
    if value is not None:
      if value.size != 1:
        raise ValueError(f"expected one number as energy, found shape {value.shape}")
      energy = float(value.reshape(-1)[0]) * energy_unit(options.energy_unit)
  if options.forces_key != NONE:
    forces = _label(atoms, options.forces_key, "forces" in optional)
    if forces is not None:
      forces = forces * forces_unit(options.forces_unit)
  stress = _stress(atoms, options, "stress" in optional)
  labels = {}
  keys = parse_keys(options.target_keys)
  for name, target in targets.items():
    value = _label(atoms, keys.get(name, name), name in optional)
    if value is not None:
      labels[name] = _shaped(value, len(atoms), target)
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
    stress=stress,
    targets=labels,
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


def _label(atoms: ase.Atoms, key: str, may_lack: bool) -> np.ndarray | None:
  """A label, float64; None where it is missing and may be.

  Raises:
    ValueError: it is missing or no number.
  """
  value = ase_labels.find(atoms, key)
  if value is None and not may_lack:
    raise ValueError(f"expected the label {key!r}, found {ase_labels.names(atoms)}")
  if value is None:
    return None
  try:
    array = np.asarray(value, np.float64)
  except (TypeError, ValueError) as error:
    raise ValueError(f"expected numbers as {key!r}, found {value!r}") from error
  return None if may_lack and np.isnan(array).all() else array


def _stress(atoms: ase.Atoms, options: AseOptions, may_lack: bool) -> np.ndarray | None:
  """The stress in eV/Å³; None where it is missing and may be, or is not read.

  Raises:
    ValueError: it is missing or no stress.
  """
  key = options.stress_key
  if key == NONE:
    return None
  stress = ase_labels.find_stress(
    atoms, key, stress_unit(options.stress_unit), energy_unit(options.energy_unit)
  )
  if stress is None and not may_lack:
    raise ValueError(f"expected the label {key!r}, found {ase_labels.names(atoms)}")
  return stress


def _shaped(
  value: np.ndarray, num_atoms: int, target: dataset_summary.Label
) -> np.ndarray:
  """A label besides energy and forces as records hold it."""
  if target.kind == "atoms":
    return value.reshape(num_atoms, -1)
  return value.reshape(-1) if value.size > 1 else value.reshape(())


def parse_names(text: str) -> frozenset[str]:
  """Names from a comma-separated list."""
  return frozenset(filter(None, map(str.strip, text.split(","))))


def parse_keys(text: str) -> dict[str, str]:
  """Keys by name of the label from `NAME=KEY,…`."""
  keys = {}
  for part in filter(None, text.split(",")):
    name, separator, key = part.partition("=")
    if not (name and separator and key):
      raise base.PlanError(f"--target_keys={text} does not read NAME=KEY,….")
    keys[name] = key
  return keys


def _tags(atoms: ase.Atoms, key: str, fixed: np.ndarray) -> np.ndarray:
  if key == "none":
    return np.full(len(atoms), structure_lib.TAG_ADSORBATE, np.int32)
  if key == "oc20_rule":
    return derive_oc20_tags(atoms.numbers, fixed)
  return np.asarray(_label(atoms, key, may_lack=False)).astype(np.int32)


def truncation(name: str) -> graph_config.Truncation:
  """The truncation of a name.

  Raises:
    PlanError: there is none of that name.
  """
  names = [kind.value for kind in graph_config.Truncation]
  if name not in names:
    raise base.PlanError(
      f"--truncation={name} is unknown; known are {', '.join(names)}."
    )
  return graph_config.Truncation(name)


def energy_unit(unit: str) -> float:
  """The eV in a unit of energy.

  Raises:
    PlanError: the unit is not known.
  """
  if unit not in _ENERGY_UNITS:
    raise base.PlanError(
      f"--energy_unit={unit} is unknown; known are {', '.join(_ENERGY_UNITS)}."
    )
  return _ENERGY_UNITS[unit]


def forces_unit(unit: str) -> float:
  """The eV/Å in a unit of force.

  Raises:
    PlanError: the unit is not known.
  """
  energy, _, length = unit.rpartition("/")
  if energy not in _ENERGY_UNITS or length not in _LENGTH_UNITS:
    raise base.PlanError(
      f"--forces_unit={unit} must be one of {', '.join(_ENERGY_UNITS)}, a slash, and "
      f"one of {', '.join(_LENGTH_UNITS)}."
    )
  return _ENERGY_UNITS[energy] / _LENGTH_UNITS[length]


def stress_unit(unit: str) -> float:
  """The eV/Å³ in a unit of stress.

  Raises:
    PlanError: the unit is not known.
  """
  if unit not in _STRESS_UNITS:
    raise base.PlanError(
      f"--stress_unit={unit} is unknown; known are {', '.join(_STRESS_UNITS)}."
    )
  return _STRESS_UNITS[unit]
