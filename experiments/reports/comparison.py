"""Finished fine-tuning runs, compared: from scratch, from a checkpoint, published."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
import pathlib
import statistics

from experiments.reports import result as result_lib
from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk.training import writers

PUBLISHED_FILE = pathlib.Path(__file__).parent / "published_results.json"
_SECONDS = 3600.0


class UnfinishedRunError(ValueError):
  """A directory holds no finished fine-tuning run."""


@dataclasses.dataclass(frozen=True)
class PublishedTask:
  """Published test errors of one task.

  Attributes:
    unit: unit of the errors.
    mae: mean absolute error by model; that of MatBench is for fold 0.
    mae_mean_of_5_folds: the same averaged over MatBench's folds, where published.
  """

  unit: str
  mae: Mapping[str, float]
  mae_mean_of_5_folds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Published:
  """The published results.

  Attributes:
    source: where they are from.
    models: their columns.
    overall_relative_improvement_percent: means over the tasks, as stated.
    device_hours: training times as stated.
    tasks: errors by task.
  """

  source: str
  models: tuple[str, ...]
  overall_relative_improvement_percent: Mapping[str, float]
  device_hours: Mapping[str, float]
  tasks: Mapping[str, PublishedTask]


@dataclasses.dataclass(frozen=True)
class Run:
  """One finished run.

  Attributes:
    result: its result.
    validations: (device-hours so far, validation metric) of every validation.
  """

  result: result_lib.Result
  validations: tuple[tuple[float, float], ...]

  @property
  def device_hours(self) -> float:
    """Training time on all devices."""
    return self.result.seconds * self.result.num_devices / _SECONDS

  @property
  def best(self) -> float:
    """Best validation metric."""
    return min((value for _, value in self.validations), default=math.nan)

  def hours_until(self, value: float) -> float | None:
    """Device-hours until validation was this good; None if it never was."""
    return next((hours for hours, metric in self.validations if metric <= value), None)


@dataclasses.dataclass(frozen=True)
class Comparison:
  """All runs of one task.

  Attributes:
    task: its name.
    dataset: dataset that results are averaged by.
    unit: unit of the errors.
    scratch: runs from scratch, e.g. of several folds or seeds.
    fine_tuned: runs from a checkpoint.
  """

  task: str
  dataset: str
  unit: str
  scratch: tuple[Run, ...]
  fine_tuned: tuple[Run, ...]

  @property
  def improvement(self) -> float | None:
    """Relative improvement of fine-tuned over scratch in percent, if there are both."""
    if not self.scratch or not self.fine_tuned:
      return None
    before, after = mean_error(self.scratch), mean_error(self.fine_tuned)
    return 100 * (before - after) / before

  @property
  def hours_to_best(self) -> tuple[float, float | None] | None:
    """Mean device-hours until the scratch run's best validation metric.

    Returns:
      Those of scratch and of fine-tuned runs, over pairs of the same fold; the second
      is None where a fine-tuned run never got there. None where there are no pairs.
    """
    pairs = [
      (a.hours_until(a.best), b.hours_until(a.best))
      for a in self.scratch
      for b in self.fine_tuned
      if a.result.fold == b.result.fold and a.validations
    ]
    if not pairs:
      return None
    scratch, fine_tuned = zip(*pairs, strict=True)
    reached = None not in fine_tuned
    return statistics.mean(scratch), statistics.mean(fine_tuned) if reached else None


def load_run(directory: pathlib.Path) -> Run:
  """Reads a run.

  Raises:
    UnfinishedRunError: it has not been finished, or was no fine-tuning.
  """
  path = directory / result_lib.FILE
  if not path.is_file():
    raise UnfinishedRunError(
      f"{directory} holds no finished fine-tuning run: there is no {path.name}. Run "
      "experiments.finetune with this --workdir to its end."
    )
  result = serialization.load(result_lib.Result, path)
  records = writers.read_metrics(directory / writers.METRICS_FILE)
  validations = tuple(
    (
      record["seconds"] * result.num_devices / _SECONDS,
      record[result.validation_metric],
    )
    for record in records
    if record["kind"] == "val"
  )
  return Run(result, validations)


def load_published() -> Published:
  """Reads the published results."""
  data = strict_json.read(PUBLISHED_FILE)
  return serialization.from_json(Published, data, PUBLISHED_FILE.name)


def compare(runs: Iterable[Run]) -> list[Comparison]:
  """Groups runs by task, in the order of their first appearance."""
  groups: dict[str, list[Run]] = {}
  for run in runs:
    groups.setdefault(run.result.task, []).append(run)
  return [
    Comparison(
      task,
      group[0].result.dataset,
      group[0].result.unit,
      tuple(run for run in group if not run.result.initial),
      tuple(run for run in group if run.result.initial),
    )
    for task, group in groups.items()
  ]


def mean_error(runs: Sequence[Run]) -> float:
  """Mean test error of runs."""
  return statistics.mean(run.result.error for run in runs)


def mean_hours(runs: Sequence[Run]) -> float:
  """Mean device-hours of runs."""
  return statistics.mean(run.device_hours for run in runs)


def mean_improvements(comparisons: Sequence[Comparison]) -> dict[str, float]:
  """Mean relative improvement in percent by dataset, and over all tasks as "all"."""
  groups: dict[str, list[float]] = {}
  for comparison in comparisons:
    if comparison.improvement is not None:
      groups.setdefault(comparison.dataset, []).append(comparison.improvement)
      groups.setdefault("all", []).append(comparison.improvement)
  overall = groups.pop("all", None)
  means = {name: statistics.mean(values) for name, values in groups.items()}
  return means | ({"all": statistics.mean(overall)} if overall else {})


def speed_up(comparisons: Sequence[Comparison]) -> tuple[float, float, int] | None:
  """Total device-hours to the scratch runs' best validation metric.

  Args:
    comparisons: comparisons of all tasks; those in which fine-tuning never got there
      are left out.

  Returns:
    Those of scratch runs, those of fine-tuned runs, and over how many tasks.
  """
  hours = [c.hours_to_best for c in comparisons]
  reached = [pair for pair in hours if pair is not None and pair[1] is not None]
  if not reached:
    return None
  scratch, fine_tuned = map(sum, zip(*reached, strict=True))
  return scratch, fine_tuned, len(reached)
