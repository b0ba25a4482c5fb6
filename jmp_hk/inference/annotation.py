"""Predictions beside the labels of structures, under names of their own.

Predictions get a prefix, `jmp_energy` for example; where a structure has the label, the
difference `jmp_energy_error` stands beside them. Nothing that a structure holds is
replaced.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

import ase
from ase.calculators import singlepoint
import numpy as np

from jmp_hk import ase_labels
from jmp_hk import from_ase
from jmp_hk import voigt
from jmp_hk.inference import comparison as comparison_lib
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import prediction_files
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib

PREFIX = prediction_files.PREFIX
IS_RELATIVE = "energy_is_relative_to_references"

_RESULTS = ("energy", "forces", "stress")  # Those that calculators know.


class NameTakenError(ValueError):
  """A structure holds something under the name that a prediction would get."""


def annotate(
  atoms: ase.Atoms,
  prediction: prediction_lib.Prediction,
  task: tasks_lib.TaskConfig,
  *,
  prefix: str = PREFIX,
  is_relative: bool = False,
) -> ase.Atoms:
  """A copy of a structure with all that it holds, and with its predictions.

  Numbers of the structure are in `atoms.info`, those of its atoms in `atoms.arrays`.

  Args:
    atoms: the structure; its labels are looked for as `find_label` says.
    prediction: what was predicted for it.
    task: task of the head that predicted.
    prefix: begins the names of predictions. With "" energy, forces and stress are the
      results of the copy's calculator, and there are no errors.
    is_relative: whether the energy is relative to unknown references; then it has no
      error, and `energy_is_relative_to_references` says so.

  Returns:
    The copy. Of classes it has the probabilities, and the likeliest as `NAME_class`; of
    a committee the standard deviations as `NAME_std`.

  Raises:
    NameTakenError: a name that is needed is taken.
  """
  results = ase_labels.results(atoms)
  copy = atoms.copy()
  if is_relative and prediction.energy is not None:
    _put(copy.info, f"{prefix}{IS_RELATIVE}", True)
  classes = {target.name for target in task.targets if target.spec.is_class}
  for name, value in _values(prediction).items():
    place = copy.arrays if name in {*task.per_atom, "forces"} else copy.info
    if name in prediction.std:  # ASE's calculators know no such results.
      _put(place, f"{prefix}{name}_std", prediction.std[name])
    if not prefix and name in _RESULTS:
      place = results
    _put(place, f"{prefix}{name}", value)
    if name in classes:
      _put(place, f"{prefix}{name}_class", _likeliest(value))
      continue
    label = find_label(atoms, name) if prefix else None
    if label is None or (name == "energy" and is_relative):
      continue
    if np.shape(label) == np.shape(value):
      _put(place, f"{prefix}{name}_error", value - label)
  if results:
    copy.calc = singlepoint.SinglePointCalculator(copy, **results)
  return copy


def check_names(
  structures: Iterable[ase.Atoms], task: tasks_lib.TaskConfig, prefix: str = PREFIX
) -> None:
  """Checks before anything is predicted that the names of predictions are free.

  Args:
    structures: the structures.
    task: task of the head that will predict.
    prefix: begins the names of predictions.

  Raises:
    NameTakenError: a structure holds one of them; says which.
  """
  names = list(dict.fromkeys([*(target.name for target in task.targets), "stress"]))
  for index, atoms in enumerate(structures):
    places = {**atoms.info, **atoms.arrays}
    if not prefix:
      places |= ase_labels.results(atoms)
    if taken := [f"{prefix}{name}" for name in names if f"{prefix}{name}" in places]:
      raise NameTakenError(
        f"S{from_ase.name_of(atoms, index).removeprefix('s')} holds {', '.join(taken)} "
        "already, and predictions replace nothing: choose another prefix."
      )


def find_label(atoms: ase.Atoms, name: str) -> Any:
  """The label of a structure that a prediction is compared with, or None.

  Args:
    atoms: the structure.
    name: name of the target. `REF_name` comes first, then the name itself; both are
      looked for in the results of the calculator, in `atoms.info` and `atoms.arrays`.
  """
  for wanted in (f"ref_{name}".lower(), name.lower()):
    for place in (ase_labels.results(atoms), atoms.info, atoms.arrays):
      for key, value in place.items():
        if key.lower() == wanted and value is not None:
          return _components(value) if name == "stress" else value
  return None


def compare(
  structures: Iterable[ase.Atoms],
  predictions: Iterable[prediction_lib.Prediction],
  task: tasks_lib.TaskConfig,
  units: Mapping[str, str],
  *,
  is_relative: bool = False,
) -> dict[str, dict[spec_lib.ShownMetric, float]]:
  """Errors over all structures that have a label.

  Args:
    structures: the structures.
    predictions: as many predictions.
    task: task of the head that predicted.
    units: units of the labels by name.
    is_relative: see `annotate`.

  Returns:
    By target, the metrics with their values, see `comparison.shown_table`; targets
    without any label are left out.
  """
  pairs = list(zip(structures, predictions, strict=True))
  found = {}
  for target in task.predicted:
    spec = target.spec
    if target.name == "energy" and is_relative:
      continue
    labelled = [
      (label, value, len(atoms))
      for atoms, prediction in pairs
      if (value := prediction.get(target)) is not None
      and (label := find_label(atoms, target.name)) is not None
      and _fits(label, atoms, spec)
    ]
    if labelled:
      labels, predicted, sizes = zip(*labelled, strict=True)
      stacked = spec.stack_labels(labels)
      found[target.name] = comparison_lib.Comparison(
        target,
        spec.unit(units),
        stacked,
        spec.stack_predictions(predicted),
        np.ones(len(stacked), bool),
        np.array(sizes),
      ).shown()
  return found


def _values(prediction: prediction_lib.Prediction) -> dict[str, Any]:
  """All that was predicted, by name."""
  fields = {name: getattr(prediction, name) for name in _RESULTS}
  known = {name: value for name, value in fields.items() if value is not None}
  return known | dict(prediction.properties)


def _components(stress: Any) -> Any:
  """A label of stress as predictions are; what is no stress stays as it is."""
  try:
    return voigt.parse(stress)
  except (TypeError, ValueError):
    return stress


def _likeliest(value: spec_lib.Value) -> int:
  """The class from the probability of class 1, or those of all classes."""
  return int(np.argmax(value)) if np.ndim(value) else int(value > 1 / 2)


def _put(place: Any, name: str, value: Any) -> None:
  """Stores something that is not there yet."""
  if name in place:
    raise NameTakenError(
      f"The structure holds {name} already, and predictions replace nothing: choose "
      "another prefix."
    )
  place[name] = value


def _fits(label: Any, atoms: ase.Atoms, spec: spec_lib.TargetSpec) -> bool:
  """Whether a label has the shape that it should have."""
  rows = (len(atoms),) if spec.per_atom else ()
  return np.shape(label) == rows + spec.label_shape
