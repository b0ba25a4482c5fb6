"""The numbers of a report as CSV files."""

from collections.abc import Sequence
import csv
import io
import pathlib

from experiments.reports import comparison as comparison_lib
from experiments.reports import published as published_lib
from experiments.reports import runs as runs_lib
from jmp_hk import files

Comparison = comparison_lib.Comparison
Published = published_lib.Published

_GROUP_FIELDS = (
  "task",
  "dataset",
  "unit",
  "structures",
  "model",
  "start",
  "variant",
  "folds",
  "runs",
  "error",
  "std_over_seeds",
  "improvement_percent",
  "improvement_std",
  "compared_with",
  "device_hours",
  "hours_to_scratch_best",
  "steps_to_scratch_best",
)


def write_groups(
  comparisons: Sequence[Comparison], published: Published, path: pathlib.Path
) -> None:
  """Writes a row for each group and set of folds; empty where there is nothing."""
  head = (*_GROUP_FIELDS, *(f"published_{model}" for model in published.columns))
  rows = []
  for comparison in comparisons:
    pairs = {pair.after.label: pair for pair in comparison.pairs}
    for group in comparison.groups:
      for folds in comparison.scopes:
        if set(folds) <= {*group.folds}:
          pair = pairs.get(group.label)
          row = _group_row(comparison, group, folds, pair)
          until = comparison.to_best(group)
          row += until.of(group) if until else (None, None)
          errors = published.errors(comparison.task, folds, comparison.num_structures)
          row += map(errors.get, published.columns)
          rows.append(row)
  _write(path, head, rows)


def _group_row(
  comparison: Comparison,
  group: comparison_lib.Group,
  folds: Sequence[int],
  pair: comparison_lib.Pair | None,
) -> list[object]:
  error = group.error(folds)
  is_shared = pair is not None and set(folds) <= {*pair.folds}
  improvement = pair.improvement(folds) if pair and is_shared else None
  return [
    comparison.task,
    comparison.dataset,
    comparison.unit,
    comparison.num_structures,
    group.model,
    group.start,
    group.variant,
    " ".join(map(str, folds)),
    error.count,
    error.mean,
    error.spread,
    improvement.mean if improvement else None,
    improvement.spread if improvement else None,
    pair.before.label if pair and improvement else None,
    group.device_hours,
  ]


_RUN_FIELDS = (
  "directory",
  "task",
  "structures",
  "model",
  "parameters",
  "start",
  "variant",
  "fold",
  "seed",
  "pretraining_seed",
  "error",
  "unit",
  "validation",
  "best_step",
  "steps",
  "devices",
  "device_hours",
)


def write_runs(comparisons: Sequence[Comparison], path: pathlib.Path) -> None:
  """Writes a row for each run."""
  _write(
    path,
    _RUN_FIELDS,
    [
      _run_row(group, run)
      for comparison in comparisons
      for group in comparison.groups
      for run in group.runs
    ],
  )


def _run_row(group: comparison_lib.Group, run: runs_lib.Run) -> list[object]:
  result = run.result
  return [
    run.directory,
    result.task,
    result.num_structures,
    group.model,
    result.num_parameters or None,
    group.start,
    group.variant,
    result.fold,
    run.seed,
    run.origin.seed if run.origin else None,
    result.error,
    result.unit,
    result.validation,
    result.best_step,
    result.steps,
    result.num_devices,
    run.device_hours,
  ]


def _write(
  path: pathlib.Path, head: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
  text = io.StringIO(newline="")
  writer = csv.writer(text)
  writer.writerow(head)
  writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
  files.write_atomically(path, text.getvalue())
