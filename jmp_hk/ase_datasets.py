"""Datasets from labelled `ase.Atoms` in memory, or from a file that ASE reads."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import logging
import zlib

import numpy as np

from jmp_hk import ase_structures
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import problems as problems_lib
from jmp_hk import statistics
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.targets import labels
from jmp_hk.targets import spec as spec_lib

TRAIN, VALIDATION = dataset_summary.TRAIN, "val"

logger = logging.getLogger(__name__)

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
  structures: ase_structures.Source,
  validation: float | ase_structures.Source,
  task: tasks_lib.TaskConfig,
  graph: graph_config.GraphConfig,
  seed: int = 0,
  keys: Mapping[str, str] | None = None,
) -> LabelledData:
  """Reads structures with their labels, divides and summarises them.

  Args:
    structures: structures to train on, see `read_structures`; or a file, folder or
      table of them, see `ase_files.find`.
    validation: structures to validate on, likewise; or the part of `structures` that is
      drawn.
    task: what is learned, by the name of the dataset.
    graph: cutoff and number of neighbors.
    seed: seed of the draw.
    keys: entries that hold labels, by the name of the label; others are found, see
      `ase_labels.choose_keys`. Those of `structures` count for `validation` as well.

  Returns:
    The datasets. References, scales and statistics are fitted on the training alone.

  Raises:
    LabelError: structures lack labels or cannot be used; names them.
    FileError: a file cannot be read.
    ValueError: there are no structures, or `validation` makes no sense.
  """
  frames = ase_structures.frames(structures)
  if not frames:
    raise ValueError("There are no structures to train on.")
  blank = dataset_info.DatasetInfo(task.name, graph, {}, (), {}, {}, 1.0, 1.0)
  keys = ase_structures.find_keys([frame.atoms for frame in frames], task, keys or {})
  training = ase_structures.read_frames(frames, task, blank, keys)
  if isinstance(validation, (int, float)):
    training, held_out = divide(training, validation, seed)
  else:
    held_out = ase_structures.read_frames(
      ase_structures.frames(validation), task, blank, keys
    )
  _report_missing(task, training, held_out)
  _report_shared(training, held_out)
  info = summarise(training, held_out, task, graph)
  task = dataclasses.replace(task, targets=declare.with_classes(task.targets, info))
  _check_labels(training, held_out, info, task)
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


def _report_missing(
  task: tasks_lib.TaskConfig, training: Structures, held_out: Structures
) -> None:
  """Logs how many structures lack labels that they may lack."""
  for target in task.learned:
    counts = [
      sum(labels.is_missing(target, structure) for structure in structures)
      for structures in (training, held_out)
    ]
    if any(counts):
      logger.info(
        "The label %r is missing in %d of %d structures to train on, and in %d of %d "
        "to validate on; they do not count in its loss and metrics.",
        target.name,
        counts[0],
        len(training),
        counts[1],
        len(held_out),
      )


def _report_shared(training: Structures, held_out: Structures) -> None:
  """Warns where structures to validate on are among those to train on."""
  known = {_geometry(structure) for structure in training}
  shared = [s.record_id for s in held_out if _geometry(s) in known]
  if shared:
    logger.warning(
      "%d of %d structures to validate on are also among those to train on (first: "
      "%s): validation errors will be too small.",
      len(shared),
      len(held_out),
      shared[0],
    )


def _geometry(structure: structure_lib.Structure) -> bytes:
  """Elements, positions and cell, for comparison."""
  arrays = (structure.atomic_numbers, structure.positions, structure.cell)
  return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)


def _check_labels(
  training: Structures,
  held_out: Structures,
  info: dataset_info.DatasetInfo,
  task: tasks_lib.TaskConfig,
) -> None:
  """Normalises all labels once: it fails now rather than in the middle of a run.

  Raises:
    LabelError: labels cannot be normalised; names the structures.
  """
  problems = []
  for structure in (*training, *held_out):
    try:
      labels.normalise_labels(structure, info, task)
    except spec_lib.LabelError as error:
      reason = str(error).removeprefix(f"{structure.record_id}: ")
      problems.append((structure.record_id, reason))
  if problems:
    raise spec_lib.LabelError(problems_lib.summarise(problems))


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
    target.name: dataset_summary.Label("", declare.label_kind(target))
    for target in task.learned
    if target.spec.label_name is None
  }
  declaration = dataset_summary.Declaration(
    task.name,
    graph,
    energy=any(structure.energy is not None for structure in training),
    forces=any(structure.forces is not None for structure in training),
    stress=any(structure.stress is not None for structure in training),
    targets=declared,
    optional=frozenset(t.name for t in task.learned if t.allow_missing),
  )
  splits = {TRAIN: statistics.of_structures(training, declaration.optional)}
  if held_out:
    splits[VALIDATION] = statistics.of_structures(held_out, declaration.optional)
  return dataset_summary.build_info(
    declaration, splits, provenance={"source": "ase.Atoms in memory"}
  )


def _fingerprint(training: Structures, held_out: Structures) -> str:
  """Numbers of structures and a checksum of their atoms and labels."""
  checksum = 0
  for structure in (*training, *held_out):
    arrays = [structure.positions, structure.atomic_numbers, structure.cell]
    arrays += [getattr(structure, name) for name in structure_lib.LABELS]
    arrays += structure.targets.values()
    for array in arrays:
      if array is not None:
        checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
  return f"{len(training)} to train and {len(held_out)} to validate on, {checksum:08x}"
