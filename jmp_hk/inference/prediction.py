"""Predictions of one structure, in physical units."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib

_VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


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
  """

  energy: float | None = None
  forces: np.ndarray | None = None
  stress: np.ndarray | None = None
  properties: Mapping[str, spec_lib.Value] = dataclasses.field(default_factory=dict)

  def get(self, target: tasks_lib.TargetConfig) -> spec_lib.Value:
    """The prediction of one of the head's targets."""
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
  fields, properties = {}, {}
  for spec in (target.spec for target in task.targets):
    value = np.asarray(values[spec.name], np.float64)
    value = spec.denormalise(value, constants, structure)
    (properties if spec.label_name is None else fields)[spec.name] = value
  has_volume = structure.pbc.any() and abs(np.linalg.det(structure.cell)) > 0
  if task.is_conservative and "stress" in values and has_volume:
    matrix = np.asarray(values["stress"], np.float64) * constants.energy_scale
    fields["stress"] = ((matrix + matrix.T) / 2)[_VOIGT]
  return Prediction(**fields, properties=properties)
