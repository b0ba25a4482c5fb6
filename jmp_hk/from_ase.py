"""ASE's `Atoms` as structures, with the conventions of a head's dataset."""

import ase
from ase import data as ase_data
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import geometry
from jmp_hk import structure as structure_lib

_TAGS = (
  structure_lib.TAG_SUBSURFACE,
  structure_lib.TAG_SURFACE,
  structure_lib.TAG_ADSORBATE,
)


def from_atoms(
  atoms: ase.Atoms, info: dataset_info.DatasetInfo, record_id: str = ""
) -> structure_lib.Structure:
  """A structure as the head of a dataset expects it.

  Periodic directions are those of the atoms. Where the dataset is `periodic_in_3d`, a
  structure with any periodic direction and a cell of finite volume becomes periodic in
  all three directions, as the data that the head has learned are. Tags (0 sub-surface,
  1 surface, 2 adsorbate) are read where any is not zero, which is ASE's value for "no
  tag"; otherwise all are 2, as those of molecules and crystals are in training.

  Args:
    atoms: any structure.
    info: constants of the head's dataset.
    record_id: name of the structure in messages.

  Returns:
    The structure, without labels.

  Raises:
    InvalidStructureError: it has no atoms, or an element, tag, position or cell that
      cannot be used; the message says which.
  """
  pbc, cell = np.array(atoms.pbc), np.array(atoms.cell)
  has_volume = abs(np.linalg.det(cell)) > 0 if np.isfinite(cell).all() else True
  if info.periodic_in_3d and pbc.any() and has_volume:
    pbc = np.ones(3, bool)
  fixed = np.zeros(len(atoms), bool)
  if atoms.constraints:
    from ase import constraints  # Slow: it imports much of SciPy.

    for constraint in atoms.constraints:
      if isinstance(constraint, constraints.FixAtoms):
        fixed[constraint.index] = True
  tags = atoms.get_tags()
  structure = structure_lib.Structure(
    positions=np.array(atoms.positions, np.float64),
    atomic_numbers=structure_lib.as_int32(atoms.numbers),
    cell=cell,
    pbc=pbc,
    tags=structure_lib.as_int32(
      np.where(tags.any(), tags, structure_lib.TAG_ADSORBATE)
    ),
    fixed=fixed,
    record_id=record_id,
  )
  if problem := find_problem(structure, info):
    raise structure_lib.InvalidStructureError(f"{record_id or 'structure'}: {problem}")
  return structure


def name_of(atoms: ase.Atoms, index: int) -> str:
  """What messages call a structure: its number and formula, where it has one."""
  numbers = np.asarray(atoms.numbers)
  has_formula = bool(
    ((numbers >= 0) & (numbers <= structure_lib.MAX_ATOMIC_NUMBER)).all()
  )
  formula = atoms.get_chemical_formula() if has_formula else f"{len(atoms)} atoms"
  return f"structure {index} ({formula})"


def find_element_problem(
  atomic_numbers: np.ndarray, info: dataset_info.DatasetInfo
) -> str:
  """Finds out whether a head knows some elements.

  Args:
    atomic_numbers: [n] integers.
    info: constants of the head's dataset.

  Returns:
    What is wrong, as a clause; "" where nothing is.
  """
  present = set(np.asarray(atomic_numbers).tolist())
  impossible = present - set(range(1, structure_lib.MAX_ATOMIC_NUMBER + 1))
  if impossible:
    return f"there are no elements with the atomic numbers {sorted(impossible)}"
  limits = [info.elements, info.energy_references]
  limits += [target.references for target in info.targets.values()]
  limits = [set(limit) for limit in limits if limit]
  known = set.intersection(*limits) if limits else set()
  if known and present - known:
    return (
      f"the head {info.name!r} does not know the elements "
      f"{_symbols(present - known)}; it knows {_symbols(known)}"
    )
  return ""


def find_problem(
  structure: structure_lib.Structure, info: dataset_info.DatasetInfo
) -> str:
  """Finds out whether a head can predict a structure.

  Args:
    structure: the structure.
    info: constants of the head's dataset.

  Returns:
    What prevents it, as a clause; "" where nothing does.
  """
  if not structure.num_atoms:
    return "it has no atoms"
  if problem := find_element_problem(structure.atomic_numbers, info):
    return problem
  wrong = sorted(set(structure.tags.tolist()) - set(_TAGS))
  if wrong:
    return (
      f"tags must be 0 (sub-surface), 1 (surface) or 2 (adsorbate), not {wrong}; "
      "ASE's surface builders number layers instead: set tags, or remove them with "
      "atoms.set_tags(0)"
    )
  if not np.isfinite(structure.positions).all():
    return "positions are not finite"
  if not np.isfinite(structure.cell).all():
    return "the cell is not finite"
  return (
    structure_lib.find_cell_problem(structure)
    or geometry.find_problem(
      structure.positions, structure.cell, structure.pbc, info.graph.cutoff
    )
    or geometry.find_coincidence(structure.positions, structure.cell, structure.pbc)
  )


def _symbols(numbers: set[int]) -> str:
  """Symbols of elements, by atomic number."""
  return ", ".join(ase_data.chemical_symbols[z] for z in sorted(numbers))
