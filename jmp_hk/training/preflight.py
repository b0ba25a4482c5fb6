"""Checks everything that a run will touch before it computes for hours.

What the files of facts (`dataset_info.json`) say is not read again from the records, so
that the checks take as little time for a hundred million structures as for ten.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence
import logging
import math
import pathlib
import shutil
import tempfile

import ase.data
import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk.checkpoints import model_directory
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.models import shapes as shapes_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.runtime import compilation
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import state as state_lib

logger = logging.getLogger(__name__)

_SAMPLE = 1024  # Structures that are read where no facts are stored.
_GIB = 2**30
_SPARE = 2**27  # Bytes for metrics, plots and predictions.


class PreflightError(ValueError):
  """A run would fail later on; the message says where and what to do."""


def check(
  config: config_lib.TrainerConfig,
  datasets: Sequence[datasets_lib.Dataset],
  workdir: pathlib.Path,
) -> None:
  """Checks the data of a run and that its directory can be written to.

  Args:
    config: configuration of the run.
    datasets: everything that will be read: training, validation and test splits.
    workdir: directory of the run; it is made where it is missing.

  Raises:
    PreflightError: labels are missing, classes are unknown, elements have no reference
      or no embedding, or nothing can be written; says all of it.
    PatternError: a pattern matches no parameter, or all parameters are frozen.
  """
  check_directory(workdir)
  _check_patterns(config)
  found = [
    problem
    for dataset in datasets
    for problem in find_problems(
      dataset,
      config.model.tasks[dataset.task],
      config.model.backbone.num_elements,
    )
  ]
  if found:
    raise PreflightError(" ".join(found))


def find_problems(
  dataset: datasets_lib.Dataset, task: tasks_lib.TaskConfig, num_elements: int
) -> list[str]:
  """What a model would fail at in one split of a dataset.

  Args:
    dataset: the split.
    task: what is learned on it.
    num_elements: rows of the model's atom embedding.

  Returns:
    A sentence for each problem.
  """
  facts = dataset.info.splits.get(dataset.split) or _sample_facts(dataset, task)
  where = f"The split {dataset.split!r} of {dataset.name!r}"
  return [
    *_label_problems(dataset, task, facts, where),
    *_class_problems(dataset.info, task, where),
    *_element_problems(dataset.info, task, facts, num_elements, where),
  ]


def check_directory(workdir: pathlib.Path) -> None:
  """Checks that a directory can be made and written to.

  Raises:
    PreflightError: it cannot.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
  except OSError as error:
    raise PreflightError(
      f"Nothing can be written to the directory {workdir} of the run: "
      f"{error.strerror or error}. Choose another one."
    ) from error


def check_disk(
  config: config_lib.TrainConfig, state: state_lib.TrainState, workdir: pathlib.Path
) -> None:
  """Checks that the checkpoints of a run find room on its disk.

  Args:
    config: the run; how many checkpoints it keeps.
    state: shapes of everything that a checkpoint holds.
    workdir: directory of the run.

  Raises:
    PreflightError: there is too little space; says how much is needed.
  """
  size = checkpoint_bytes(state)
  kept = config.keep_last + config.keep_best
  there = len(_checkpoints(workdir))
  # One more is complete before an old one is deleted.
  needed = max(kept + 1 - there, 1) * size + _SPARE
  free = shutil.disk_usage(workdir).free
  if free < needed:
    raise PreflightError(
      f"The disk of {workdir} has {free / _GIB:.1f} GiB left, but the run needs "
      f"{needed / _GIB:.1f} GiB: {size / _GIB:.2f} GiB for each of up to {kept + 1} "
      "checkpoints. Free some space, choose another directory, or keep fewer "
      "checkpoints (keep_last, keep_best)."
    )


def checkpoint_bytes(state: state_lib.TrainState) -> int:
  """Bytes of a checkpoint of a state, of which shapes suffice."""
  return sum(
    math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
    for leaf in jax.tree.leaves(state)
  )


def check_memory(
  compiled: jax.stages.Compiled | None,
  batch: batch_lib.Batch,
  budgets: Sequence[budget_lib.Budget],
) -> None:
  """Warns where the largest batches of a run may be too large for the devices.

  Args:
    compiled: the training step for one of the budgets.
    batch: a batch of that budget.
    budgets: all budgets, the largest last.
  """
  device = jax.local_devices()[0]
  limit = (device.memory_stats() or {}).get("bytes_limit")
  if compiled is None or not budgets or not limit:
    return
  growth = budgets[-1].num_main_items / batch.budget.num_main_items
  needed = compilation.memory_bytes(compiled, growth)
  if needed is not None and needed > limit:
    logger.warning("%s", memory_warning(needed, limit, device.device_kind))


def _check_patterns(config: config_lib.TrainerConfig) -> None:
  """Checks patterns of parameters that users gave, before anything is written."""
  optimizer, backbone = config.train.optimizer, config.model.backbone
  known = {pattern for pattern, _ in backbone.learning_rate_factors}
  given = {pattern for pattern, _ in optimizer.learning_rate_factors}
  if optimizer.frozen or given - known:  # Else it would only cost seconds of tracing.
    params = shapes_lib.abstract_variables(config.model).params
    optimizer_lib.check_patterns(optimizer, params)


def memory_warning(needed: int, limit: int, kind: str) -> str:
  """What is said where a step may need more memory than there is, both in bytes."""
  return (
    f"A step with the largest structures of the data needs about {needed / _GIB:.0f} "
    f"GiB of memory, but each device ({kind}) has {limit / _GIB:.0f} GiB. The run may "
    "end when they come together. More microbatches (num_microbatches) need less "
    "memory each and leave the batches as they are; so does remat."
  )


def check_metric(config: config_lib.TrainConfig, names: Iterable[str]) -> None:
  """Checks that validation will give the metric that it goes by.

  Args:
    config: the run.
    names: metrics of a validation.

  Raises:
    PreflightError: it is not among them.
  """
  names = sorted(names)
  if config.primary_metric not in names:
    raise PreflightError(
      f"There will be no validation metric {config.primary_metric!r} to find the best "
      f"weights by, only {', '.join(names)}."
    )


def _checkpoints(workdir: pathlib.Path) -> list[pathlib.Path]:
  folder = workdir / model_directory.CHECKPOINTS
  return [path for path in folder.glob("*") if path.name.isdigit()]


def _label_problems(
  dataset: datasets_lib.Dataset,
  task: tasks_lib.TaskConfig,
  facts: dataset_info.SplitFacts,
  where: str,
) -> list[str]:
  """Labels that structures lack."""
  found = []
  for target in task.learned:
    name, count = target.name, facts.missing.get(target.name, 0)
    if not count:
      continue
    if count >= dataset.num_structures:
      found.append(f"{where} has no structure with the label {name!r}.")
    elif not target.allow_missing:
      found.append(
        f"{where} has {count} of {dataset.num_structures} structures without the "
        f"label {name!r}; allow that for the target (missing=allowed, or "
        "allow_missing=True), or leave them out."
      )
  return found


def _class_problems(
  info: dataset_info.DatasetInfo, task: tasks_lib.TaskConfig, where: str
) -> list[str]:
  """Classes that a head has no output for."""
  found = []
  for target in task.learned:
    if not target.spec.is_class or target.name not in info.targets:
      continue
    known, present = target.num_classes or 2, info.targets[target.name].num_classes
    if present > known:
      found.append(
        f"{where} has {present} classes of {target.name!r}, but its head has {known}."
      )
  return found


def _element_problems(
  info: dataset_info.DatasetInfo,
  task: tasks_lib.TaskConfig,
  facts: dataset_info.SplitFacts,
  num_elements: int,
  where: str,
) -> list[str]:
  """Elements that the model does not know, or that have no reference."""
  found = []
  if beyond := [z for z in facts.elements if z > num_elements]:
    found.append(
      f"{where} has the elements {_symbols(beyond)}, but the model knows the first "
      f"{num_elements} only."
    )
  constants = task.constants(info)
  for target in task.targets:
    references = constants.energy_references
    if target.spec.label_name != "energy":
      known = constants.statistics.get(target.name)
      references = known.references if known else {}
    lacking = [z for z in facts.elements if z not in references]
    if references and lacking:
      found.append(
        f"{where} has the elements {_symbols(lacking)}, which no training structure "
        f"with the label {target.name!r} has: there is no reference of {target.name!r} "
        "for them. Put some such structures into the training data, or leave those "
        "that have them out."
      )
    elif target.is_learned and target.spec.label_name == "energy" and not references:
      found.append(
        f"{where} has no reference energies: they are fitted on a split 'train' with "
        "energies, which the data do not have."
      )
  return found


def _sample_facts(
  dataset: datasets_lib.Dataset, task: tasks_lib.TaskConfig
) -> dataset_info.SplitFacts:
  """Facts about structures from all over a split, of which none are stored."""
  elements: set[int] = set()
  missing: Counter[str] = Counter()
  chosen = datasets_lib.spread_over(dataset.num_structures, _SAMPLE)
  for structure in datasets_lib.fetch_all(dataset.source, chosen):
    elements.update(structure.atomic_numbers.tolist())
    missing.update(
      target.name for target in task.learned if target.spec.label(structure) is None
    )
  return dataset_info.SplitFacts(tuple(sorted(elements)), missing)


def _symbols(numbers: Iterable[int]) -> str:
  """Symbols of elements, by atomic number."""
  return ", ".join(ase.data.chemical_symbols[z] for z in numbers)
