"""The pictures of a report: errors by task, means by dataset, training time."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import math
import pathlib
import statistics
from typing import TYPE_CHECKING

from experiments.reports import comparison as comparison_lib
from experiments.reports import published as published_lib
from experiments.reports import summaries
from experiments.reports import table
from jmp_hk import figures
from jmp_hk import text_table

if TYPE_CHECKING:  # It is slow to import.
  from matplotlib import axes as axes_lib
  from matplotlib import container as container_lib
  from matplotlib import figure as figure_lib

Comparison = comparison_lib.Comparison
Published = published_lib.Published

ERRORS_FILE = "errors.png"
IMPROVEMENTS_FILE = "improvements.png"
SIZES_FILE = "sizes.png"
ABLATIONS_FILE = "ablations.png"
HOURS_FILE = "device_hours.png"

_GREYS = ("#8A8F98", "#B4B8BF", "#6A6F78")  # Of models from scratch.
_PUBLISHED = ("#E8C9B5", "#D89B6F", "#B9D9CC", "#6FB39A", "#D9C6E3", "#C9D7E8")
_MOST_NUMBERS = 6  # Bars of a panel that have room for numbers.
_LEGEND_COLUMNS = 3
_INCHES_PER_BAR = 0.24
_INCHES_PER_LETTER, _INCHES_PER_LINE = 0.058, 0.17  # Of a legend.
_WIDTHS = (3.4, 9.0)  # Narrowest and widest picture in inches.


def draw(
  comparisons: Sequence[Comparison],
  published: Published,
  output: pathlib.Path,
  reference: str = "",
) -> list[pathlib.Path]:
  """Draws all pictures that have something to show.

  Args:
    comparisons: the groups of every task.
    published: the published errors.
    output: directory of the pictures.
    reference: see `sections.tables`.

  Returns:
    The pictures.
  """
  colours = _colours(comparisons, published)
  with figures.style():
    pictures = {
      ERRORS_FILE: _errors(comparisons, published, colours),
      IMPROVEMENTS_FILE: _means(
        summaries.improvements(comparisons, published),
        "Improvement over training from scratch (%)",
        colours,
      ),
      SIZES_FILE: _means(
        summaries.sizes(comparisons, published),
        "Improvement of the larger model (%)",
        {},
      ),
      ABLATIONS_FILE: _means(
        summaries.ablations(comparisons, reference), "Improvement (%)", {}
      ),
      HOURS_FILE: _hours(comparisons, colours),
    }
    paths = []
    for name, figure in pictures.items():
      if figure is None:
        (output / name).unlink(missing_ok=True)  # Of an earlier report.
      else:
        figures.save(figure, output / name)
        paths.append(output / name)
  return paths


def shown_folds(comparison: Comparison) -> tuple[int, ...]:
  """The folds that most groups of a task have; of several choices the most folds."""
  count = lambda folds: sum(set(folds) <= {*g.folds} for g in comparison.groups)
  return max(comparison.scopes, key=lambda folds: (count(folds), len(folds)))


def _colours(comparisons: Sequence[Comparison], published: Published) -> dict[str, str]:
  """A colour for each label: grey from scratch, strong fine-tuned, pale published."""
  scratch = [
    group.label
    for comparison in comparisons
    for group in comparison.groups
    if group.is_from_scratch
  ]
  tuned = [label for label in summaries.arms(comparisons) if label not in scratch]
  columns = [f"{model} {published_lib.MARK}" for model in published.columns]
  return {
    **_cycled(list(dict.fromkeys(scratch)), _GREYS),
    **_cycled(tuned, figures.COLOURS),
    **_cycled(columns, _PUBLISHED),
  }


def _cycled(labels: Sequence[str], colours: Sequence[str]) -> dict[str, str]:
  return {label: colours[i % len(colours)] for i, label in enumerate(labels)}


def _errors(
  comparisons: Sequence[Comparison], published: Published, colours: Mapping[str, str]
) -> figure_lib.Figure:
  """A panel per task with the test errors of groups and the published ones."""
  figure, axes = figures.panels(len(comparisons), columns=4, size=(2.5, 2.3))
  drawn: dict[str, str] = {}
  sizes = [c.num_structures for c in comparisons]
  for axis, comparison in zip(axes, comparisons, strict=True):
    bars = _error_bars(comparison, published)
    drawn |= {label: colours[label] for label, _ in bars}
    _bars(axis, bars, colours)
    folds = shown_folds(comparison)
    title = comparison.task
    if words := table.scope(comparison, folds, published):
      title += f"\n{words}"
    if len(set(sizes)) > 1 and _is_twice(comparison, comparisons):
      title += f"\n{comparison.num_structures:,} structures"
    axis.set_title(title)
    axis.set_ylabel(f"test error ({comparison.unit})")
    axis.set_xticks([])
    figures.plain_ticks(axis.yaxis)
    axis.margins(y=0.15)
  _legend(figure, drawn)
  return figure


def _is_twice(comparison: Comparison, comparisons: Sequence[Comparison]) -> bool:
  return sum(other.task == comparison.task for other in comparisons) > 1


def _error_bars(
  comparison: Comparison, published: Published
) -> list[tuple[str, comparison_lib.Estimate]]:
  """Label and error of every bar of a task."""
  folds = shown_folds(comparison)
  bars = [
    (group.label, group.error(folds))
    for group in comparison.groups
    if set(folds) <= {*group.folds}
  ]
  errors = published.errors(comparison.task, folds, comparison.num_structures)
  for model, error in errors.items():
    bars.append((f"{model} {published_lib.MARK}", comparison_lib.Estimate(error)))
  return bars


def _bars(
  axis: axes_lib.Axes,
  bars: Sequence[tuple[str, comparison_lib.Estimate]],
  colours: Mapping[str, str],
) -> None:
  """Bars side by side, with numbers where there is room for them."""
  heights = [value.mean for _, value in bars]
  drawn = axis.bar(
    range(len(bars)),
    heights,
    width=0.75,
    color=[colours[label] for label, _ in bars],
    yerr=_spreads([value for _, value in bars]),
    error_kw={"elinewidth": 0.9, "capsize": 2},
  )
  if len(bars) <= _MOST_NUMBERS:
    texts = [text_table.number(height) for height in heights]
    axis.bar_label(drawn, texts, fontsize=7, padding=1)
  axis.grid(visible=False, axis="x")
  room = max(len(bars), 3) / 2
  centre = (len(bars) - 1) / 2
  axis.set_xlim(centre - room, centre + room)


def _spreads(values: Sequence[comparison_lib.Estimate]) -> list[float] | None:
  """Lengths of error bars; None where no value has one."""
  if all(value.spread is None for value in values):
    return None
  return [math.nan if v.spread is None else v.spread for v in values]


def _means(
  found: Mapping[str, summaries.Means], ylabel: str, colours: Mapping[str, str]
) -> figure_lib.Figure | None:
  """Groups of bars by dataset: one bar for each label; None without any."""
  if not found:
    return None
  names = list(dict.fromkeys(name for means in found.values() for name in means))
  names.sort(key=lambda name: name == summaries.ALL)
  own = [label for label in found if published_lib.MARK not in label]
  others = [label for label in found if label not in own]
  drawn = [label for label in own if comparison_lib.SCRATCH in label]
  strong = [label for label in own if label not in drawn]
  fallback = {
    **_cycled(drawn, _GREYS),
    **_cycled(strong, figures.COLOURS),
    **_cycled(others, _PUBLISHED[2:]),
  }
  chosen = {label: colours.get(label, fallback[label]) for label in found}
  figure, axis = _wide(len(found) * len(names))
  for index, (label, means) in enumerate(found.items()):
    values = {i: means[name] for i, name in enumerate(names) if name in means}
    _draw_group(axis, values, index, len(found), chosen[label])
  axis.axhline(0, color="#222222", linewidth=0.8)
  _name_groups(axis, names)
  axis.set_ylabel(ylabel)
  figures.plain_ticks(axis.yaxis)
  _legend(figure, chosen)
  return figure


def _hours(
  comparisons: Sequence[Comparison], colours: Mapping[str, str]
) -> figure_lib.Figure | None:
  """Mean device-hours until training from scratch was best, by dataset."""
  hours = summaries.hours_to_best(comparisons)
  if not hours:
    return None
  names = list(dict.fromkeys(name for values in hours.values() for name in values))
  figure, axis = _wide(len(hours) * len(names))
  for index, (label, of_label) in enumerate(hours.items()):
    values = {
      i: comparison_lib.Estimate(statistics.mean(of_label[name]))
      for i, name in enumerate(names)
      if name in of_label
    }
    drawn = _draw_group(axis, values, index, len(hours), colours[label])
    texts = [text_table.number(value.mean, 2) for value in values.values()]
    axis.bar_label(drawn, texts, fontsize=7, padding=1)
  _name_groups(axis, names)
  axis.set_ylabel("device-hours to the best of scratch")
  figures.plain_ticks(axis.yaxis)
  axis.margins(y=0.12)
  _legend(figure, {label: colours[label] for label in hours})
  return figure


def _draw_group(
  axis: axes_lib.Axes,
  values: Mapping[int, comparison_lib.Estimate],
  index: int,
  count: int,
  colour: str,
) -> container_lib.BarContainer:
  """Bars of one label, beside those of others.

  Args:
    axis: where they are drawn.
    values: heights by place.
    index: number of the label.
    count: number of labels, which share each place.
    colour: colour of the bars.
  """
  width = 0.8 / count
  return axis.bar(
    [place + (index - (count - 1) / 2) * width for place in values],
    [value.mean for value in values.values()],
    width=0.92 * width,
    color=colour,
    yerr=_spreads(list(values.values())),
    error_kw={"elinewidth": 0.9, "capsize": 2},
  )


def _wide(num_bars: int) -> tuple[figure_lib.Figure, axes_lib.Axes]:
  """A picture of one panel that is as wide as its bars need."""
  width = min(max(_WIDTHS[0], 1.2 + _INCHES_PER_BAR * num_bars), _WIDTHS[1])
  figure, (axis,) = figures.panels(1, size=(width, 2.8))
  return figure, axis


def _name_groups(axis: axes_lib.Axes, names: Sequence[str]) -> None:
  shown = ["all tasks" if name == summaries.ALL else name for name in names]
  axis.set_xticks(range(len(names)), shown)
  axis.tick_params(axis="x", length=0)
  axis.grid(visible=False, axis="x")
  axis.set_xlim(-0.6, len(names) - 0.4)


def _legend(figure: figure_lib.Figure, colours: Mapping[str, str]) -> None:
  """The colours of all labels, below the panels."""
  from matplotlib import patches

  handles = [
    patches.Patch(color=colour, label=label) for label, colour in colours.items()
  ]
  longest = max(map(len, colours))
  room = figure.get_figwidth() / (_INCHES_PER_LETTER * longest + 0.45)
  columns = max(1, min(_LEGEND_COLUMNS, int(room), len(handles)))
  rows = -(-len(handles) // columns)
  figure.set_figheight(figure.get_figheight() + _INCHES_PER_LINE * rows)
  figure.legend(handles=handles, loc="outside lower center", ncols=columns)
