"""The tables of a report: errors by dataset, means over tasks, training time."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib

from experiments.reports import comparison as comparison_lib
from experiments.reports import published as published_lib
from experiments.reports import summaries
from experiments.reports import table as table_lib

Comparison = comparison_lib.Comparison
Published = published_lib.Published


def tables(
  comparisons: Sequence[Comparison], published: Published, reference: str = ""
) -> list[table_lib.Table]:
  """All tables of a report that have something to tell.

  Args:
    comparisons: the groups of every task.
    published: published errors.
    reference: part of the label of the group that ablations are compared with; "" takes
      the first fine-tuned one of each model.
  """
  datasets = dict.fromkeys(comparison.dataset for comparison in comparisons)
  result = [
    *(_errors(dataset, comparisons, published) for dataset in datasets),
    _improvements(comparisons, published),
    _sizes(comparisons, published),
    _ablations(comparisons, published, reference),
    _hours(comparisons, published),
  ]
  return [table for table in result if table is not None]


def markdown(
  made: Sequence[table_lib.Table],
  pictures: Sequence[pathlib.Path],
  notes: Sequence[str],
) -> str:
  """A report as one text in Markdown.

  Args:
    made: its tables.
    pictures: its pictures, which lie beside it.
    notes: sentences that end it.
  """
  parts = [
    "# Fine-tuning results\n",
    *(table.markdown() for table in made),
    *(f"![{path.stem.replace('_', ' ')}]({path.name})\n" for path in pictures),
    *(f"{note}\n" for note in notes),
  ]
  return "\n".join(parts)


def plain(made: Sequence[table_lib.Table], notes: Sequence[str]) -> str:
  """A report for a terminal; arguments as of `markdown`."""
  return "\n".join([*(table.plain() for table in made), *map(table_lib.fill, notes)])


def sources(comparisons: Sequence[Comparison], published: Published) -> list[str]:
  """Where the published numbers of a report are from."""
  tasks = {comparison.task for comparison in comparisons}
  result = []
  if tasks & {*published.tasks}:
    result.append(f"Published errors: {published.source}")
  for name, baseline in published.baselines.items():
    if tasks & {*baseline.mae}:
      result.append(f"{name}: {baseline.source}")
  return result


def _errors(
  dataset: str, comparisons: Sequence[Comparison], published: Published
) -> table_lib.Table:
  """Test errors of one dataset beside the published ones."""
  chosen = [c for c in comparisons if c.dataset == dataset]
  arms = summaries.arms(chosen)
  lines = [(c, folds) for c in chosen for folds in c.scopes]
  beside = [published.errors(c.task, folds, c.num_structures) for c, folds in lines]
  known = [model for model in published.columns if any(model in e for e in beside)]
  rows = []
  for (comparison, folds), errors in zip(lines, beside, strict=True):
    groups = {group.label: group for group in comparison.groups}
    improved = {p.after.label: p for p in comparison.pairs if set(folds) <= {*p.folds}}
    cells = [_cell(groups.get(arm), improved.get(arm), folds) for arm in arms]
    name = comparison.task
    if words := table_lib.scope(comparison, folds, published):
      name += f", {words}"
    rows.append(
      [
        name,
        f"{comparison.num_structures:,}",
        comparison.unit,
        *cells,
        *(f"{errors[model]:g}" if model in errors else "" for model in known),
      ]
    )
  titles = [f"{model} {published_lib.MARK}" for model in known]
  return table_lib.Table(
    f"Test errors: {dataset}",
    "Mean absolute errors, of classes the cross-entropy; ± is the standard deviation "
    "over seeds, and percentages are improvements over the same model from scratch.",
    ["task", "structures", "unit", *arms, *titles],
    rows,
    _error_notes(chosen),
  )


def _cell(
  group: comparison_lib.Group | None,
  pair: comparison_lib.Pair | None,
  folds: Sequence[int],
) -> str:
  """Error of a group over folds, with its improvement; "" where it lacks one."""
  if group is None or not set(folds) <= {*group.folds}:
    return ""
  error = group.error(folds)
  text = table_lib.estimate(error)
  if error.count > len(folds):
    text += f", {error.count} runs"
  improvement = pair.improvement(folds) if pair else None
  return f"{text} ({table_lib.percent(improvement)})" if improvement else text


def _error_notes(comparisons: Sequence[Comparison]) -> list[str]:
  notes = []
  for comparison in comparisons:
    for group in comparison.groups:
      if repeated := group.repeated():
        notes.append(
          f"{comparison.task}, {group.label}: fold and seed are the same in "
          f"{', '.join(repeated)}, which count as one run of that seed."
        )
    for pair in comparison.pairs:
      if differences := pair.differences:
        notes.append(
          f"{comparison.task}: {pair.after.label} differs from {pair.before.label} in "
          f"{', '.join(differences)}, too."
        )
      if not pair.folds:
        notes.append(
          f"{comparison.task}: {pair.after.label} has other folds, "
          f"{list(pair.after.folds)}, than {pair.before.label}, "
          f"{list(pair.before.folds)}: they are not compared."
        )
  return notes


def _by_dataset(
  found: Mapping[str, summaries.Means],
) -> tuple[list[str], list[list[str]]]:
  """Head and rows of means by label and dataset."""
  names = list(dict.fromkeys(name for means in found.values() for name in means))
  names.sort(key=lambda name: name == summaries.ALL)  # At the end.
  rows = [
    [arm, *(_mean_cell(means.get(name)) for name in names)]
    for arm, means in found.items()
  ]
  return names, rows


def _mean_cell(value: comparison_lib.Estimate | None) -> str:
  if value is None:
    return ""
  return f"{table_lib.percent(value)} ({value.count} task{'s' * (value.count != 1)})"


def _improvements(
  comparisons: Sequence[Comparison], published: Published
) -> table_lib.Table | None:
  """Relative improvement by dataset and over all tasks: figure 2 of the paper."""
  found = summaries.improvements(comparisons, published)
  if not found:
    return None
  names, rows = _by_dataset(found)
  stated = ", ".join(
    f"{name} {value:+g} %"
    for name, value in published.overall_relative_improvement_percent.items()
  )
  return table_lib.Table(
    "Relative improvement over training from scratch",
    "Mean over tasks, over the folds that both have; published means are of the same "
    f"tasks (MatBench: fold 0). Published over 40 tasks: {stated}.",
    ["", *names],
    rows,
  )


def _sizes(
  comparisons: Sequence[Comparison], published: Published
) -> table_lib.Table | None:
  """From scratch against fine-tuned by size: figure 3 of the paper."""
  found = summaries.sizes(comparisons, published)
  if not found:
    return None
  names, rows = _by_dataset(found)
  return table_lib.Table(
    "Larger over smaller models",
    "Mean relative improvement over the tasks that were run with both.",
    ["", *names],
    rows,
  )


def _ablations(
  comparisons: Sequence[Comparison], published: Published, reference: str
) -> table_lib.Table | None:
  """Different pre-trainings and settings of one model against each other."""
  found = summaries.ablations(comparisons, reference)
  if not found:
    return None
  names, rows = _by_dataset(found)
  stated = ", ".join(f"{n} {v:+g} %" for n, v in published.ablation_percent.items())
  return table_lib.Table(
    "Ablations",
    "Mean relative improvement of fine-tuned models over the one that is named, over "
    "the tasks that both were fine-tuned on. Published, over naive multi-task "
    f"pre-training: {stated}.",
    ["", *names],
    rows,
  )


def _hours(comparisons: Sequence[Comparison], published: Published) -> table_lib.Table:
  """Device-hours, and until scratch was at its best: figure 4 of the paper."""
  head = [
    "task",
    "group",
    "runs",
    "device-hours of a run",
    "hours to the best of scratch",
    "steps to it",
  ]
  rows = []
  for comparison in comparisons:
    for group in comparison.groups:
      until = comparison.to_best(group)
      hours = steps = ""
      if until is not None:
        found = until.of(group)
        hours = _reached(until) if found[0] is None else f"{found[0]:.3g}"
        steps = "" if found[1] is None else f"{found[1]:,.0f}"
      rows.append(
        [
          comparison.task,
          group.label,
          str(len(group.runs)),
          f"{group.device_hours:.3g}",
          hours,
          steps,
        ]
      )
  return table_lib.Table(
    "Training time",
    "Device-hours without compilation and evaluations, means over runs; and until the "
    "validation metric was as good as training from scratch ever made it.",
    head,
    rows,
    _speed_ups(comparisons, published),
  )


def _reached(until: comparison_lib.ToBest) -> str:
  """How many runs got to the best of training from scratch, where not all did."""
  if not until.num_reached:
    return "not reached"
  return f"reached by {until.num_reached} of {until.num_pairs}"


def _speed_ups(comparisons: Sequence[Comparison], published: Published) -> list[str]:
  """Total device-hours until training from scratch was best, by fine-tuned label."""
  notes = []
  for arm, pairs in summaries.pairs_by_arm(comparisons).items():
    found = [pair.to_best for _, pair in pairs]
    reached = [t for t in found if t is not None and t.tuned_hours is not None]
    if not reached:
      continue
    scratch = sum(t.scratch_hours for t in reached)
    tuned = sum(t.tuned_hours or 0.0 for t in reached)
    ratio = f"{scratch / tuned:.1f}×" if tuned else "at once"
    notes.append(
      f"{arm}: on {len(reached)} of {len(pairs)} task{'s' * (len(pairs) != 1)} it "
      "reached the validation metric that training from scratch ended up with, in "
      f"{tuned:.3g} device-hours against {scratch:.3g}: {ratio} (published: "
      f"{published.device_hours['ratio']:g}×)."
    )
  return notes
