"""Datasets from labelled `ase.Atoms` in memory."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
from typing import Any
import zlib

import ase
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import from_ase
from jmp_hk import statistics
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.targets import labels
from jmp_hk.targets import spec as spec_lib

TRAIN, VALIDATION = dataset_summary.TRAIN, "val"
_FIELDS = ("energy", "forces")  # Labels that `Structure` has fields for.
_MOST_NAMED = 10  # Structures that an error describes.


Structures = Sequence[structure_lib.Structure]


@dataclasses.dataclass(frozen=True)
class LabelledData:
  """Structures as `training.trainer.Trainer` reads them.

  Attributes:
    task: what is learned on them, with numbers of classes.
    training: one dataset.
    validation: one dataset, or none.
    fingerprint: changes with the structures and their labels.
  """

  task: tasks_lib.TaskConfig
  training: tuple[datasets_lib.Dataset, ...]
  validation: tuple[datasets_lib.Dataset, ...]
  fingerprint: str


def make_datasets(
  structures: Sequence[ase.Atoms],
  validation: float | Iterable[ase.Atoms],
  task: tasks_lib.TaskConfig,
  graph: graph_config.GraphConfig,
  seed: int = 0,
) -> LabelledData:
  """Reads structures with their labels, divides and summarises them.

  Args:
    structures: structures to train on, see `read_structures`.
    validation: structures to validate on, or the part of `structures` that is drawn.
    task: what is learned, by the name of the dataset.
    graph: cutoff and number of neighbors.
    seed: seed of the draw.

  Returns:
    The datasets. References, scales and statistics are fitted on the training alone.

  Raises:
    LabelError: structures lack labels or cannot be used; names them.
    ValueError: there are no structures, or `validation` makes no sense.
  """
  if not structures:
    raise ValueError("There are no structures to train on.")
  blank = dataset_info.DatasetInfo(task.name, graph, {}, (), {}, {}, 1.0, 1.0)
  training = read_structures(structures, task, blank)
  if isinstance(validation, (int, float)):
    training, held_out = divide(training, validation, seed)
  else:
    held_out = read_structures(list(validation), task, blank)
  info = summarise(training, held_out, task, graph)
  task = dataclasses.replace(task, targets=declare.with_classes(task.targets, info))
  for structure in (*training, *held_out):  # Raises now rather than in the middle.
    labels.normalise_labels(structure, info, task)
  datasets = [
    datasets_lib.Dataset(
      task.name, split, len(found), info, 0, datasets_lib.MemorySource(found)
    )
    for split, found in ((TRAIN, training), (VALIDATION, held_out))
    if found
  ]
  return LabelledData(
    task, tuple(datasets[:1]), tuple(datasets[1:]), _fingerprint(training, held_out)
  )


def read_structures(
  structures: Sequence[ase.Atoms],
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
) -> list[structure_lib.Structure]:
  """Reads structures with the labels that a task learns.

  Labels are looked for by the names of the targets in `atoms.info`, `atoms.arrays` and
  the results of the attached calculator, which must be those of the present positions;
  nothing is calculated. Units are eV, Å and eV/Å. An energy that the task does not
  learn is read where all structures have it.

  Args:
    structures: structures with labels.
    task: what is learned.
    info: whose conventions they follow, see `from_ase.from_atoms`.

  Returns:
    As many structures.

  Raises:
    LabelError: structures lack labels or cannot be used; names them.
  """
  found: list[structure_lib.Structure] = []
  problems: list[str] = []
  for index, atoms in enumerate(structures):
    name = f"structure {index} ({atoms.get_chemical_formula()})"
    try:
      found.append(_read(atoms, task, info, name))
    except structure_lib.InvalidStructureError as error:
      problems.append(str(error))
    except spec_lib.LabelError as error:
      problems.append(f"{name}: {error}")
  if problems:
    more = len(problems) - _MOST_NAMED
    raise spec_lib.LabelError(
      f"{len(problems)} of {len(structures)} structures cannot be learned from: "
      + "; ".join(problems[:_MOST_NAMED])
      + (f"; and {more} more." if more > 0 else ".")
    )
  if any(structure.energy is None for structure in found):
    return [dataclasses.replace(structure, energy=None) for structure in found]
  return found


def divide(
  structures: Structures, part: float, seed: int
) -> tuple[list[structure_lib.Structure], list[structure_lib.Structure]]:
  """Draws validation structures.

  Args:
    structures: all structures.
    part: part of them to draw; zero draws none, more draws at least one.
    seed: seed of the draw.

  Returns:
    What is left, and what was drawn, in the given order. Every element that occurs is
    among what is left, and so the drawn ones may be fewer.

  Raises:
    ValueError: `part` is no such part.
  """
  if not 0 <= part < 1:
    raise ValueError(f"validation must be a part from 0 to below 1, got {part}.")
  wanted = round(part * len(structures)) or int(part > 0)
  left = Counter(z for s in structures for z in set(s.atomic_numbers.tolist()))
  drawn: set[int] = set()
  for index in np.random.default_rng(seed).permutation(len(structures)).tolist():
    elements = set(structures[index].atomic_numbers.tolist())
    if len(drawn) < wanted and all(left[z] > 1 for z in elements):
      drawn.add(index)
      left.subtract(elements)
  return (
    [s for i, s in enumerate(structures) if i not in drawn],
    [s for i, s in enumerate(structures) if i in drawn],
  )


def summarise(
  training: Structures,
  held_out: Structures,
  task: tasks_lib.TaskConfig,
  graph: graph_config.GraphConfig,
) -> dataset_info.DatasetInfo:
  """Constants of structures in memory.

  Args:
    training: structures to train on; references and scales are fitted on them alone.
    held_out: structures to validate on.
    task: what is learned.
    graph: cutoff and number of neighbors.
  """
  declared = {
    target.name: _declare(target.spec)
    for target in task.learned
    if target.spec.label_name is None
  }
  declaration = dataset_summary.Declaration(
    task.name,
    graph,
    energy=training[0].energy is not None,
    forces=training[0].forces is not None,
    targets=declared,
  )
  splits = {TRAIN: statistics.of_structures(training)}
  if held_out:
    splits[VALIDATION] = statistics.of_structures(held_out)
  return dataset_summary.build_info(
    declaration, splits, provenance={"source": "ase.Atoms in memory"}
  )


def _declare(spec: spec_lib.TargetSpec) -> dataset_summary.Label:
  """What a kind of target says about its label; the unit is not known."""
  if spec.is_class:
    return dataset_summary.Label("", "class")
  return dataset_summary.Label("", "atoms" if spec.per_atom else "structure")


def _read(
  atoms: ase.Atoms,
  task: tasks_lib.TaskConfig,
  info: dataset_info.DatasetInfo,
  name: str,
) -> structure_lib.Structure:
  """One structure with its labels."""
  structure = from_ase.from_atoms(atoms, info, name)
  labels = {
    target.name: _label(atoms, target)
    for target in task.targets
    if target.is_learned or _find(atoms, target.name) is not None
  }
  fields: dict[str, Any] = {key: labels.pop(key) for key in _FIELDS if key in labels}
  if "energy" in fields:
    fields["energy"] = float(fields["energy"])
  structure = dataclasses.replace(structure, **fields, targets=labels)
  if problem := structure_lib.find_problem(structure):
    raise spec_lib.LabelError(problem)
  return structure


def _label(atoms: ase.Atoms, target: tasks_lib.TargetConfig) -> np.ndarray:
  """One label, float64.

  Raises:
    LabelError: it is missing or has another shape.
  """
  value = _find(atoms, target.name)
  if value is None:
    raise spec_lib.LabelError(
      f"it has no label {target.name!r}; it has {', '.join(_names(atoms)) or 'none'}"
    )
  spec = target.spec
  shape = (len(atoms), *spec.shape) if spec.per_atom else spec.shape
  value = np.asarray(value, np.float64)
  if value.size != math.prod(shape):
    raise spec_lib.LabelError(
      f"expected the label {target.name!r} of shape {shape}, found {value.shape}"
    )
  if spec.is_class and value != np.floor(value):
    raise spec_lib.LabelError(
      f"expected the label {target.name!r} to be the index of a class, found {value}"
    )
  return value.reshape(shape)


def _find(atoms: ase.Atoms, name: str) -> Any:
  """A label wherever ASE keeps it, or None."""
  for place in (atoms.info, atoms.arrays, _results(atoms)):
    if name in place:
      return place[name]
  return None


def _names(atoms: ase.Atoms) -> list[str]:
  """Names of everything that could be a label."""
  known = {*atoms.info, *atoms.arrays, *_results(atoms)}
  return sorted(known - {"numbers", "positions", "tags"})


def _results(atoms: ase.Atoms) -> Mapping[str, Any]:
  """Results of the calculator that belong to the present structure."""
  if atoms.calc is None or atoms.calc.check_state(atoms):
    return {}
  return {k: v for k, v in atoms.calc.results.items() if v is not None}


def _fingerprint(training: Structures, held_out: Structures) -> str:
  """Numbers of structures and a checksum of their atoms and labels."""
  checksum = 0
  for structure in (*training, *held_out):
    arrays = [structure.positions, structure.atomic_numbers, structure.cell]
    arrays += [structure.energy, structure.forces, *structure.targets.values()]
    for array in arrays:
      if array is not None:
        checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
  return f"{len(training)} to train and {len(held_out)} to validate on, {checksum:08x}"
