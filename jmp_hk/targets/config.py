"""Declarations of what is learned: targets and tasks.

A task is one dataset with its own heads. Head, loss, metric, report column and
calculator property all follow from its declaration, see `spec.TargetSpec`.
"""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
from typing import ClassVar

from jmp_hk import dataset_info
from jmp_hk import names as names_lib
from jmp_hk import ranges
from jmp_hk import structure as structure_lib
from jmp_hk.targets import classes
from jmp_hk.targets import energy
from jmp_hk.targets import forces
from jmp_hk.targets import scalar
from jmp_hk.targets import spec as spec_lib
from jmp_hk.targets import stress
from jmp_hk.targets import vector

# Importing their modules registers the kinds of this program; others register
# themselves wherever they are defined.
BUILT_IN = (
  energy.Energy,
  forces.DirectForces,
  forces.ConservativeForces,
  stress.ConservativeStress,
  scalar.Scalar,
  scalar.SpatialExtent,
  vector.Vector,
  classes.Binary,
  classes.Multiclass,
)


# Labels that `Structure` has fields for; other labels cannot have these names.
FIELDS = structure_lib.LABELS


class Reduction(enum.Enum):
  """How per-atom values become one value per structure."""

  SUM = "sum"
  MEAN = "mean"
  MAX = "max"


@dataclasses.dataclass(frozen=True)
class TargetConfig:
  """One learned quantity of a task.

  Attributes:
    name: name of the label in `Batch.targets` and of the prediction. "energy",
      "forces" and "stress" are the labels that structures have fields for.
    kind: name of a registered kind, e.g. "scalar", which says how it is predicted.
    reduction: how values of atoms become one of their structure, where they do.
    loss_coefficient: factor of this target's loss; zero switches the loss off.
    num_classes: number of classes, for kinds that have to be told ("multiclass").
    head_bias: biases in the head (conservative heads have none, as published).
    allow_missing: some structures may lack the label; they do not count in the loss and
      the metrics of this target.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "loss_coefficient": ranges.NOT_NEGATIVE,
    "num_classes": ranges.COUNT,
  }

  name: str
  kind: str
  reduction: Reduction = Reduction.SUM
  loss_coefficient: float = 1.0
  num_classes: int = 0
  head_bias: bool = True
  allow_missing: bool = False

  def __post_init__(self) -> None:
    ranges.check(self)
    field = self.name if self.name in FIELDS else None
    wanted = spec_lib.find(self.kind).label_name
    if wanted != field:
      known = spec_lib.kinds().items()
      raise ValueError(
        f"The kind {self.kind!r} is {'only' if wanted else 'not'} for the label "
        f"{wanted or self.name!r}; kinds for {self.name!r} are "
        f"{', '.join(kind for kind, spec in known if spec.label_name == field)}."
      )

  @property
  def spec(self) -> spec_lib.TargetSpec:
    """All there is to know about a target of this kind."""
    return spec_lib.find(self.kind)(self.name, self.num_classes)

  @property
  def is_learned(self) -> bool:
    """Whether it has a loss, and hence needs labels."""
    return self.loss_coefficient > 0


_STRESS = TargetConfig("stress", "conservative_stress", loss_coefficient=0.0)


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

  def __post_init__(self) -> None:
    names_lib.check(self.name, "The name of a task")

  @property
  def is_conservative(self) -> bool:
    """Whether forces or stress are derivatives of the energy."""
    return any(target.spec.is_derivative for target in self.targets)

  @property
  def predicted(self) -> tuple[TargetConfig, ...]:
    """The targets, and the stress that conservative models predict undeclared."""
    known = any(target.name == _STRESS.name for target in self.targets)
    if known or not self.is_conservative:
      return self.targets
    return (*self.targets, _STRESS)

  @property
  def needs_edges(self) -> bool:
    """Whether a target is predicted from embeddings of edges."""
    return any(target.spec.needs_edges for target in self.targets)

  @property
  def learned(self) -> tuple[TargetConfig, ...]:
    """The targets that have a loss."""
    return tuple(target for target in self.targets if target.is_learned)

  @property
  def per_atom(self) -> frozenset[str]:
    """Names of the targets with a row per atom."""
    return frozenset(target.name for target in self.targets if target.spec.per_atom)

  def energy_scale(self, info: dataset_info.DatasetInfo) -> float:
    """The eV per unit of the task's normalised energy.

    That is the energy scale of the dataset or, where forces are derivatives of the
    energy, its force scale, see `forces.ConservativeForces`.
    """
    return info.force_scale if self.is_conservative else info.energy_scale

  def constants(self, info: dataset_info.DatasetInfo) -> spec_lib.TaskConstants:
    """The constants of the task's dataset as its targets use them."""
    return spec_lib.TaskConstants(
      energy_scale=self.energy_scale(info),
      force_scale=info.force_scale,
      energy_references=info.energy_references,
      statistics=info.targets,
      free_atoms_only=info.evaluate_free_atoms_only,
    )

  def headline(self, names: Collection[str]) -> TargetConfig:
    """The target among those of these names that stands for the whole task."""
    targets = [target for target in self.targets if target.name in names]
    return min(targets, key=lambda target: target.spec.headline_rank)


def with_energy(targets: Sequence[TargetConfig]) -> tuple[TargetConfig, ...]:
  """Adds the energy that conservative forces and stress are derivatives of.

  Args:
    targets: declarations with different names.

  Returns:
    The declarations. Where something is a derivative of the energy, that comes first,
    its head has no biases (as published), and it has no loss unless it was declared.
    Forces are added to a stress without them, also without a loss.
  """
  if not any(target.spec.is_derivative for target in targets):
    return tuple(targets)
  given = {target.name: target for target in targets}
  energy = given.get("energy", TargetConfig("energy", "energy", loss_coefficient=0.0))
  energy = dataclasses.replace(energy, head_bias=False)
  others = [target for target in targets if target.name != "energy"]
  if "forces" not in given:
    forces = TargetConfig("forces", "conservative_forces", loss_coefficient=0.0)
    others = [forces, *others]
  return (energy, *others)


def pretraining_task(
  name: str,
  energy_coefficient: float = 1.0,
  force_coefficient: float = 1.0,
  labels: Collection[str] = ("energy", "forces"),
  optional: Collection[str] = (),
  *,
  conservative: bool = False,
) -> TaskConfig:
  """Energy and forces of one dataset, as in JMP's pre-training (section 3).

  Args:
    name: name of the dataset.
    energy_coefficient: factor of the energy loss.
    force_coefficient: factor of the force loss.
    labels: labels of the dataset; of energy and forces, those that it lacks are neither
      learned nor predicted.
    optional: those of them that some structures may lack.
    conservative: whether forces are derivatives of the energy, in place of the
      published heads of their own. All tasks of a model must agree.

  Raises:
    ValueError: the dataset has neither energies nor forces.
  """
  kind = "conservative_forces" if conservative else "direct_forces"
  targets = (
    TargetConfig(
      "energy",
      "energy",
      loss_coefficient=energy_coefficient,
      head_bias=not conservative,
    ),
    TargetConfig("forces", kind, loss_coefficient=force_coefficient),
  )
  learned = [
    dataclasses.replace(target, allow_missing=target.name in optional)
    for target in targets
    if target.name in labels
  ]
  if not learned:
    raise ValueError(
      f"Dataset {name!r} has neither energies nor forces, which pre-training learns."
    )
  return TaskConfig(name=name, targets=with_energy(learned))


def check_tasks(tasks: tuple[TaskConfig, ...]) -> None:
  """Checks that one model can predict these tasks.

  Raises:
    ValueError: names clash, or a target cannot be predicted as declared.
  """
  if not tasks:
    raise ValueError("A model needs at least one task.")
  names = [task.name for task in tasks]
  if len(set(names)) != len(names):
    raise ValueError(f"Task names must be unique, got {names}.")
  shared: dict[str, TargetConfig] = {}
  for task in tasks:
    own = [target.name for target in task.targets]
    if len(set(own)) != len(own):
      raise ValueError(f"Task {task.name!r} declares a target twice: {own}.")
    for target in task.targets:
      # Tasks with the same target share its head's shape and meaning.
      head = dataclasses.replace(target, loss_coefficient=1.0, allow_missing=False)
      if shared.setdefault(target.name, head) != head:
        raise ValueError(
          f"Target {target.name!r} must have one kind, reduction, num_classes and "
          "head_bias in all tasks."
        )
      _check_target(target)
    if task.is_conservative and "energy" not in own:
      raise ValueError(
        'Conservative forces and stress need a target "energy" beside them; task '
        f"{task.name!r} has {own}."
      )
  _check_derivatives(list(shared.values()))


def _check_derivatives(targets: Sequence[TargetConfig]) -> None:
  """Checks that forces and stress are derivatives of one energy, or neither is."""
  derived = [target.name for target in targets if target.spec.is_derivative]
  of_heads = [
    target.name
    for target in targets
    if target.name == "forces" and not target.spec.is_derivative
  ]
  if derived and of_heads:
    raise ValueError(
      f"The targets {', '.join(derived)} are derivatives of the energy, but forces "
      "have a head of their own: use the kind conservative_forces for them."
    )


def _check_target(target: TargetConfig) -> None:
  if target.spec.needs_num_classes != (target.num_classes > 0):
    raise ValueError(
      f"Target {target.name!r} of kind {target.kind!r}: num_classes must be "
      f"{'positive' if target.spec.needs_num_classes else '0'}, got "
      f"{target.num_classes}."
    )
