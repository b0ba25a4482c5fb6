"""Structures with the labels that a task learns, from `ase.Atoms`."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import logging
import math
import os
from typing import Any

import ase
import numpy as np

from jmp_hk import ase_files
from jmp_hk import ase_labels
from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import problems as problems_lib
from jmp_hk import structure as structure_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib

logger = logging.getLogger(__name__)

Source = Iterable[ase.Atoms] | str | os.PathLike[str]


def find_keys(
  structures: Sequence[ase.Atoms],
  task: tasks_lib.TaskConfig,
  given: Mapping[str, str],
) -> dict[str, str]:
  """Finds the entries that hold the labels of a task; logs those of other names.

  An energy that the task does not learn is read where all structures have it, without
  doubt which it is.

  Args:
    structures: the structures.
    task: what is learned.
    given: keys that are known, by the name of the label.

  Returns:
    The key of each label to read.

  Raises:
    LabelError: a label is not found, or several entries could be meant.
  """
  found = ase_labels.survey(structures)
  names = [target.name for target in task.learned]
  names += [
    target.name
    for target in task.targets
    if not target.is_learned and ase_labels.can_choose(found, target.name)
  ]
  unknown = [name for name in names if name not in given]
  try:
    chosen = ase_labels.choose_keys(found, unknown)
  except ase_labels.KeyNotFoundError as error:
    raise spec_lib.LabelError(
      f"{error}. Say which with keys={{{error.label!r}: …}}."
    ) from error
  if line := ase_labels.describe_keys(found, chosen):
    logger.info("%s", line)
  return chosen | {name: given[name] for name in given if name in names}


def read_structures(
  structures: Sequence[ase.Atoms],
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  keys: Mapping[str, str] | None = None,
) -> list[structure_lib.Structure]:
  """Reads structures with the labels that a task learns.

  Labels are looked for in `atoms.info`, `atoms.arrays` and the results of the attached
  calculator, which must be those of the present positions; nothing is calculated.
  Units are eV, Å, eV/Å and eV/Å³.

  Args:
    structures: structures with labels.
    task: what is learned.
    info: whose conventions they follow, see `from_ase.from_atoms`.
    keys: entries that hold the labels, by their names; None finds them.

  Returns:
    As many structures.

  Raises:
    LabelError: structures lack labels or cannot be used; names them.
  """
  if keys is None:
    keys = find_keys(structures, task, {})
  return read_frames(frames(structures), task, info, keys)


def frames(source: Source) -> list[ase_files.Frame]:
  """Structures with names for messages."""
  if isinstance(source, (str, os.PathLike)):
    return ase_files.read_all(source)
  return [
    ase_files.Frame(from_ase.name_of(atoms, index), atoms)
    for index, atoms in enumerate(source)
  ]


def read_frames(
  frames: Sequence[ase_files.Frame],
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  keys: Mapping[str, str],
) -> list[structure_lib.Structure]:
  """Reads all structures, or describes all that cannot be read."""
  found: list[structure_lib.Structure] = []
  problems: list[tuple[str, str]] = []
  for frame in frames:
    try:
      found.append(_read(frame, task, info, keys))
    except structure_lib.InvalidStructureError as error:
      problems.append((frame.name, str(error).removeprefix(f"{frame.name}: ")))
    except spec_lib.LabelError as error:
      problems.append((frame.name, str(error)))
  if problems:
    raise spec_lib.LabelError(
      "There are structures that cannot be learned from: "
      + problems_lib.summarise(problems, len(frames))
    )
  return found


def _read(
  frame: ase_files.Frame,
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  keys: Mapping[str, str],
) -> structure_lib.Structure:
  """One structure with its labels."""
  structure = from_ase.from_atoms(frame.atoms, info, frame.name)
  values = {
    target.name: _label(frame.atoms, target, keys[target.name])
    for target in task.targets
    if target.name in keys
  }
  found = {name: value for name, value in values.items() if value is not None}
  fields: dict[str, Any] = {
    key: found.pop(key) for key in tasks_lib.FIELDS if key in found
  }
  if "energy" in fields:
    fields["energy"] = float(fields["energy"])
  structure = dataclasses.replace(structure, **fields, targets=found)
  if problem := structure_lib.find_problem(structure):
    raise spec_lib.LabelError(problem)
  return structure


def _find(atoms: ase.Atoms, target: tasks_lib.TargetConfig, key: str) -> Any:
  """The entry that holds a label, of stress as the label is."""
  if target.spec.label_name != "stress":
    return ase_labels.find(atoms, key)
  try:
    return ase_labels.find_stress(atoms, key)
  except ValueError as error:
    raise spec_lib.LabelError(str(error)) from error


def _label(
  atoms: ase.Atoms, target: tasks_lib.TargetConfig, key: str
) -> np.ndarray | None:
  """One label, float64; None where it is missing and may be.

  Raises:
    LabelError: it is missing or has another shape.
  """
  value = _find(atoms, target, key)
  if value is None:
    if target.allow_missing:
      return None
    raise spec_lib.LabelError(
      f"it has no label {key!r}; it has {', '.join(ase_labels.names(atoms)) or 'none'}"
    )
  spec = target.spec
  shape = (len(atoms), *spec.shape) if spec.per_atom else spec.label_shape
  try:
    value = np.asarray(value, np.float64)
  except (TypeError, ValueError) as error:
    raise spec_lib.LabelError(
      f"expected numbers as the label {key!r}, found {value!r}"
    ) from error
  if target.allow_missing and np.isnan(value).all():
    return None
  if value.size != math.prod(shape):
    raise spec_lib.LabelError(
      f"expected the label {key!r} of shape {shape}, found {value.shape}"
    )
  if spec.is_class and value != np.floor(value):
    raise spec_lib.LabelError(
      f"expected the label {key!r} to be the index of a class, found {value}"
    )
  return value.reshape(shape)
