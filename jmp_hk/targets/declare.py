"""Declares the targets of a task: by names of kinds, and as the data have them."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Literal

from jmp_hk import dataset_info
from jmp_hk.targets import config as config_lib
from jmp_hk.targets import spec as spec_lib

_FORCE_COEFFICIENT = 10.0  # Of forces beside an energy, as JMP's fine-tuning on rMD17.


def declare(
  targets: Mapping[str, str] | Sequence[config_lib.TargetConfig],
) -> tuple[config_lib.TargetConfig, ...]:
  """Declares targets.

  Example:
    >>> targets = declare({"energy": "energy", "forces": "conservative_forces"})

  Args:
    targets: kinds by name of the label, or complete declarations. With kinds alone all
      losses have the factor 1, but forces beside an energy 10; and structures may lack
      labels of stress.

  Returns:
    The declarations, see `config.with_energy`.

  Raises:
    ValueError: there is no target, a kind is unknown or not for this label, or a label
      is named twice.
  """
  if isinstance(targets, Mapping):
    declared = []
    for name, kind in targets.items():
      target = config_lib.TargetConfig(
        name, kind, allow_missing=spec_lib.find(kind).may_be_missing
      )
      if name == "forces" and "energy" in targets:
        target = dataclasses.replace(target, loss_coefficient=_FORCE_COEFFICIENT)
      declared.append(target)
  else:
    declared = list(targets)
  names = [target.name for target in declared]
  if not names:
    raise ValueError("There are no targets: name at least one label to learn.")
  if len(set(names)) != len(names):
    raise ValueError(f"A label is named twice among the targets: {', '.join(names)}.")
  return config_lib.with_energy(declared)


def label_kind(
  target: config_lib.TargetConfig,
) -> Literal["structure", "atoms", "class"]:
  """What the label of a target belongs to, see `dataset_summary.Label`."""
  if target.spec.is_class:
    return "class"
  return "atoms" if target.spec.per_atom else "structure"


def with_classes(
  targets: Sequence[config_lib.TargetConfig], info: dataset_info.DatasetInfo
) -> tuple[config_lib.TargetConfig, ...]:
  """Takes numbers of classes that were not given from the data.

  Args:
    targets: declarations.
    info: constants of the dataset.

  Raises:
    ValueError: a label does not exist, or is of another kind than its target.
  """
  labels = {name for name in config_lib.FIELDS if name in info.units}
  labels |= set(info.targets)
  for target in targets:
    if target.is_learned and target.name not in labels:
      hint = (
        " Structures without a periodic cell of finite volume have none."
        if target.name == "stress"
        else ""
      )
      raise ValueError(
        f"The data have no label {target.name!r}, only {', '.join(sorted(labels))}."
        f"{hint}"
      )
  return tuple(
    _with_classes(target, info) if target.spec.is_class else target
    for target in targets
  )


def _with_classes(
  target: config_lib.TargetConfig, info: dataset_info.DatasetInfo
) -> config_lib.TargetConfig:
  """One target whose label is a class."""
  known = info.targets[target.name].num_classes
  if not known:
    raise ValueError(
      f"The label {target.name!r} holds no classes: convert the data with "
      f"--targets={target.name}:class."
    )
  if target.spec.needs_num_classes:
    return dataclasses.replace(target, num_classes=target.num_classes or max(known, 2))
  if known > 2:
    raise ValueError(
      f"The label {target.name!r} has {known} classes: use the kind multiclass."
    )
  return target
