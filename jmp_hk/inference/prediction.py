"""Predictions of one structure, in physical units."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.targets import config as tasks_lib

Kind = tasks_lib.TargetKind

# Labels with fields of their own in every record, and scales of their own.
ENERGY, FORCES = "energy", "forces"
_VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a head predicts for one structure.

  Attributes:
    energy: eV; relative to the per-element references where the head knows none. None
      where the head predicts no energy.
    forces: [n, 3] eV/Å, or None.
    stress: [6] eV/Å³ in ASE's order (xx, yy, zz, yz, xz, xy) and sign, or None where
      forces are not derivatives of the energy or there is no periodic volume.
    properties: other targets by name: a float, an [n, 3] array per atom, the
      probability of class 1, or [k] probabilities of classes.
  """

  energy: float | None = None
  forces: np.ndarray | None = None
  stress: np.ndarray | None = None
  properties: Mapping[str, float | np.ndarray] = dataclasses.field(default_factory=dict)


def is_conservative(task: tasks_lib.TaskConfig) -> bool:
  """Whether forces of a task are derivatives of its energy."""
  return any(target.kind is Kind.CONSERVATIVE_FORCES for target in task.targets)


def energy_unit(task: tasks_lib.TaskConfig, info: dataset_info.DatasetInfo) -> float:
  """eV per unit of a task's normalised energy.

  Conservative forces are derivatives of the normalised energy and are divided by the
  force scale in training, which therefore is the unit of that energy too: with any
  other, forces would not be the derivatives of the energy that is reported.
  """
  return info.force_scale if is_conservative(task) else info.energy_scale


def denormalise(
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  structure: structure_lib.Structure,
  values: Mapping[str, np.ndarray],
) -> Prediction:
  """Converts one structure's normalised predictions, in float64.

  Args:
    task: of the head.
    info: of its dataset.
    structure: what was predicted.
    values: target name to its value: a scalar, [k] or [n, 3]; with stress [3, 3].

  Returns:
    The prediction.
  """
  unit = energy_unit(task, info)
  energy = forces = stress = None
  properties = {}
  for target in task.targets:
    value = np.asarray(values[target.name], np.float64)
    if target.name == ENERGY:
      energy = float(value) * unit
      if info.energy_references:
        energy += info.reference_energy(structure.atomic_numbers)
    elif target.name == FORCES:
      forces = value * info.force_scale
    else:
      properties[target.name] = _property(target, info, structure, value)
  has_volume = structure.pbc.any() and abs(np.linalg.det(structure.cell)) > 0
  if is_conservative(task) and "stress" in values and has_volume:
    matrix = np.asarray(values["stress"], np.float64) * unit
    stress = ((matrix + matrix.T) / 2)[_VOIGT]
  return Prediction(energy, forces, stress, properties)


def _property(
  target: tasks_lib.TargetConfig,
  info: dataset_info.DatasetInfo,
  structure: structure_lib.Structure,
  value: np.ndarray,
) -> float | np.ndarray:
  if target.kind is Kind.BINARY:
    return float(1 / (1 + np.exp(-value)))
  if target.kind is Kind.MULTICLASS:
    weights = np.exp(value - value.max())
    return weights / weights.sum()
  statistics = info.targets[target.name]
  if target.kind is Kind.VECTOR:
    return value * statistics.std
  references = statistics.references
  total = (
    sum(references[z] for z in structure.atomic_numbers.tolist()) if references else 0
  )
  return float(value * statistics.std + statistics.mean + total)
