"""Writes compared predictions: metrics, table, structures with forces, parity plot."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import json
import os
import pathlib
from typing import TYPE_CHECKING
from typing import Any

import ase
from ase.calculators import singlepoint
import numpy as np

from jmp_hk import figures
from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk import structure as structure_lib
from jmp_hk import text_table
from jmp_hk.inference import annotation
from jmp_hk.inference import comparison as comparison_lib
from jmp_hk.inference import prediction_files

if TYPE_CHECKING:  # It is slow to import.
  from matplotlib import axes as axes_lib

METRICS_FILE = "metrics.json"
TABLE_FILE = "predictions.csv"
STRUCTURES_FILE = "predictions.extxyz"
PLOT_FILE = "parity.png"

_MOST_POINTS = 20_000  # In a panel of the plot.
_CROWD = 1_000  # Points from which on their density is shown.
_BINS = 120
_MOST_CLASSES = 12  # Whose numbers are written into the panel.


class OtherResultsError(ValueError):
  """A directory holds the results of another evaluation; lists the differences."""


def write(
  results: comparison_lib.Results,
  directory: str | os.PathLike[str],
  *,
  settings: Mapping[str, Any] | None = None,
  overwrite: bool = False,
) -> dict[str, dict[str, float | str]]:
  """Writes everything that there is to tell about compared predictions.

  Args:
    results: predictions and labels.
    directory: where the files go.
    settings: what was evaluated, as JSON values; stored with the metrics.
    overwrite: whether to replace results that were made with other settings. Those of
      the same settings are replaced anyway.

  Returns:
    The metrics by target in the units of the labels, each with its unit.

  Raises:
    OtherResultsError: the directory holds other results.
  """
  directory = pathlib.Path(directory)
  check_settings(directory, settings, overwrite=overwrite)
  directory.mkdir(parents=True, exist_ok=True)
  metrics = results.metrics()
  stored = {
    "structures": len(results.structures),
    "targets": metrics,
    # The names and units of metrics.jsonl.
    "validation_metrics": results.validation_metrics(),
  }
  if settings is not None:
    stored["settings"] = dict(settings)
  frames = [
    annotation.annotate(to_atoms(structure), prediction, results.task)
    for structure, prediction in zip(
      results.structures, results.predictions, strict=True
    )
  ]
  prediction_files.write_csv(directory / TABLE_FILE, frames)
  if any(comparison.is_per_atom for comparison in results.comparisons):
    prediction_files.write(directory / STRUCTURES_FILE, frames)
  plot(results.comparisons, directory / PLOT_FILE)
  serialization.save(stored, directory / METRICS_FILE)
  return metrics


def check_settings(
  directory: pathlib.Path,
  settings: Mapping[str, Any] | None,
  *,
  overwrite: bool = False,
) -> None:
  """Checks that a directory holds no results of another evaluation.

  Args:
    directory: where results go; it need not exist.
    settings: what is evaluated, see `write`.
    overwrite: see `write`.

  Raises:
    OtherResultsError: it does.
  """
  path = directory / METRICS_FILE
  if overwrite or settings is None or not path.exists():
    return
  stored = serialization.from_json(
    dict[str, Any], strict_json.read(path), path.name
  ).get("settings", {})
  changes = serialization.differences(stored, json.loads(json.dumps(dict(settings))))
  if changes:
    raise OtherResultsError(
      f"{directory} holds the results of another evaluation: {'; '.join(changes)}."
    )


def to_atoms(structure: structure_lib.Structure) -> ase.Atoms:
  """The structure as ASE has it, with its labels and its record id as info["record"].

  Energy, forces and stress are the results of its calculator.
  """
  atoms = ase.Atoms(
    numbers=structure.atomic_numbers,
    positions=structure.positions,
    cell=structure.cell,
    pbc=structure.pbc,
    info={"record": structure.record_id},
  )
  for name, value in structure.targets.items():
    value = np.asarray(value)
    is_per_atom = value.ndim > 0 and len(value) == len(atoms)
    if is_per_atom:
      atoms.arrays[name] = value
    else:
      atoms.info[name] = value.item() if value.ndim == 0 else value
  labels = {name: getattr(structure, name) for name in structure_lib.LABELS}
  known = {name: value for name, value in labels.items() if value is not None}
  if known:
    atoms.calc = singlepoint.SinglePointCalculator(atoms, **known)
  return atoms


def plot(comparisons: Sequence[comparison_lib.Comparison], path: pathlib.Path) -> None:
  """Draws predictions over labels, one panel a target."""
  if not comparisons:
    return
  with figures.style():
    figure, axes = figures.panels(len(comparisons), 3, (3.3, 3.3))
    for axis, comparison in zip(axes, comparisons, strict=True):
      (_draw_classes if comparison.is_class else _draw_values)(axis, comparison)
      axis.set_title(comparison.target.name)
      axis.set_aspect("equal", adjustable="box")
    figures.save(figure, path)


def _draw_values(axis: axes_lib.Axes, comparison: comparison_lib.Comparison) -> None:
  """Values or components against labels, with the diagonal."""
  labels = comparison.labels[comparison.counted].ravel()
  predictions = comparison.predictions[comparison.counted].ravel()
  step = -(-len(labels) // _MOST_POINTS)
  ends = np.array(
    [min(labels.min(), predictions.min()), max(labels.max(), predictions.max())]
  )
  ends += np.array([-0.04, 0.04]) * (ends[1] - ends[0] or 1.0)
  axis.plot(ends, ends, color=figures.GREY, linewidth=0.9, zorder=1)
  _scatter(axis, labels[::step], predictions[::step])
  axis.set(xlim=ends, ylim=ends)
  figures.plain_ticks(axis.xaxis, axis.yaxis)
  _note(axis, comparison)
  unit = f" ({comparison.unit})" if comparison.unit else ""
  quantity = "component " if comparison.labels.ndim > 1 else ""
  axis.set_xlabel(f"{quantity}label{unit}")
  axis.set_ylabel(f"{quantity}prediction{unit}")


def _scatter(axis: axes_lib.Axes, x: np.ndarray, y: np.ndarray) -> None:
  """Points; of many, the colour says how dense they lie."""
  if len(x) < _CROWD:
    axis.plot(x, y, "o", color=figures.COLOURS[0], markersize=3.5, alpha=0.6, mew=0)
    return
  counts, xs, ys = np.histogram2d(x, y, bins=_BINS)
  column = np.clip(np.searchsorted(xs, x, side="right") - 1, 0, _BINS - 1)
  row = np.clip(np.searchsorted(ys, y, side="right") - 1, 0, _BINS - 1)
  density = np.log(counts[column, row])
  order = np.argsort(density)
  axis.scatter(x[order], y[order], c=density[order], s=4, linewidths=0, cmap="viridis")


def _note(axis: axes_lib.Axes, comparison: comparison_lib.Comparison) -> None:
  """Writes the metrics into the free corner above the diagonal."""
  lines = [
    f"{metric.title} {text_table.quantity(value, metric.unit)}"
    for metric, value in comparison.shown().items()
    if np.isfinite(value)
  ]
  axis.text(
    0.04,
    0.96,
    "\n".join(lines),
    transform=axis.transAxes,
    verticalalignment="top",
    fontsize=8,
    linespacing=1.4,
  )


def _draw_classes(axis: axes_lib.Axes, comparison: comparison_lib.Comparison) -> None:
  """How often each class is predicted as each; the colour is the share of its row."""
  labels = comparison.labels[comparison.counted]
  chosen = comparison.predictions[comparison.counted].argmax(axis=1)
  num_classes = comparison.predictions.shape[1]
  counts = np.zeros((num_classes, num_classes), int)
  np.add.at(counts, (labels, chosen), 1)
  shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
  if num_classes <= _MOST_CLASSES:
    for (row, column), count in np.ndenumerate(counts):
      colour = "white" if shares[row, column] > 1 / 2 else "#222222"
      axis.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
  axis.grid(visible=False)
  axis.spines[:].set_visible(False)
  axis.tick_params(length=0)
  axis.set_xticks(range(num_classes))
  axis.set_yticks(range(num_classes))
  shown = [
    f"{metric.title} {text_table.quantity(value, metric.unit)}"
    for metric, value in comparison.shown().items()
  ]
  axis.set_xlabel(f"predicted class\n{', '.join(shown[:2])}")
  axis.set_ylabel("class")
