"""The report over runs as Markdown and CSV."""

from collections.abc import Sequence
import csv
import pathlib
import statistics

from experiments.reports import comparison as comparison_lib

Comparison = comparison_lib.Comparison
Published = comparison_lib.Published

_FIELDS = (
  "task",
  "dataset",
  "unit",
  "scratch",
  "scratch_runs",
  "fine_tuned",
  "fine_tuned_runs",
  "improvement_percent",
  "scratch_hours",
  "fine_tuned_hours",
  "scratch_hours_to_best",
  "fine_tuned_hours_to_scratch_best",
)


def markdown(comparisons: Sequence[Comparison], published: Published) -> str:
  """The whole report.

  Args:
    comparisons: one per task.
    published: the published errors.
  """
  parts = [
    "# Fine-tuning results\n",
    _errors(comparisons, published),
    _averages(comparisons, published),
    _hours(comparisons, published),
    f"Published errors: {published.source}\n",
  ]
  return "\n".join(part for part in parts if part)


def write_csv(
  comparisons: Sequence[Comparison], published: Published, path: pathlib.Path
) -> None:
  """Writes one row a task; empty where there is nothing to tell."""
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow((*_FIELDS, *(f"published_{model}" for model in published.models)))
    for comparison in comparisons:
      task = published.tasks.get(comparison.task)
      errors = [task.mae.get(model, "") if task else "" for model in published.models]
      writer.writerow((*_row(comparison), *errors))


def _row(comparison: Comparison) -> list[object]:
  """Values of `_FIELDS`."""
  row: list[object] = [comparison.task, comparison.dataset, comparison.unit]
  for runs in (comparison.scratch, comparison.fine_tuned):
    row += [comparison_lib.mean_error(runs) if runs else "", len(runs)]
  row.append("" if comparison.improvement is None else comparison.improvement)
  for runs in (comparison.scratch, comparison.fine_tuned):
    row.append(comparison_lib.mean_hours(runs) if runs else "")
  hours = comparison.hours_to_best or (None, None)
  return row + ["" if value is None else value for value in hours]


def _errors(comparisons: Sequence[Comparison], published: Published) -> str:
  """Test errors beside the published ones."""
  head = [
    "task",
    "unit",
    "from scratch",
    "fine-tuned",
    "improvement",
    *(f"{model} (published)" for model in published.models),
  ]
  rows = []
  for comparison in comparisons:
    task = published.tasks.get(comparison.task)
    improvement = comparison.improvement
    rows.append(
      [
        comparison.task,
        comparison.unit,
        _error(comparison.scratch),
        _error(comparison.fine_tuned),
        "" if improvement is None else f"{improvement:+.1f} %",
        *(f"{task.mae[model]:g}" if task else "" for model in published.models),
      ]
    )
  text = "Test errors: mean absolute errors, of classes the cross-entropy.\n\n"
  return text + _table(head, rows)


def _averages(comparisons: Sequence[Comparison], published: Published) -> str:
  """Relative improvement by dataset and over all tasks."""
  means = comparison_lib.mean_improvements(comparisons)
  if not means:
    return ""
  rows = [[name, f"{value:+.1f} %"] for name, value in means.items()]
  stated = ", ".join(
    f"{name} {value:+g} %"
    for name, value in published.overall_relative_improvement_percent.items()
  )
  return (
    "Relative improvement of fine-tuned over scratch, mean over tasks (published over "
    f"40 tasks: {stated}).\n\n" + _table(["dataset", "improvement"], rows)
  )


def _hours(comparisons: Sequence[Comparison], published: Published) -> str:
  """Device-hours of runs, and until the scratch run's best validation metric."""
  head = [
    "task",
    "from scratch (device-hours)",
    "fine-tuned (device-hours)",
    "scratch until its best",
    "fine-tuned until that",
  ]
  rows = []
  for comparison in comparisons:
    row = [comparison.task]
    for runs in (comparison.scratch, comparison.fine_tuned):
      row.append(f"{comparison_lib.mean_hours(runs):.3g}" if runs else "")
    hours = comparison.hours_to_best
    row.append(f"{hours[0]:.3g}" if hours else "")
    if hours is None:
      row.append("")
    else:
      row.append("not reached" if hours[1] is None else f"{hours[1]:.3g}")
    rows.append(row)
  text = "Training time without compilation and evaluations.\n\n" + _table(head, rows)
  total = comparison_lib.speed_up(comparisons)
  if total is None:
    return text
  scratch, fine_tuned, tasks = total
  ratio = f"{scratch / fine_tuned:.1f}×" if fine_tuned else "at once"
  return text + (
    f"\nUntil the validation metric that training from scratch ended up with, over "
    f"{tasks} task{'s' * (tasks != 1)}: {scratch:.3g} device-hours from scratch, "
    f"{fine_tuned:.3g} fine-tuned: {ratio} (published: "
    f"{published.device_hours['ratio']:g}×).\n"
  )


def _error(runs: Sequence[comparison_lib.Run]) -> str:
  """Mean error of runs with its spread."""
  if not runs:
    return ""
  errors = [run.result.error for run in runs]
  if len(errors) == 1:
    return f"{errors[0]:.4g}"
  spread = statistics.stdev(errors)
  return f"{statistics.mean(errors):.4g} ± {spread:.2g} ({len(errors)} runs)"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
