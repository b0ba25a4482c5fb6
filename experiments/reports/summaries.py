"""Means over tasks: improvement, size of the model, ablations, training time.

Figures 2 to 4 and the ablation table of the paper show these numbers.
"""

from collections.abc import Sequence
import math
import statistics

from experiments.reports import comparison as comparison_lib
from experiments.reports import published as published_lib

Comparison = comparison_lib.Comparison
Estimate = comparison_lib.Estimate
Pair = comparison_lib.Pair
Published = published_lib.Published
ALL = "all"  # Of means over the tasks of all datasets.

Means = dict[str, Estimate]  # By dataset, and of all tasks.


def improvements(
  comparisons: Sequence[Comparison], published: Published
) -> dict[str, Means]:
  """Mean improvements over scratch by label and dataset, ours and published ones."""
  found = {
    arm: mean_improvements(pairs) for arm, pairs in pairs_by_arm(comparisons).items()
  }
  found = {arm: means for arm, means in found.items() if means}
  if not found:
    return {}
  for before, after in (("GN-OC-S", "JMP-S"), ("GN-OC-L", "JMP-L")):
    found[f"{after} over {before} {published_lib.MARK}"] = _published_means(
      comparisons, published, before, after
    )
  return {arm: means for arm, means in found.items() if means}


def _published_means(
  comparisons: Sequence[Comparison], published: Published, before: str, after: str
) -> Means:
  """Published improvements over the tasks that have been run, by dataset."""
  found = []
  for task, dataset in dict.fromkeys((c.task, c.dataset) for c in comparisons):
    old, new = (published.error(model, task, (0,)) for model in (before, after))
    if old and new is not None:
      found.append((dataset, Estimate(100 * (1 - new / old))))
  return _means(found)


def _means(found: Sequence[tuple[str, Estimate]]) -> Means:
  """Means of numbers of tasks by dataset, and of all of them at the end."""
  values: dict[str, list[Estimate]] = {}
  for dataset, value in found:
    values.setdefault(dataset, []).append(value)
  if found:
    values[ALL] = [value for _, value in found]
  return {name: mean(entries) for name, entries in values.items()}


def sizes(comparisons: Sequence[Comparison], published: Published) -> dict[str, Means]:
  """Mean improvements of larger over smaller models by their labels and dataset."""
  groups = [group for comparison in comparisons for group in comparison.groups]
  known: dict[str, int] = {}
  for group in groups:
    known[group.model] = max(known.get(group.model, 0), group.num_parameters)
  models = sorted((m for m in known if known[m]), key=lambda m: known[m])
  found = {}
  starts = dict.fromkeys((g.start, g.variant) for g in groups)
  for smaller, larger in zip(models, models[1:], strict=False):
    for start, variant in starts:
      labels = [" ".join(filter(None, (m, start, variant))) for m in (smaller, larger)]
      means = mean_improvements(versus(comparisons, *labels))
      if means:
        suffix = f" {variant}" if variant else ""
        found[f"{larger} over {smaller}, {start}{suffix}"] = means
  if not found:
    return {}
  for small, large in (("GN-OC-S", "GN-OC-L"), ("JMP-S", "JMP-L")):
    means = _published_means(comparisons, published, small, large)
    if means:
      found[f"{large} over {small} {published_lib.MARK}"] = means
  return found


def ablations(
  comparisons: Sequence[Comparison], reference: str = ""
) -> dict[str, Means]:
  """Mean improvements over the reference of each model by label and dataset.

  Args:
    comparisons: the groups of every task.
    reference: part of the label of the group that others are compared with; "" takes
      the first fine-tuned one of each model.
  """
  tuned: dict[str, list[str]] = {}
  for comparison in comparisons:
    for group in comparison.groups:
      labels = tuned.setdefault(group.model, [])
      if not group.is_from_scratch and group.label not in labels:
        labels.append(group.label)
  found: dict[str, Means] = {}
  for model, labels in tuned.items():
    if len(labels) < 2:
      continue
    short_names = {label: _short(label, model) for label in labels}
    # A whole name comes before those that it is a part of.
    exact = [label for label, short in short_names.items() if reference == short]
    partial = [label for label in labels if reference in label]
    first = (exact or partial or labels)[0]
    for label in labels:
      if label != first:
        pairs = versus(comparisons, first, label)
        if means := mean_improvements(pairs):
          found[f"{label}, over {short_names[first]}"] = means
  return found


def _short(label: str, model: str) -> str:
  """What a group started from, without its model."""
  return label.removeprefix(f"{model} ").removeprefix("from ")


def hours_to_best(
  comparisons: Sequence[Comparison],
) -> dict[str, dict[str, list[float]]]:
  """Device-hours until training from scratch was best, by label and dataset.

  Of every model only the tasks count on which all that was fine-tuned got there, so
  that the means of its groups are over the same tasks.
  """
  hours: dict[str, dict[str, list[float]]] = {}
  for comparison in comparisons:
    pairs: dict[str, list[Pair]] = {}
    for pair in comparison.pairs:
      pairs.setdefault(pair.before.label, []).append(pair)
    for before, members in pairs.items():
      found = [pair.to_best for pair in members]
      reached = [t for t in found if t is not None and t.tuned_hours is not None]
      if len(reached) < len(found):
        continue
      scratch = statistics.mean(t.scratch_hours for t in reached)
      entries = [(before, scratch)]
      for pair, until in zip(members, reached, strict=True):
        entries.append((pair.after.label, until.tuned_hours or 0.0))
      for label, value in entries:
        of_label = hours.setdefault(label, {})
        of_label.setdefault(comparison.dataset, []).append(value)
  return hours


def mean_improvements(
  pairs: Sequence[tuple[str, Pair]],
) -> dict[str, Estimate]:
  """Mean relative improvement in percent over tasks.

  Args:
    pairs: dataset and pair of every task.

  Returns:
    By dataset, and over the tasks of all datasets as "all".
  """
  found = [(dataset, pair.improvement()) for dataset, pair in pairs]
  return _means([(dataset, value) for dataset, value in found if value is not None])


def mean(values: Sequence[Estimate]) -> Estimate:
  """Mean over tasks; its spread is that of the mean where every task has one."""
  spreads = [value.spread for value in values if value.spread is not None]
  spread = math.hypot(*spreads) / len(values) if len(spreads) == len(values) else None
  return Estimate(statistics.mean(v.mean for v in values), spread, len(values))


def arms(comparisons: Sequence[Comparison]) -> list[str]:
  """Labels of all groups, each once; those from scratch come first."""
  groups = [g for comparison in comparisons for g in comparison.groups]
  groups.sort(key=lambda group: not group.is_from_scratch)
  return list(dict.fromkeys(group.label for group in groups))


def pairs_by_arm(
  comparisons: Sequence[Comparison],
) -> dict[str, list[tuple[str, Pair]]]:
  """Dataset and pair of every task, by label of the fine-tuned group."""
  result: dict[str, list[tuple[str, Pair]]] = {}
  for comparison in comparisons:
    for pair in comparison.pairs:
      result.setdefault(pair.after.label, []).append((comparison.dataset, pair))
  return result


def versus(
  comparisons: Sequence[Comparison], before: str, after: str
) -> list[tuple[str, Pair]]:
  """Dataset and pair of every task that has groups of both labels."""
  result = []
  for comparison in comparisons:
    groups = {group.label: group for group in comparison.groups}
    if before in groups and after in groups:
      result.append((comparison.dataset, Pair(groups[before], groups[after])))
  return result
