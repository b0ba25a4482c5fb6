"""The report over runs as a bar chart."""

from collections.abc import Sequence
import pathlib

from experiments.reports import comparison as comparison_lib

_COLOURS = {"from scratch": "#9aa5b1", "fine-tuned": "#1f6feb"}
_PUBLISHED_COLOURS = ("#d9c8a9", "#c4a05c", "#b5d3b0", "#5b9e54")


def draw(
  comparisons: Sequence[comparison_lib.Comparison],
  published: comparison_lib.Published,
  path: pathlib.Path,
) -> None:
  """Draws a panel per task with the test errors of runs and of the paper.

  Args:
    comparisons: one per task.
    published: the published errors.
    path: PNG file to write.
  """
  from matplotlib import figure as figure_lib  # Slow to import.

  columns = min(4, len(comparisons))
  rows = -(-len(comparisons) // columns)
  figure = figure_lib.Figure(figsize=(4.2 * columns, 3.2 * rows))
  axes = figure.subplots(rows, columns, squeeze=False)
  for axis, comparison in zip(axes.flat, comparisons, strict=False):
    bars = bars_of(comparison, published)
    labels, heights, colours = zip(*bars, strict=True)
    drawn = axis.bar(range(len(bars)), heights, color=colours)
    axis.bar_label(drawn, fmt="%.3g", fontsize=8)
    axis.set_xticks(range(len(bars)), labels, rotation=25, ha="right", fontsize=8)
    axis.set_ylabel(f"test error ({comparison.unit})", fontsize=8)
    axis.set_title(comparison.task, fontsize=10)
    axis.margins(y=0.15)
  for axis in axes.flat[len(comparisons) :]:
    axis.set_visible(False)
  figure.tight_layout()
  figure.savefig(path, dpi=120)


def bars_of(
  comparison: comparison_lib.Comparison, published: comparison_lib.Published
) -> list[tuple[str, float, str]]:
  """Label, height and colour of each bar of a task."""
  kinds = {"from scratch": comparison.scratch, "fine-tuned": comparison.fine_tuned}
  bars = [
    (kind, comparison_lib.mean_error(runs), _COLOURS[kind])
    for kind, runs in kinds.items()
    if runs
  ]
  task = published.tasks.get(comparison.task)
  if task:
    bars += [
      (f"{model}\n(paper)", task.mae[model], colour)
      for model, colour in zip(published.models, _PUBLISHED_COLOURS, strict=True)
    ]
  return bars
