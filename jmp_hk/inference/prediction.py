"""Predictions of one structure, in physical units."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib


@dataclasses.dataclass(frozen=True)
class Prediction:
  """What a head predicts for one structure.

  Attributes:
    energy: energy in eV, relative to the per-element references where the head knows
      none; None where the head predicts no energy.
    forces: [n, 3] forces in eV/Å, or None.
    stress: [6] stress in eV/Å³ in ASE's order (xx, yy, zz, yz, xz, xy) and sign, or
      None where forces are not derivatives of the energy or there is no periodic
      volume.
    properties: other targets by name: a float, an [n, …] array per atom, the
      probability of class 1, or [k] probabilities of classes.
    std: standard deviations over the members of a committee, by name of what was
      predicted and in its shape and unit; empty for a single model.
  """

  energy: float | None = None
  forces: np.ndarray | None = None
  stress: np.ndarray | None = None
  properties: Mapping[str, spec_lib.Value] = dataclasses.field(default_factory=dict)
  std: Mapping[str, spec_lib.Value] = dataclasses.field(default_factory=dict)

  @property
  def energy_std(self) -> float | None:
    """Standard deviation of the energy, eV; None for a single model."""
    return self.std.get("energy")  # pyright: ignore[reportReturnType]

  @property
  def forces_std(self) -> np.ndarray | None:
    """[n, 3] standard deviations of the forces, eV/Å; None for a single model."""
    return self.std.get("forces")  # pyright: ignore[reportReturnType]

  def get(self, target: tasks_lib.TargetConfig) -> spec_lib.Value | None:
    """The prediction of one of the head's targets; None of an undefined stress."""
    if target.spec.label_name is not None:
      return getattr(self, target.spec.label_name)
    return self.properties[target.name]


def denormalise(
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  structure: structure_lib.Structure,
  values: Mapping[str, np.ndarray],
) -> Prediction:
  """Converts one structure's normalised predictions, in float64.

  Args:
    task: task of the head.
    info: constants of its dataset.
    structure: what was predicted.
    values: target name to its value: a scalar, [k] or [n, …]; with stress [3, 3].

  Returns:
    The prediction.
  """
  constants = task.constants(info)
  fields: dict[str, Any] = {}
  properties: dict[str, spec_lib.Value] = {}
  declared = {target.name for target in task.targets}
  for spec in (target.spec for target in task.predicted):
    if spec.name not in declared and spec.name not in values:
      continue
    if spec.is_defined(structure):
      value = np.asarray(values[spec.name], np.float64)
      value = spec.denormalise(value, constants, structure)
      (properties if spec.label_name is None else fields)[spec.name] = value
  return Prediction(**fields, properties=properties)
