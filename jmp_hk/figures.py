"""The look of all pictures, and axes whose ticks are plain numbers.

Figures are drawn without pyplot, which would change the backend of a notebook.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import os
import pathlib
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from jmp_hk import files

if TYPE_CHECKING:  # It is slow to import.
  from matplotlib import axes as axes_lib
  from matplotlib import axis as axis_lib
  from matplotlib import figure as figure_lib

# Told apart with any colour vision (Okabe and Ito).
COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#6B4C9A",
  "#7F7F7F",
)
GREY = "#8A8F98"
_DPI = 200
_STYLE: dict[Any, Any] = {
  "font.size": 9.0,
  "axes.titlesize": 10.0,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.labelsize": 9.0,
  "axes.linewidth": 0.8,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "axes.formatter.useoffset": False,
  "axes.unicode_minus": True,
  "grid.color": "#E3E5E8",
  "grid.linewidth": 0.7,
  "xtick.labelsize": 8.0,
  "ytick.labelsize": 8.0,
  "xtick.direction": "out",
  "ytick.direction": "out",
  "legend.fontsize": 8.0,
  "legend.frameon": False,
  "lines.linewidth": 1.4,
  "lines.markersize": 3.5,
  "savefig.dpi": _DPI,
  "figure.facecolor": "white",
}
_FEW = 15  # Points of a line that are marked.
_FEWEST_TICKS, _MOST_TICKS = 3, 6  # Of a logarithmic axis.
# They lie here within a decade, in the first of these rows that gives enough.
_WITHIN_A_DECADE = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
_STEPS = [1, 2, 5, 10]  # Of equidistant ticks.
_NARROW = 4.0  # Axes whose ends have a smaller ratio have equidistant ticks.


@contextlib.contextmanager
def style() -> Iterator[None]:
  """The look of everything that is drawn and saved inside the context."""
  import matplotlib

  with matplotlib.rc_context(_STYLE):
    yield


def panels(
  count: int,
  columns: int = 3,
  size: tuple[float, float] = (3.3, 2.6),
) -> tuple[figure_lib.Figure, list[axes_lib.Axes]]:
  """An empty figure with a grid of panels.

  Args:
    count: number of panels.
    columns: most panels side by side.
    size: width and height of a panel in inches.
  """
  from matplotlib import figure as figure_lib

  columns = min(columns, count)
  if count == columns + 1:  # Rather two rows of two than three and one.
    columns = -(-count // 2)
  rows = -(-count // columns)
  figure = figure_lib.Figure(
    figsize=(size[0] * columns, size[1] * rows), layout="constrained"
  )
  axes = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axis in axes[count:]:
    axis.set_visible(False)
  return figure, axes[:count]


def save(figure: figure_lib.Figure, path: str | os.PathLike[str]) -> None:
  """Writes a PNG file, which appears whole or not at all."""
  with files.open_atomically(pathlib.Path(path)) as file:
    # Tight, because the layout does not count titles of axes with a fixed aspect.
    figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.08)


def marker(points: int) -> str:
  """The marker of a line: a dot where points are few, else none."""
  return "o" if points <= _FEW else ""


def logarithmic(axis: axes_lib.Axes, values: Sequence[float]) -> None:
  """Makes the y axis logarithmic, with plain numbers at its ticks.

  Args:
    axis: the axes.
    values: what is drawn, all positive.
  """
  from matplotlib import ticker

  axis.set_yscale("log")
  margin = (max(values) / min(values)) ** 0.06 * 1.02
  low, high = min(values) / margin, max(values) * margin
  axis.set_ylim(low, high)
  ticks = log_ticks(low, high)
  axis.yaxis.set_major_locator(ticker.FixedLocator(ticks))
  axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:.12g}"))
  axis.yaxis.set_minor_locator(ticker.NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
  """Round numbers from low to high, as few as make the axis readable."""
  from matplotlib import ticker

  if high / low < _NARROW:
    found = ticker.MaxNLocator(5, steps=_STEPS).tick_values(low, high)
    return [float(tick) for tick in found if low <= tick <= high]
  decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
  ticks: list[float] = []
  for factors in _WITHIN_A_DECADE:
    candidates = [float(f"{f}e{decade}") for decade in decades for f in factors]
    ticks = [tick for tick in candidates if low <= tick <= high]
    if len(ticks) >= _FEWEST_TICKS:
      break
  return ticks[:: -(-len(ticks) // _MOST_TICKS)]


def plain_ticks(*axes: axis_lib.Axis, integers: bool = False) -> None:
  """Few ticks on linear axes, without an exponent or an offset.

  Args:
    *axes: x or y axes.
    integers: whether ticks are whole numbers.
  """
  from matplotlib import ticker

  for axis in axes:
    axis.set_major_locator(ticker.MaxNLocator(5, steps=_STEPS, integer=integers))
    formatter = ticker.ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)
