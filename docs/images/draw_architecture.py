"""Draws the pictures of docs/architecture.md.

python docs/images/draw_architecture.py
"""

from collections.abc import Sequence
import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import axes as axes_lib
from matplotlib import patches
from matplotlib import pyplot

_FOLDER = pathlib.Path(__file__).parent
_INK = "#1f2933"
_EDGE = "#52606d"
_FLOORS = {
  "benchmarks": "#f3e8d2",
  "experiments": "#e3eede",
  "data": "#dbe9f4",
  "jmp_hk": "#ffffff",
}
_SHELF = "#eef1f5"
_ACCENT = "#d9e2ec"


def _box(
  axes: axes_lib.Axes,
  x: float,
  y: float,
  width: float,
  height: float,
  title: str,
  text: str = "",
  color: str = _SHELF,
) -> None:
  """A rounded box with a bold title and a line or two below it."""
  axes.add_patch(
    patches.FancyBboxPatch(
      (x, y),
      width,
      height,
      boxstyle="round,pad=0,rounding_size=0.06",
      facecolor=color,
      edgecolor=_EDGE,
      linewidth=0.9,
    )
  )
  middle = y + height / 2
  lines = text.count("\n") + 1 if text else 0
  axes.text(
    x + width / 2,
    middle + 0.1 * lines,
    title,
    ha="center",
    va="center",
    fontsize=9.5,
    fontweight="bold",
    color=_INK,
  )
  if text:
    axes.text(
      x + width / 2,
      middle + 0.11 * lines - 0.17,
      text,
      ha="center",
      va="top",
      fontsize=8,
      color=_INK,
      linespacing=1.25,
    )


def _arrow(
  axes: axes_lib.Axes, start: tuple[float, float], end: tuple[float, float]
) -> None:
  axes.annotate(
    "",
    end,
    start,
    arrowprops={"arrowstyle": "-|>", "color": _EDGE, "linewidth": 1.3},
  )


def _canvas(
  width: float, height: float
) -> tuple[matplotlib.figure.Figure, axes_lib.Axes]:
  figure, axes = pyplot.subplots(figsize=(width, height))
  axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
  axes.axis("off")
  figure.subplots_adjust(0, 0, 1, 1)
  return figure, axes


def _row(
  axes: axes_lib.Axes,
  y: float,
  height: float,
  left: float,
  right: float,
  boxes: Sequence[tuple[str, str, float]],
) -> None:
  """Boxes side by side, their widths in proportion to the last entries."""
  gap = 0.12
  total = sum(weight for _, _, weight in boxes)
  free = right - left - gap * (len(boxes) - 1)
  x = left
  for title, text, weight in boxes:
    width = free * weight / total
    _box(axes, x, y, width, height, title, text)
    x += width + gap


def draw_house() -> None:
  """Floors of the repository and shelves of the library, imports pointing down."""
  figure, axes = _canvas(10, 8.35)
  floors = (
    ("benchmarks", "speed and memory of the parts below", 7.55),
    ("experiments", "command lines: flags → config → one call of the library", 6.65),
    ("data", "raw files → TFRecord → structures; the only place with TensorFlow", 5.75),
  )
  for name, text, y in floors:
    _box(axes, 0.5, y, 8.6, 0.65, f"{name}/", text, _FLOORS[name])
    _arrow(axes, (4.8, y), (4.8, y - (0.35 if name == "data" else 0.25)))
  axes.text(4.95, 7.43, "imports", fontsize=8, color=_INK, va="center")
  axes.add_patch(
    patches.FancyBboxPatch(
      (0.15, 0.1),
      9.7,
      5.3,
      boxstyle="round,pad=0,rounding_size=0.1",
      facecolor=_FLOORS["jmp_hk"],
      edgecolor=_EDGE,
      linewidth=1.4,
    )
  )
  axes.text(
    0.4, 5.16, "jmp_hk/", fontsize=10.5, fontweight="bold", color=_INK, va="center"
  )
  axes.text(
    1.3,
    5.16,
    "the library: load, predict, embed, make_calculator, fine_tune",
    fontsize=9,
    color=_INK,
    va="center",
  )
  _row(
    axes,
    4.05,
    0.85,
    0.5,
    8.25,
    [
      ("training/", "Trainer, step, optimiser,\nmetrics, averaging", 1.25),
      ("checkpoints/", "model directory,\nOrbax", 1),
      ("inference/", "Predictor, calculator,\nembeddings", 1.15),
      ("interop/", "PyTorch files,\nin and out", 0.9),
    ],
  )
  _row(
    axes,
    3.28,
    0.65,
    0.5,
    8.25,
    [
      (
        "pipeline/",
        "mixture → graphs → pool → microbatches; repeatable, resumable",
        1,
      )
    ],
  )
  _row(
    axes,
    2.3,
    0.86,
    0.5,
    8.25,
    [
      ("models/", "contract of a backbone,\nheads, model", 1),
      (
        "models/gemnet_oc/",
        "one backbone with its own graphs,\nbudget and tables",
        1.2,
      ),
    ],
  )
  _row(
    axes,
    1.25,
    0.93,
    0.5,
    8.25,
    [
      (
        "targets/",
        "one specification per kind:\nlabel, head, loss, metrics, unit",
        1.3,
      ),
      ("dataset_info", "constants that\nthe data decide", 0.8),
      ("graphs/", "neighbors → budget → batch\n(NumPy and vesin)", 1.2),
    ],
  )
  _row(
    axes,
    0.28,
    0.85,
    0.5,
    8.25,
    [
      ("structure", "one structure\nin eV and Å", 0.8),
      ("serialization", "configs and\nconstants as JSON", 0.95),
      ("statistics", "exact sums for\nreferences and scales", 1.05),
      ("published", "constants of the\npublished models", 0.95),
    ],
  )
  _box(
    axes,
    8.4,
    0.28,
    1.25,
    4.62,
    "runtime/",
    "devices,\nXLA flags,\nallocator,\ncompilation,\nprocesses;\nused by all",
    _ACCENT,
  )
  figure.savefig(_FOLDER / "architecture.png", dpi=150)
  pyplot.close(figure)


def draw_batch() -> None:
  """How one batch travels, from TFRecord to the optimiser."""
  figure, axes = _canvas(10, 4.3)
  axes.text(0.2, 4.08, "Host", fontsize=10, fontweight="bold", color=_INK, va="center")
  host = (
    ("read", "TFRecord →\nStructure", _FLOORS["data"]),
    ("draw", "mixture, order,\nnormalised labels", _SHELF),
    ("build", "neighbor graphs,\nin workers", _SHELF),
    ("pool", "what fills\nthe budget best", _SHELF),
    ("pack", "Batch with\nstatic shapes", _SHELF),
  )
  width, gap = 1.64, 0.35
  for index, (title, text, color) in enumerate(host):
    x = 0.2 + index * (width + gap)
    _box(axes, x, 2.75, width, 1.05, title, text, color)
    if index:
      _arrow(axes, (x - gap, 3.27), (x, 3.27))
  axes.text(
    0.2, 2.0, "Devices", fontsize=10, fontweight="bold", color=_INK, va="center"
  )
  device = (
    ("update", "clip, AdamW,\naverage", _ACCENT),
    ("gradient", "added up over\nmicrobatches", _ACCENT),
    ("loss", "sums and counts\nper target", _ACCENT),
    ("heads", "predictions\nper task", _ACCENT),
    ("backbone", "embeddings of\natoms and edges", _ACCENT),
  )
  for index, (title, text, color) in enumerate(device):
    x = 0.2 + index * (width + gap)
    _box(axes, x, 0.65, width, 1.05, title, text, color)
    if index:
      _arrow(axes, (x, 1.17), (x - gap, 1.17))
  last = 0.2 + 4 * (width + gap) + width / 2
  _arrow(axes, (last, 2.75), (last, 1.7))
  axes.text(
    last - 0.12,
    2.22,
    "stacked microbatches, copied ahead",
    ha="right",
    va="center",
    fontsize=8,
    color=_INK,
  )
  axes.text(
    0.2,
    0.3,
    "Everything random on the host is computed from the seed and a structure's number "
    "in the stream.",
    fontsize=8,
    color=_INK,
    va="center",
  )
  figure.savefig(_FOLDER / "batch.png", dpi=150)
  pyplot.close(figure)


if __name__ == "__main__":
  draw_house()
  draw_batch()
