"""Which weights of a trained model a fine-tuning starts from."""

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import enum
import pathlib

import numpy as np

from jmp_hk import dataset_info
from jmp_hk.models import heads as heads_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters
from jmp_hk.targets import config as tasks_lib

# Top-level modules of the backbone; everything else belongs to heads.
BACKBONE_MODULES = ("atom_embedding", "backbone")
_HEADER = ("parameter", "shape", "status")


class PretrainedError(ValueError):
  """A checkpoint does not fit the model; the message names the parameters."""


class Status(enum.Enum):
  """What became of a parameter or scale factor."""

  LOADED = "loaded"  # Taken from the checkpoint.
  PARTLY = "partly loaded"  # Of several heads in one array, some were taken.
  FRESH = "fresh"  # Newly drawn, because it belongs to a new head or branch.
  IGNORED = "ignored"  # Only in the checkpoint, e.g. in its heads.


@dataclasses.dataclass(frozen=True)
class Entry:
  """What became of one parameter or scale factor.

  Attributes:
    path: its path.
    shape: its shape.
    status: what became of it.
  """

  path: str
  shape: tuple[int, ...]
  status: Status

  @property
  def size(self) -> int:
    """Number of scalars."""
    return int(np.prod(self.shape, dtype=np.int64))


@dataclasses.dataclass(frozen=True)
class ReusedHead:
  """A head of a trained model that serves a target of a new one.

  Attributes:
    target: name of the target in both models.
    source: name of the task that it served.
    task: name of the task that it will serve.
    old: place of its weights in the stack of the trained model's heads.
    new: likewise in the new model.
    factor: what its output is multiplied with.
  """

  target: str
  source: str
  task: str
  old: int
  new: int
  factor: float

  def describe(self) -> str:
    """The head in words."""
    scaled = "" if self.factor == 1 else f", times {self.factor:.4g}"
    return f"{self.target} of {self.task!r} (from {self.source!r}{scaled})"


def match_heads(
  old: model_lib.ModelConfig,
  old_infos: Mapping[str, dataset_info.DatasetInfo],
  new: model_lib.ModelConfig,
  new_infos: Mapping[str, dataset_info.DatasetInfo],
) -> tuple[ReusedHead, ...]:
  """Finds the heads of a trained model that a new one can take over.

  The heads of a task come from the task of the same name, or else from the only task
  that the trained model has. A head is taken over where name, kind, reduction, number
  of classes and biases of its target agree.

  Heads predict in units of the data that they were trained on, and references, scales
  and means of the new data take their place. The output of a head is therefore
  multiplied with the ratio of both scales: a new model predicts the same forces at
  first, and the same deviations of energies from their references, or of other numbers
  from their means.

  Args:
    old: the trained model.
    old_infos: constants of the datasets of its tasks by name.
    new: the new model.
    new_infos: likewise.

  Returns:
    The heads.
  """
  sources = {task.name: task for task in old.tasks}
  old_plans = {plan.target.name: plan for plan in heads_lib.plan_heads(old.tasks)}
  found = []
  for plan in heads_lib.plan_heads(new.tasks):
    name = plan.target.name
    old_plan = old_plans.get(name)
    if old_plan is None or not _same_head(old_plan.target, plan.target):
      continue
    for task, place in zip(new.tasks, plan.task_head, strict=True):
      source = sources.get(task.name, old.tasks[0] if len(old.tasks) == 1 else None)
      if place < 0 or source is None:
        continue
      old_place = old_plan.task_head[old.tasks.index(source)]
      if old_place < 0:
        continue
      spec = plan.target.spec
      scales = [
        spec.scale(owner.constants(infos[owner.name]))
        for owner, infos in ((source, old_infos), (task, new_infos))
      ]
      found.append(
        ReusedHead(
          name, source.name, task.name, old_place, place, scales[0] / scales[1]
        )
      )
  return tuple(found)


def _same_head(left: tasks_lib.TargetConfig, right: tasks_lib.TargetConfig) -> bool:
  """Whether two targets agree in everything but the coefficients of their losses."""
  return dataclasses.replace(left, loss_coefficient=1.0) == dataclasses.replace(
    right, loss_coefficient=1.0
  )


def load(
  source: model_lib.Variables,
  fresh: model_lib.Variables,
  heads: Sequence[ReusedHead] = (),
  *,
  draw_missing: bool = False,
) -> tuple[model_lib.Variables, list[Entry]]:
  """Puts the backbone of a trained model into a freshly drawn one, and some heads.

  Atom embedding, backbone and scale factors are loaded. Heads stay as they were drawn,
  unless they are among those to take over. Parts of the source's backbone that the new
  model does not have, such as the branch for direct forces, are not used.

  Args:
    source: variables of the trained model.
    fresh: variables of the new model.
    heads: heads to take over, see `match_heads`.
    draw_missing: whether what the source's backbone lacks stays as it was drawn: the
      branch for direct forces where only the new model has one.

  Returns:
    The new model's variables with NumPy leaves, and what became of every parameter and
    scale factor: those of the new model in its order, then what was ignored.

  Raises:
    PretrainedError: a parameter or scale factor of the new model's backbone has another
      shape in the source, or is missing there; the message names all of them.
  """
  loaded, entries, problems = [], [], []
  for old, new in zip(source, fresh, strict=True):
    old, flat = parameters.flatten(old), parameters.flatten(new)
    chosen = {}
    for path, value in flat.items():
      if is_backbone(path) and draw_missing and path not in old:
        chosen[path], status = value, Status.FRESH
      elif is_backbone(path):
        problems += _problems(path, value, old)
        chosen[path], status = old.get(path, value), Status.LOADED
      else:
        chosen[path], status = _take_heads(path, value, old, heads)
      entries.append(Entry(path, value.shape, status))
    used = {entry.path for entry in entries if entry.status is not Status.FRESH}
    entries += [
      Entry(path, value.shape, Status.IGNORED)
      for path, value in old.items()
      if path not in used
    ]
    loaded.append((chosen, new))
  if problems:
    raise PretrainedError(
      "The checkpoint does not fit the model: " + "; ".join(problems) + "."
    )
  variables = model_lib.Variables(*(parameters.unflatten(*pair) for pair in loaded))
  return variables, sorted(entries, key=lambda entry: entry.status is Status.IGNORED)


def _take_heads(
  path: str,
  drawn: np.ndarray,
  source: Mapping[str, np.ndarray],
  heads: Sequence[ReusedHead],
) -> tuple[np.ndarray, Status]:
  """One parameter of a stack of heads, with those heads that are taken over."""
  taken = [
    head
    for head in heads
    if path.startswith(f"{heads_lib.module_name(head.target)}/")
    and path in source
    and source[path].shape[1:] == drawn.shape[1:]
  ]
  if not taken:
    return drawn, Status.FRESH
  value = np.array(drawn)
  for head in taken:
    is_last = path == heads_lib.output_weights(head.target)
    value[head.new] = source[path][head.old] * (head.factor if is_last else 1.0)
  return value, Status.LOADED if len(taken) == len(value) else Status.PARTLY


def is_backbone(path: str) -> bool:
  """Whether a parameter belongs to the atom embedding or the backbone."""
  return path.partition("/")[0] in BACKBONE_MODULES


def write_table(entries: Sequence[Entry], path: pathlib.Path) -> None:
  """Writes a CSV file with one row a parameter: parameter, shape, status."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(_HEADER)
    for entry in entries:
      shape = "×".join(map(str, entry.shape)) or "scalar"
      writer.writerow((entry.path, shape, entry.status.value))


def overview(entries: Sequence[Entry]) -> str:
  """A short table: number of parameters by part of the model and status."""
  parts: dict[str, dict[Status, list[int]]] = {}
  for entry in entries:
    by_status = parts.setdefault(_part(entry.path), {})
    by_status.setdefault(entry.status, []).append(entry.size)
  found = {entry.status for entry in entries}
  columns = [s for s in Status if s in found or s is not Status.PARTLY]
  rows = [("part", *(status.value for status in columns))]
  for part, by_status in sorted(parts.items()):
    cells = [by_status.get(status, []) for status in columns]
    rows.append((part, *(f"{len(c)} ({sum(c):,} values)" if c else "" for c in cells)))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  padded = [
    [cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows
  ]
  return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _problems(
  path: str, wanted: np.ndarray, source: Mapping[str, np.ndarray]
) -> list[str]:
  """What is wrong with one parameter of the source."""
  if path not in source:
    return [f"{path} is missing in the checkpoint"]
  if source[path].shape != wanted.shape:
    return [
      f"{path} has shape {source[path].shape} in the checkpoint, the model needs "
      f"{wanted.shape}"
    ]
  return []


def _part(path: str) -> str:
  """The part of the model that a parameter is counted with."""
  modules = path.split("/")
  return "/".join(modules[:2]) if modules[0] == "backbone" else modules[0]
