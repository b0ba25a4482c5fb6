"""Draws the curves of a run from its metrics file."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from jmp_hk.training import writers

PLOT_FILE = "loss_curves.png"

_TITLES = {
  "energy_mae_mev": "Validation energy MAE (meV)",
  "energy_mae_mev_per_atom": "Validation energy MAE (meV/atom)",
  "force_mae_mev_per_angstrom": "Validation force MAE (meV/Å)",
  "force_cosine": "Validation force cosine",
  "score": "Validation score (normalised error)",
}
_LEFT_OUT = ("energy_mae_mev",)  # The energy per atom tells the same.
_COLUMNS = 3

Series = dict[str, tuple[list[float], list[float]]]  # Label → steps, values.


def plot_run(workdir: pathlib.Path) -> pathlib.Path | None:
  """Draws losses and validation metrics of a run.

  Args:
    workdir: directory of the run; its metrics file is read.

  Returns:
    The picture, or None where there are no metrics yet.
  """
  records = writers.read_metrics(workdir / writers.METRICS_FILE)
  panels = {"Training loss": _training(records), **_validation(records)}
  panels = {title: series for title, series in panels.items() if series}
  if not panels:
    return None
  from matplotlib import figure as figure_lib  # Slow to import.

  columns = min(_COLUMNS, len(panels))
  rows = -(-len(panels) // columns)
  # Without pyplot, which would change the backend of the caller's notebook.
  figure = figure_lib.Figure(figsize=(5 * columns, 3.6 * rows))
  axes = figure.subplots(rows, columns, squeeze=False)
  for axis, (title, series) in zip(axes.flat, panels.items(), strict=False):
    _draw(axis, title, series)
  for axis in axes.flat[len(panels) :]:
    axis.set_visible(False)
  figure.tight_layout()
  path = workdir / PLOT_FILE
  figure.savefig(path, dpi=110)
  return path


def _draw(axis: Any, title: str, series: Series) -> None:
  """One panel: a line a series, logarithmic where all values are positive."""
  for label, (steps, values) in series.items():
    axis.plot(steps, values, label=label, linewidth=1.3)
  axis.set_title(title, fontsize=10)
  axis.set_xlabel("step")
  values = [v for _, ys in series.values() for v in ys]
  if min(values) > 0 and "cosine" not in title:
    axis.set_yscale("log")
  axis.grid(alpha=0.3, which="both")
  axis.legend(fontsize=8)


def _training(records: Sequence[Mapping[str, Any]]) -> Series:
  """The loss and its terms."""
  series: Series = {}
  for record in records:
    if record["kind"] == "train":
      for name, value in record.items():
        if name.startswith("loss"):
          _add(series, name, record["step"], value)
  return series


def _validation(records: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
  """One panel per metric with one line per dataset."""
  panels: dict[str, Series] = {}
  for record in records:
    if record["kind"] == "val":
      for name, value in record.items():
        dataset, _, metric = name.partition("/")
        if metric and metric not in _LEFT_OUT:
          title = _TITLES.get(metric, f"Validation {metric}")
          _add(panels.setdefault(title, {}), dataset, record["step"], value)
  return panels


def _add(series: Series, label: str, step: int, value: Any) -> None:
  if isinstance(value, (int, float)):
    steps, values = series.setdefault(label, ([], []))
    steps.append(step)
    values.append(value)
