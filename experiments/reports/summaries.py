"""Means over tasks: improvement by dataset, by size of the model, and ablations.

Figures 2 and 3 and the ablation table of the paper show these numbers.
"""

from collections.abc import Sequence

from experiments.reports import comparison as comparison_lib
from experiments.reports import published as published_lib

Comparison = comparison_lib.Comparison
Published = published_lib.Published
Means = dict[str, comparison_lib.Estimate]  # By dataset, and of all tasks.


def improvements(
  comparisons: Sequence[Comparison], published: Published
) -> dict[str, Means]:
  """Mean improvements over scratch by label and dataset, ours and published ones."""
  found = {
    arm: comparison_lib.mean_improvements(pairs)
    for arm, pairs in comparison_lib.pairs_by_arm(comparisons).items()
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
  values: dict[str, list[comparison_lib.Estimate]] = {}
  for task, dataset in dict.fromkeys((c.task, c.dataset) for c in comparisons):
    old, new = (published.error(model, task, (0,)) for model in (before, after))
    if old and new is not None:
      improvement = comparison_lib.Estimate(100 * (1 - new / old))
      for name in (dataset, comparison_lib.ALL):
        values.setdefault(name, []).append(improvement)
  overall = values.pop(comparison_lib.ALL, None)
  if overall:
    values[comparison_lib.ALL] = overall
  return {name: comparison_lib.mean(entries) for name, entries in values.items()}


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
      means = comparison_lib.mean_improvements(
        comparison_lib.versus(comparisons, *labels)
      )
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
  for labels in tuned.values():
    if len(labels) < 2:
      continue
    first = next((label for label in labels if reference in label), labels[0])
    for label in labels:
      if label != first:
        pairs = comparison_lib.versus(comparisons, first, label)
        if means := comparison_lib.mean_improvements(pairs):
          found[f"{label}, over {first}"] = means
  return found
