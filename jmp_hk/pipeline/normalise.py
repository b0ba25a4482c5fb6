"""Labels as the loss wants them: references subtracted, divided by scales.

Everything is computed in float64; packing casts to the precision of the batch.
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import packing
from jmp_hk.targets import config as tasks_lib

_PER_ATOM = (
  tasks_lib.TargetKind.DIRECT_FORCES,
  tasks_lib.TargetKind.CONSERVATIVE_FORCES,
  tasks_lib.TargetKind.VECTOR,
)
_CLASSES = (tasks_lib.TargetKind.BINARY, tasks_lib.TargetKind.MULTICLASS)


class LabelError(ValueError):
  """A structure lacks a label that its task learns, or has one it cannot use."""


def target_specs(
  tasks: Sequence[tasks_lib.TaskConfig],
) -> dict[str, packing.TargetSpec]:
  """Shapes of all labels that any task learns, as packing wants them.

  Raises:
    ValueError: two tasks use one name for labels of different shapes.
  """
  specs: dict[str, packing.TargetSpec] = {}
  for task in tasks:
    for target in filter(lambda target: target.is_learned, task.targets):
      per_atom = target.kind in _PER_ATOM
      spec = packing.TargetSpec(
        per_atom, (3,) if per_atom else (), target.kind in _CLASSES
      )
      if specs.setdefault(target.name, spec) != spec:
        raise ValueError(f"Tasks disagree on what kind of label {target.name!r} is.")
  return specs


def normalise(
  structure: structure_lib.Structure,
  info: dataset_info.DatasetInfo,
  targets: Sequence[tasks_lib.TargetConfig],
) -> dict[str, np.ndarray]:
  """Normalises the labels of one structure.

  Energies: (E - Σ references) / energy scale. Forces: divided by the force scale.
  Other labels: (x - Σ references - mean) / std; vectors are only divided, since a
  mean would single out a direction. Classes stay as they are.

  Args:
    structure: with labels in physical units.
    info: constants of its dataset.
    targets: labels that are wanted.

  Returns:
    Labels by name.

  Raises:
    LabelError: a label is missing, or an element has no reference.
  """
  return {target.name: _normalise(structure, info, target) for target in targets}


def _normalise(
  structure: structure_lib.Structure,
  info: dataset_info.DatasetInfo,
  target: tasks_lib.TargetConfig,
) -> np.ndarray:
  name, numbers = target.name, structure.atomic_numbers
  if name == "energy":
    if structure.energy is None:
      raise _missing(structure, name)
    return np.float64(
      (structure.energy - _reference(info.energy_references, structure, name))
      / info.energy_scale
    )
  if name == "forces":
    if structure.forces is None:
      raise _missing(structure, name)
    return np.asarray(structure.forces, np.float64) / info.force_scale
  if name not in structure.targets:
    raise _missing(structure, name)
  value = np.asarray(structure.targets[name], np.float64)
  if target.kind in _CLASSES:
    return value.astype(np.int64)
  statistics = info.targets[name]
  if target.kind in _PER_ATOM:
    return value.reshape(len(numbers), -1) / statistics.std
  if statistics.references:
    value = value - _reference(statistics.references, structure, name)
  return (value - statistics.mean) / statistics.std


def _reference(
  references: Mapping[int, float], structure: structure_lib.Structure, name: str
) -> float:
  try:
    return float(sum(references[z] for z in structure.atomic_numbers.tolist()))
  except KeyError as error:
    raise LabelError(
      f"{structure.record_id}: no reference of {name!r} for atomic number {error}; "
      f"the training split fitted {sorted(references)}."
    ) from error


def _missing(structure: structure_lib.Structure, name: str) -> LabelError:
  known = [n for n in ("energy", "forces") if getattr(structure, n) is not None]
  return LabelError(
    f"{structure.record_id} has no label {name!r}; it has "
    f"{known + sorted(structure.targets)}."
  )
