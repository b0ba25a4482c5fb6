"""Labels of structures as the loss wants them.

Everything is computed in float64; packing casts to the precision of the batch.
"""

from collections.abc import Sequence

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import packing
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib

LabelError = spec_lib.LabelError


def label_shapes(
  tasks: Sequence[tasks_lib.TaskConfig],
) -> dict[str, packing.LabelShape]:
  """Shapes of all labels that any task learns, as packing wants them.

  Args:
    tasks: all tasks of a model.

  Raises:
    ValueError: two tasks use one name for labels of different shapes.
  """
  shapes: dict[str, packing.LabelShape] = {}
  for task in tasks:
    for target in task.learned:
      spec = target.spec
      shape = packing.LabelShape(spec.per_atom, spec.shape, spec.is_class)
      if shapes.setdefault(target.name, shape) != shape:
        raise ValueError(f"Tasks disagree on what kind of label {target.name!r} is.")
  return shapes


def check_statistics(
  task: tasks_lib.TaskConfig, info: dataset_info.DatasetInfo
) -> None:
  """Checks that a dataset has statistics of every label that its task learns.

  Args:
    task: the task.
    info: constants of its dataset.

  Raises:
    ValueError: it has none of a label; names it and those that there are.
  """
  for target in task.learned:
    if target.spec.label_name is None and target.name not in info.targets:
      raise ValueError(
        f"Dataset {task.name!r} has no label {target.name!r}; besides energy, forces "
        f"and stress it has {sorted(info.targets)}."
      )


def normalise_labels(
  structure: structure_lib.Structure,
  info: dataset_info.DatasetInfo,
  task: tasks_lib.TaskConfig,
) -> dict[str, np.ndarray]:
  """Normalises the labels of one structure that its task learns.

  Args:
    structure: a structure with labels in physical units.
    info: constants of its dataset.
    task: the task that it trains.

  Returns:
    Labels by name; those that are missing and may be as `TargetSpec.missing_label`.

  Raises:
    LabelError: a label is missing that may not be, or an element has no reference.
  """
  constants = task.constants(info)
  return {
    target.name: target.spec.missing_label(structure)
    if is_missing(target, structure)
    else target.spec.normalise(required_label(target, structure), constants, structure)
    for target in task.learned
  }


def is_missing(
  target: tasks_lib.TargetConfig, structure: structure_lib.Structure
) -> bool:
  """Whether a structure lacks a label that it may lack."""
  return target.allow_missing and target.spec.label(structure) is None


def required_label(
  target: tasks_lib.TargetConfig, structure: structure_lib.Structure
) -> spec_lib.Value:
  """The label of a structure in physical units.

  Args:
    target: which label.
    structure: the structure.

  Raises:
    LabelError: it has none; names the labels that it has.
  """
  label = target.spec.label(structure)
  if label is None:
    known = [name for name in tasks_lib.FIELDS if getattr(structure, name) is not None]
    raise LabelError(
      f"{structure.record_id} has no label {target.name!r}; it has "
      f"{known + sorted(structure.targets)}."
    )
  return label
