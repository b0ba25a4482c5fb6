"""Declarations of what is learned: targets and tasks.

A task is one dataset with its own heads. Head, loss, metric, report column and
calculator property all follow from its declaration.
"""

import dataclasses
import enum


class TargetKind(enum.Enum):
  """What a target is and hence how it is predicted."""

  ENERGY = "energy"  # [G], sum over atoms; references and energy scale apply.
  DIRECT_FORCES = "direct_forces"  # [N, 3], from edge embeddings.
  CONSERVATIVE_FORCES = "conservative_forces"  # [N, 3], -dE/dx of the energy.
  SCALAR = "scalar"  # [G], per-atom scalars reduced over atoms.
  SPATIAL_EXTENT = "spatial_extent"  # [G], sum_i x_i |r_i - r_com|².
  VECTOR = "vector"  # [N, 3], like direct forces, any per-atom vector.
  BINARY = "binary"  # [G], logit of class 1.
  MULTICLASS = "multiclass"  # [G, k], logits.


class Reduction(enum.Enum):
  """How per-atom values become one value per structure."""

  SUM = "sum"
  MEAN = "mean"
  MAX = "max"


@dataclasses.dataclass(frozen=True)
class TargetConfig:
  """One learned quantity of a task.

  Attributes:
    name: name of the label in `Batch.targets` and of the prediction. "energy" and
      "forces" are the labels that every structure record has fields for.
    kind: how it is predicted.
    reduction: over atoms, for scalars and classes.
    loss_coefficient: factor of this target's loss; zero switches the loss off.
    num_classes: for `MULTICLASS`.
    head_bias: biases in the head (conservative heads have none, as published).
  """

  name: str
  kind: TargetKind
  reduction: Reduction = Reduction.SUM
  loss_coefficient: float = 1.0
  num_classes: int = 0
  head_bias: bool = True

  @property
  def is_learned(self) -> bool:
    """Whether it has a loss, and hence needs labels."""
    return self.loss_coefficient > 0


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  """One dataset's targets.

  Attributes:
    name: name of the dataset, unique in a model; also names its parameters.
    targets: what is learned on it. All tasks of a model that share a target name
      share its kind.
  """

  name: str
  targets: tuple[TargetConfig, ...]

  @property
  def is_conservative(self) -> bool:
    """Whether forces are derivatives of the energy."""
    return any(t.kind is TargetKind.CONSERVATIVE_FORCES for t in self.targets)


def pretraining_task(
  name: str, energy_coefficient: float = 1.0, force_coefficient: float = 1.0
) -> TaskConfig:
  """Energy and direct forces of one dataset, as in JMP's pre-training (section 3)."""
  return TaskConfig(
    name=name,
    targets=(
      TargetConfig("energy", TargetKind.ENERGY, loss_coefficient=energy_coefficient),
      TargetConfig(
        "forces", TargetKind.DIRECT_FORCES, loss_coefficient=force_coefficient
      ),
    ),
  )
