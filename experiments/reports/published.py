"""The published results, and those of other models beside them."""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import pathlib

from jmp_hk import serialization
from jmp_hk import strict_json

FILE = pathlib.Path(__file__).parent / "published_results.json"
NUM_FOLDS = 5  # Of MatBench.
_ALMOST_ALL = 0.9  # Of the published number of training structures.
MARK = "(published)"  # Behind the names of models whose errors are.


@dataclasses.dataclass(frozen=True)
class PublishedTask:
  """Published test errors of one task.

  Attributes:
    unit: unit of the errors.
    mae: mean absolute error by model; that of MatBench is for fold 0.
    num_structures: number of training structures, of MatBench in fold 0; 0 where it
      is not known.
    mae_mean_of_5_folds: the same averaged over MatBench's folds, where published.
  """

  unit: str
  mae: Mapping[str, float]
  num_structures: int = 0
  mae_mean_of_5_folds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Baseline:
  """Published test errors of another model.

  Attributes:
    source: where they are from.
    mae: mean absolute error by task, in the units of `Published.tasks`; that of
      MatBench is for fold 0.
    mae_mean_of_5_folds: the same averaged over MatBench's folds.
  """

  source: str
  mae: Mapping[str, float]
  mae_mean_of_5_folds: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Published:
  """The published results.

  Attributes:
    source: where they are from.
    models: their columns.
    overall_relative_improvement_percent: means over the tasks, as stated.
    ablation_percent: mean improvements of pre-trainings over naive multi-task
      pre-training after fine-tuning, as stated.
    device_hours: training times as stated.
    tasks: errors by task.
    baselines: errors of other models by their names.
  """

  source: str
  models: tuple[str, ...]
  overall_relative_improvement_percent: Mapping[str, float]
  ablation_percent: Mapping[str, float]
  device_hours: Mapping[str, float]
  tasks: Mapping[str, PublishedTask]
  baselines: Mapping[str, Baseline]

  @property
  def columns(self) -> tuple[str, ...]:
    """All models whose errors are known."""
    return (*self.models, *self.baselines)

  def has_folds(self, task: str) -> bool:
    """Whether a task is published for one fold and for the mean of all."""
    return task in self.tasks and bool(self.tasks[task].mae_mean_of_5_folds)

  def errors(
    self, task: str, folds: Collection[int], num_structures: int
  ) -> dict[str, float]:
    """Published test errors that an own one can stand beside, by model.

    Args:
      task: name of a task.
      folds: folds that they shall be the mean over.
      num_structures: number of training structures of the own one; there are no errors
        beside those of far fewer than the published models had.
    """
    known = self.tasks[task].num_structures if task in self.tasks else 0
    if num_structures < _ALMOST_ALL * known:
      return {}
    found = {model: self.error(model, task, folds) for model in self.columns}
    return {model: error for model, error in found.items() if error is not None}

  def error(self, model: str, task: str, folds: Collection[int]) -> float | None:
    """Published test error, if there is one.

    Args:
      model: one of `columns`.
      task: name of a task.
      folds: folds that it shall be the mean over.
    """
    if model in self.baselines:
      baseline = self.baselines[model]
      single, mean = baseline.mae.get(task), baseline.mae_mean_of_5_folds.get(task)
    elif task in self.tasks:
      errors = self.tasks[task]
      single, mean = errors.mae.get(model), errors.mae_mean_of_5_folds.get(model)
    else:
      return None
    if set(folds) == {0}:
      return single
    return mean if set(folds) == set(range(NUM_FOLDS)) else None


def load() -> Published:
  """Reads the published results."""
  data = strict_json.read(FILE)
  return serialization.from_json(Published, data, FILE.name)
