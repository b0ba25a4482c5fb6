"""Draws the curves of a run from its metrics file."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import TYPE_CHECKING
from typing import Any

from jmp_hk import figures
from jmp_hk.training import writers

if TYPE_CHECKING:  # It is slow to import.
  from matplotlib import axes as axes_lib
  from matplotlib import figure as figure_lib

PLOT_FILE = "loss_curves.png"

_TITLES = {
  "energy_mae_mev_per_atom": "Energy MAE (meV/atom)",
  "force_mae_mev_per_angstrom": "Force MAE (meV/Å)",
  "force_cosine": "Force cosine",
  "score": "Validation score",
}
_LEFT_OUT = ("energy_mae_mev",)  # The energy per atom tells the same.
_CAPITALS = ("mae", "rmse")
_LOSS = "Training loss"
_LOSS_COLOURS = ("#222222", *figures.COLOURS[4:])  # Not those of datasets.
_THIN: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5}

Curve = tuple[list[float], list[float]]  # Steps, values.


@dataclasses.dataclass
class Panel:
  """One metric.

  Attributes:
    validation: curve of each dataset by name.
    training: likewise, where the log of training tells the metric.
  """

  validation: dict[str, Curve] = dataclasses.field(default_factory=dict)
  training: dict[str, Curve] = dataclasses.field(default_factory=dict)


def plot_run(workdir: pathlib.Path) -> pathlib.Path | None:
  """Draws losses and errors of a run.

  Args:
    workdir: directory of the run; its metrics file is read.

  Returns:
    The picture, or None where there are no metrics yet.
  """
  records = writers.read_metrics(workdir / writers.METRICS_FILE)
  found = read_panels(records, writers.read_units(workdir))
  if not found:
    return None
  with figures.style():
    figure, axes = figures.panels(len(found))
    for axis, (title, panel) in zip(axes, found.items(), strict=True):
      _draw(axis, title, panel)
    _legend(figure, found)
    figures.save(figure, workdir / PLOT_FILE)
  return workdir / PLOT_FILE


def read_panels(
  records: Sequence[Mapping[str, Any]], units: Mapping[str, str]
) -> dict[str, Panel]:
  """The curves of each metric by its title.

  Args:
    records: lines of a metrics file.
    units: units of metrics by name.
  """
  found: dict[str, Panel] = {}
  for record in records:
    if record["kind"] not in ("train", "val"):
      continue
    is_training = record["kind"] == "train"
    for name, value in record.items():
      title, label = _place(name, units, is_training=is_training)
      if not title or not isinstance(value, (int, float)):
        continue
      panel = found.setdefault(title, Panel())
      curves = panel.training if is_training else panel.validation
      steps, values = curves.setdefault(label, ([], []))
      steps.append(record["step"])
      values.append(value)
  return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def _rank(title: str) -> int:
  """The loss first, then errors, then scores of other kinds."""
  return 0 if title == _LOSS else 1 if "MAE" in title or "RMSE" in title else 2


def _place(
  name: str, units: Mapping[str, str], *, is_training: bool
) -> tuple[str, str]:
  """The panel and the curve that a metric belongs to; "" where it is not drawn."""
  first, _, metric = name.partition("/")
  if first == "loss":
    return (_LOSS, metric or "sum") if is_training else ("", "")
  if not metric or metric in _LEFT_OUT or first == "utilisation":
    return "", ""
  unit = units.get(name, "")
  words = (word.upper() if word in _CAPITALS else word for word in metric.split("_"))
  plain = " ".join(words) + (f" ({unit})" if unit else "")
  return _TITLES.get(metric, plain), first


def _draw(axis: axes_lib.Axes, title: str, panel: Panel) -> None:
  """One panel: lines of validation, and thin ones of training."""
  datasets = list(dict.fromkeys([*panel.validation, *panel.training]))
  colours = _LOSS_COLOURS if title == _LOSS else figures.COLOURS
  for index, dataset in enumerate(datasets):
    colour = colours[index % len(colours)]
    if dataset in panel.training:
      is_only = not panel.validation
      _line(axis, panel.training[dataset], colour, is_main=is_only)
    if dataset in panel.validation:
      _line(axis, panel.validation[dataset], colour, is_main=True)
  curves = [*panel.validation.values(), *panel.training.values()]
  values = [value for _, ys in curves for value in ys]
  if min(values) > 0 and "cosine" not in title.lower():
    figures.logarithmic(axis, values)
  else:
    figures.plain_ticks(axis.yaxis)
  figures.plain_ticks(axis.xaxis, integers=True)
  axis.set_xlim(left=0)
  axis.set_title(title)
  axis.set_xlabel("step")
  if title == _LOSS and len(datasets) > 1:
    axis.legend(handles=_entries(datasets, colours))


def _line(axis: axes_lib.Axes, curve: Curve, colour: str, *, is_main: bool) -> None:
  steps, values = curve
  if is_main:
    axis.plot(steps, values, color=colour, marker=figures.marker(len(steps)))
  else:
    axis.plot(steps, values, color=colour, **_THIN)


def _legend(figure: figure_lib.Figure, panels: Mapping[str, Panel]) -> None:
  """Names the datasets by colour, and validation and training by the line."""
  from matplotlib import lines

  drawn = [panel for title, panel in panels.items() if title != _LOSS]
  datasets = [name for p in drawn for name in (*p.validation, *p.training)]
  datasets = list(dict.fromkeys(datasets))
  handles = _entries(datasets, figures.COLOURS) if len(datasets) > 1 else []
  if any(panel.validation and panel.training for panel in drawn):
    colour = figures.COLOURS[0] if len(datasets) == 1 else figures.GREY
    handles += [
      lines.Line2D([], [], color=colour, marker="o", label="validation"),
      lines.Line2D([], [], color=colour, label="training", **_THIN),
    ]
  if handles:
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center")


def _entries(names: Sequence[str], colours: Sequence[str]) -> list[Any]:
  """Entries of a legend."""
  from matplotlib import lines

  return [
    lines.Line2D([], [], color=colours[i % len(colours)], label=name)
    for i, name in enumerate(names)
  ]
