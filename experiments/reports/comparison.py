"""Finished fine-tuning runs, grouped and compared: from scratch and from weights.

Runs that differ in fold and seed alone are a group, and numbers are averaged inside a
group only. A group is compared with another over the folds that both have.
"""

from collections.abc import Collection
from collections.abc import Sequence
import dataclasses
import itertools
import math
import statistics
from typing import NamedTuple

from experiments.reports import runs as runs_lib
from experiments.reports import settings as settings_lib

SCRATCH = "from scratch"
# They follow from starting from weights at all.
_OF_START = ("train.optimizer.learning_rate_factors", "initial")


class Estimate(NamedTuple):
  """A number with its spread.

  Attributes:
    mean: of errors, mean over folds of the mean over seeds.
    spread: standard deviation over seeds; None where there are fewer than two.
    count: number of runs, or of tasks, that it is the mean of.
  """

  mean: float
  spread: float | None = None
  count: int = 1


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that differ in fold and seed only.

  Attributes:
    runs: at least one.
    model: name of the model, different for different models of a report.
    start: "from scratch", or "from" and the origin of the weights.
    variant: settings by which it differs from others of the same task, model and
      start; "" where there are none.
  """

  runs: tuple[runs_lib.Run, ...]
  model: str
  start: str
  variant: str = ""

  @property
  def label(self) -> str:
    """What it is called among groups of the same task."""
    return " ".join(filter(None, (self.model, self.start, self.variant)))

  @property
  def is_from_scratch(self) -> bool:
    """Whether its weights were drawn."""
    return self.runs[0].origin is None

  @property
  def folds(self) -> tuple[int, ...]:
    """Numbers of its folds."""
    return tuple(sorted({run.result.fold for run in self.runs}))

  @property
  def num_parameters(self) -> int:
    """Number of parameters; 0 where it is not known."""
    return max(run.result.num_parameters for run in self.runs)

  @property
  def device_hours(self) -> float:
    """Mean training time of a run."""
    return statistics.mean(run.device_hours for run in self.runs)

  def error(self, folds: Collection[int] = ()) -> Estimate:
    """Test error.

    Args:
      folds: folds to average over, all of which it has; by default all that it has.
    """
    folds = folds or self.folds
    cells: dict[tuple[int, tuple[int | None, ...]], list[float]] = {}
    for run in self.runs:
      if run.result.fold in folds:
        cells.setdefault((run.result.fold, run.seeds), []).append(run.result.error)
    means = {cell: statistics.mean(errors) for cell, errors in cells.items()}
    of_folds = [
      statistics.mean(value for (own, _), value in means.items() if own == fold)
      for fold in folds
    ]
    seeds = {seed for _, seed in means}
    complete = [s for s in seeds if all((fold, s) in means for fold in folds)]
    of_seeds = [statistics.mean(means[fold, s] for fold in folds) for s in complete]
    spread = statistics.stdev(of_seeds) if len(of_seeds) > 1 else None
    return Estimate(statistics.mean(of_folds), spread, sum(map(len, cells.values())))

  def repeated(self) -> list[str]:
    """Directories of runs that have fold and seed in common with another one."""
    cells: dict[object, list[str]] = {}
    for run in self.runs:
      cells.setdefault((run.result.fold, run.seeds), []).append(str(run.directory))
    return [name for names in cells.values() if len(names) > 1 for name in names]


class ToBest(NamedTuple):
  """How long it takes to the best validation metric of training from scratch.

  Attributes:
    scratch_hours: device-hours from scratch.
    tuned_hours: device-hours of fine-tuning; None where a run never got there.
    scratch_steps: optimiser steps from scratch.
    tuned_steps: optimiser steps of fine-tuning, or None.
    num_pairs: number of pairs of runs.
    num_reached: number of those in which fine-tuning got there.
  """

  scratch_hours: float
  tuned_hours: float | None
  scratch_steps: float
  tuned_steps: float | None
  num_pairs: int
  num_reached: int

  def of(self, group: Group) -> tuple[float | None, float | None]:
    """Device-hours and steps of a group, one of the two that are compared."""
    if group.is_from_scratch:
      return self.scratch_hours, self.scratch_steps
    return self.tuned_hours, self.tuned_steps


@dataclasses.dataclass(frozen=True)
class Pair:
  """A group and the one that it is compared with, of the same task and data.

  Attributes:
    before: the one that it is compared with.
    after: the group, e.g. a fine-tuned one.
  """

  before: Group
  after: Group

  @property
  def folds(self) -> tuple[int, ...]:
    """Folds that both have."""
    return tuple(fold for fold in self.before.folds if fold in self.after.folds)

  @property
  def differences(self) -> list[str]:
    """Names of settings that differ besides the start and what follows from it."""
    names = settings_lib.differences(
      self.before.runs[0].settings, self.after.runs[0].settings
    )
    return [name for name in names if not name.startswith(_OF_START)]

  def improvement(self, folds: Collection[int] = ()) -> Estimate | None:
    """Relative improvement in percent; None where they have no fold in common.

    Args:
      folds: folds to average over, all of which both have; by default all of those.
    """
    folds = folds or self.folds
    if not folds:
      return None
    before, after = self.before.error(folds), self.after.error(folds)
    if before.mean == 0:
      return None
    ratio = after.mean / before.mean
    spread = None
    if before.spread is not None and after.spread is not None and after.mean:
      parts = before.spread / before.mean, after.spread / after.mean
      spread = 100 * ratio * math.hypot(*parts)
    return Estimate(100 * (1 - ratio), spread)

  @property
  def to_best(self) -> ToBest | None:
    """Means over pairs of runs of the same fold, and of the same seed where both have.

    None where there are no such pairs, or nothing was validated.
    """
    pairs = [
      (a, b)
      for a, b in itertools.product(self.before.runs, self.after.runs)
      if a.result.fold == b.result.fold and math.isfinite(a.best)
    ]
    pairs = [(a, b) for a, b in pairs if a.seed == b.seed] or pairs
    if not pairs:
      return None
    scratch = [a.first_at(a.best) for a, _ in pairs]
    tuned = [b.first_at(a.best) for a, b in pairs]
    reached = [v for v in tuned if v is not None]
    is_reached = len(reached) == len(tuned)
    mean = statistics.mean
    return ToBest(
      mean(v.device_hours for v in scratch if v),
      mean(v.device_hours for v in reached) if is_reached else None,
      mean(v.step for v in scratch if v),
      mean(v.step for v in reached) if is_reached else None,
      len(tuned),
      len(reached),
    )


@dataclasses.dataclass(frozen=True)
class Comparison:
  """All groups of one task with the same number of training structures.

  Attributes:
    task: its name.
    dataset: dataset that results are averaged by.
    unit: unit of the errors.
    num_structures: number of training structures.
    groups: those of one model together, beginning with what is from scratch.
  """

  task: str
  dataset: str
  unit: str
  num_structures: int
  groups: tuple[Group, ...]

  @property
  def pairs(self) -> tuple[Pair, ...]:
    """Every fine-tuned group with that from scratch which it is compared with.

    It is the one of the same model whose other settings are nearest; of several, the
    one with the smaller error.
    """
    result = []
    for group in self.groups:
      candidates = [
        Pair(other, group)
        for other in self.groups
        if other.is_from_scratch and other.model == group.model
      ]
      if candidates and not group.is_from_scratch:
        near = lambda pair: (len(pair.differences), pair.before.error().mean)
        result.append(min(candidates, key=near))
    return tuple(result)

  def to_best(self, group: Group) -> ToBest | None:
    """How long a group and what it is compared with take to the best of scratch.

    Args:
      group: a fine-tuned one, or one from scratch that others are compared with.
    """
    pairs = [pair for pair in self.pairs if pair.after.label == group.label]
    pairs += [p for p in reversed(self.pairs) if p.before.label == group.label]
    return pairs[0].to_best if pairs else None

  @property
  def scopes(self) -> tuple[tuple[int, ...], ...]:
    """Sets of folds over which some groups can be put side by side."""
    found = {group.folds for group in self.groups}
    found |= {pair.folds for pair in self.pairs if pair.folds}
    if any(0 in folds for folds in found):
      found.add((0,))  # As published.
    return tuple(sorted(found, key=lambda folds: (len(folds), folds)))


def compare(runs: Sequence[runs_lib.Run]) -> list[Comparison]:
  """Groups runs, in the order of their first appearance."""
  groups: list[list[runs_lib.Run]] = []
  for run in runs:
    alike = (group for group in groups if run.is_alike(group[0]))
    if (group := next(alike, None)) is not None:
      group.append(run)
    else:
      groups.append([run])
  firsts = [group[0] for group in groups]
  models = settings_lib.distinguish([(run.model, run.sizes) for run in firsts])
  starts = _starts(firsts)
  tasks: list[list[int]] = []  # Groups by task and number of structures.
  for index, run in enumerate(firsts):
    same = (task for task in tasks if _is_same_task(run, firsts[task[0]]))
    if (task := next(same, None)) is not None:
      task.append(index)
    else:
      tasks.append([index])
  comparisons = []
  for task in tasks:
    result = firsts[task[0]].result
    items = [(f"{models[i]} {starts[i]}", firsts[i].settings) for i in task]
    labels = _unique(settings_lib.distinguish(items))
    members = [
      Group(tuple(groups[i]), models[i], starts[i], label[len(name) :].strip())
      for i, (name, _), label in zip(task, items, labels, strict=True)
    ]
    order = list(dict.fromkeys(group.model for group in members))
    members.sort(key=lambda g: (order.index(g.model), not g.is_from_scratch))
    comparisons.append(
      Comparison(
        result.task,
        result.dataset,
        result.unit,
        result.num_structures,
        tuple(members),
      )
    )
  return comparisons


def _starts(runs: Sequence[runs_lib.Run]) -> list[str]:
  """What each run started from, in words."""
  chosen = [run.origin for run in runs if run.origin is not None]
  labels = iter(settings_lib.distinguish([(o.name, o.settings) for o in chosen]))
  return [SCRATCH if run.origin is None else f"from {next(labels)}" for run in runs]


def _is_same_task(first: runs_lib.Run, second: runs_lib.Run) -> bool:
  a, b = first.result, second.result
  return (a.task, a.unit) == (b.task, b.unit) and settings_lib.is_same_count(
    a.num_structures, b.num_structures
  )


def _unique(labels: Sequence[str]) -> list[str]:
  """Numbers labels that would occur twice among the groups of a task."""
  counts: dict[str, int] = {}
  result = []
  for label in labels:
    counts[label] = counts.get(label, 0) + 1
    result.append(label if counts[label] == 1 else f"{label} #{counts[label]}")
  return result
