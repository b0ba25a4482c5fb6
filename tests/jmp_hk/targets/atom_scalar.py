"""A kind of target of which nothing but this file knows: a number of every atom."""

import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.targets import scalar
from jmp_hk.targets import spec


@spec.register("atom_scalar")
@dataclasses.dataclass(frozen=True)
class AtomScalar(scalar.Scalar):
  """A number of every atom, such as its partial charge, from its own embedding."""

  per_atom = True

  def normalise(
    self,
    label: spec.Value,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """(x - mean) / standard deviation, [n]."""
    statistics = constants.statistics[self.name]
    return (np.asarray(label, np.float64) - statistics.mean) / statistics.std

  def denormalise(
    self,
    value: np.ndarray,
    constants: spec.TaskConstants,
    structure: structure_lib.Structure,
  ) -> np.ndarray:
    """The numbers in the unit of the label, [n]."""
    statistics = constants.statistics[self.name]
    return value * statistics.std + statistics.mean
