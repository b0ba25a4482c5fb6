"""The report over runs as a bar chart."""

from collections.abc import Sequence
import pathlib

from experiments.reports import comparison as comparison_lib
from jmp_hk import figures
from jmp_hk import text_table

_COLOURS = {"from scratch": figures.GREY, "fine-tuned": figures.COLOURS[0]}
_PUBLISHED_COLOURS = ("#E8C9B5", "#D89B6F", "#B9D9CC", "#6FB39A")
_MOST_LEVEL = 3  # Bars whose labels have room side by side.


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
  with figures.style():
    figure, axes = figures.panels(len(comparisons), columns=4, size=(2.9, 2.7))
    for axis, comparison in zip(axes, comparisons, strict=True):
      bars = bars_of(comparison, published)
      labels, heights, colours = zip(*bars, strict=True)
      drawn = axis.bar(range(len(bars)), heights, width=0.7, color=colours)
      texts = [text_table.number(height) for height in heights]
      axis.bar_label(drawn, texts, fontsize=8, padding=1)
      turned = {"rotation": 30, "ha": "right"} if len(bars) > _MOST_LEVEL else {}
      axis.set_xticks(range(len(bars)), labels, **turned)
      axis.tick_params(axis="x", length=0)
      axis.grid(visible=False, axis="x")
      centre, width = (len(bars) - 1) / 2, max(len(bars), _MOST_LEVEL)
      axis.set_xlim(centre - width / 2, centre + width / 2)
      figures.plain_ticks(axis.yaxis)
      axis.set_ylabel(f"test error ({comparison.unit})")
      axis.set_title(comparison.task)
      axis.margins(y=0.15)
    figures.save(figure, path)


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
      (f"{model} (paper)", task.mae[model], colour)
      for model, colour in zip(published.models, _PUBLISHED_COLOURS, strict=True)
    ]
  return bars
