"""Metrics of training and validation as people read them: with titles and units."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from jmp_hk import dataset_info
from jmp_hk import text_table
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import metrics as metrics_lib

_MOST_IN_LINE = 4  # Targets that a line of the training log tells.
_MOST_COLUMNS = 7  # Metrics side by side; more are written one below the other.
_BEST = "*"
BASELINE = "baseline"


@dataclasses.dataclass(frozen=True)
class Description:
  """What one metric is.

  Attributes:
    dataset: its dataset.
    target: what it is the error of; "" where it stands for all targets.
    title: what it is called, e.g. "energy MAE".
    unit: its unit; "" for a pure number.
    higher_is_better: whether it is no error.
  """

  dataset: str
  target: str
  title: str
  unit: str
  higher_is_better: bool = False


def describe(
  tasks: Sequence[tasks_lib.TaskConfig],
  infos: Mapping[str, dataset_info.DatasetInfo],
) -> dict[str, Description]:
  """Describes the metrics that are shown, by the names that `metrics.summarise` gives.

  Args:
    tasks: datasets with their targets.
    infos: constants of the datasets by name, for units.
  """
  found = {}
  for task in tasks:
    for target in task.learned:
      for shown in target.spec.shown_metrics(target.spec.unit(infos[task.name].units)):
        if shown.name:
          found[f"{task.name}/{shown.name}"] = Description(
            task.name,
            target.name,
            f"{target.name} {shown.title}",
            shown.unit,
            shown.higher_is_better,
          )
    if len(task.learned) > 1:
      score = Description(task.name, "", metrics_lib.SCORE, "")
      found[f"{task.name}/{metrics_lib.SCORE}"] = score
  return found


def training_errors(
  described: Mapping[str, Description], values: Mapping[str, float]
) -> list[str]:
  """Errors of the targets for a line, e.g. "forces 71.1 meV/Å".

  Args:
    described: see `describe`.
    values: metrics of training steps, where each target has one. Several datasets with
      the same target are averaged.
  """
  found: dict[tuple[str, str], list[float]] = {}
  for name, metric in described.items():
    if name in values and metric.target:
      found.setdefault((metric.target, metric.unit), []).append(values[name])
  parts = [
    f"{target} {text_table.quantity(sum(errors) / len(errors), unit)}"
    for (target, unit), errors in found.items()
  ]
  more = len(parts) - _MOST_IN_LINE
  return [*parts[:_MOST_IN_LINE], f"{more} more targets"] if more > 0 else parts


class ValidationLog:
  """Turns validations into tables, and remembers the best value of each metric.

  Attributes:
    described: what the metrics are, see `describe`.
  """

  def __init__(
    self,
    described: Mapping[str, Description],
    primary: str,
    records: Sequence[Mapping[str, Any]] = (),
  ) -> None:
    """Takes what was validated before.

    Args:
      described: see `describe`.
      primary: name of the metric, lower is better, that picks the best weights.
      records: lines of the run's metrics file.
    """
    self.described = dict(described)
    self._primary = primary
    self._best: dict[str, tuple[float, int]] = {}  # Value and step by name.
    for record in records:
      if record["kind"] == "val":
        self._remember(record["step"], record)

  def tell(
    self,
    step: int,
    metrics: Mapping[str, float],
    more: Mapping[str, Mapping[str, float]] | None = None,
  ) -> str:
    """A validation as a table, in which values better than all before have a star.

    Args:
      step: optimiser steps taken.
      metrics: what was measured.
      more: further metrics of the same names by what they are of, e.g. those of the raw
        weights; they have rows of their own.
    """
    earlier = dict(self._best)
    self._remember(step, metrics)
    best = {n for n, (_, at) in self._best.items() if at == step and n in earlier}
    title = f"Validation after step {step}"
    if self._primary in self._best:
      at = self._best[self._primary][1]
      title += ", the best so far" if at == step else f" (the best is step {at})"
    note = f" ({_BEST} better than ever before)" if best else ""
    return f"{title}{note}:\n{table(self.described, metrics, more, best)}"

  def _remember(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Takes metrics into account; those that are not finite are stored as strings."""
    for name in (*self.described, self._primary):
      value, known = metrics.get(name), self._best.get(name)
      if not isinstance(value, (int, float)):
        continue
      metric = self.described.get(name)
      sign = -1 if metric is not None and metric.higher_is_better else 1
      if known is None or sign * value < sign * known[0]:
        self._best[name] = value, step


def table(
  described: Mapping[str, Description],
  metrics: Mapping[str, Any],
  more: Mapping[str, Mapping[str, Any]] | None = None,
  starred: set[str] | frozenset[str] = frozenset(),
) -> str:
  """Metrics with a row a dataset, and a column with its unit for each metric.

  Args:
    described: see `describe`; metrics that it lacks are left out.
    metrics: values by name.
    more: further values by what they are of, in rows below each dataset's.
    starred: names of values that get a star.
  """
  names = [name for name in described if name in metrics]
  datasets = list(dict.fromkeys(described[name].dataset for name in names))
  columns = list(dict.fromkeys((described[n].title, described[n].unit) for n in names))
  by_place = {(described[n].dataset, described[n].title): n for n in names}
  rows = [["", *(title for title, _ in columns)]]
  rows.append(["", *(f"({unit})" if unit else "" for _, unit in columns)])
  for dataset in datasets:
    for label, values in {"": metrics, **(more or {})}.items():
      cells = []
      for title, _ in columns:
        name = by_place.get((dataset, title), "")
        value = values.get(name, "")  # Metrics files have strings for NaN.
        text = value if isinstance(value, str) else text_table.number(value)
        star = _BEST if not label and name in starred else " " if starred else ""
        cells.append(text + star if text else "")
      rows.append([f"  {label}" if label else dataset, *cells])
  if len(columns) <= _MOST_COLUMNS:
    return text_table.align(rows)
  return text_table.align(
    [
      [f"{title} {unit}".strip(), *(cell.strip() for cell in cells)]
      for title, unit, *cells in zip(*rows, strict=True)
    ]
  )
