"""Writes compared predictions: metrics, table, structures with forces, parity plot."""

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import os
import pathlib
from typing import TYPE_CHECKING
from typing import Any

import ase
from ase.calculators import singlepoint
import ase.io
import numpy as np

from jmp_hk import serialization
from jmp_hk import structure as structure_lib
from jmp_hk.inference import comparison as comparison_lib

if TYPE_CHECKING:  # It is slow to import.
  from matplotlib import axes as axes_lib

METRICS_FILE = "metrics.json"
TABLE_FILE = "predictions.csv"
STRUCTURES_FILE = "predictions.extxyz"
PLOT_FILE = "parity.png"

_ACRONYM = 5  # Shorter names of metrics are written in capitals.
_MOST_POINTS = 20_000  # In a panel of the plot.


def write(
  results: comparison_lib.Results, directory: str | os.PathLike[str]
) -> dict[str, dict[str, float | str]]:
  """Writes everything that there is to tell about compared predictions.

  Args:
    results: predictions and labels.
    directory: where the files go; those of an earlier call are replaced.

  Returns:
    The metrics by target, each with its unit.
  """
  directory = pathlib.Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  metrics = results.metrics()
  serialization.save(
    {"structures": len(results.structures), "targets": metrics},
    directory / METRICS_FILE,
  )
  write_table(results, directory / TABLE_FILE)
  if any(comparison.is_per_atom for comparison in results.comparisons):
    write_structures(results, directory / STRUCTURES_FILE)
  plot(results.comparisons, directory / PLOT_FILE)
  return metrics


def write_table(results: comparison_lib.Results, path: pathlib.Path) -> None:
  """Writes one row a structure: labels and predictions, or its mean absolute error."""
  sizes = np.array([structure.num_atoms for structure in results.structures])
  columns: dict[str, Sequence[Any]] = {
    "record": [structure.record_id for structure in results.structures],
    "num_atoms": sizes.tolist(),
  }
  for comparison in results.comparisons:
    name = comparison.target.name
    if comparison.is_per_atom:
      errors = np.abs(comparison.predictions - comparison.labels)
      errors = errors.reshape(len(errors), -1).mean(axis=1)
      starts = np.cumsum(sizes) - sizes
      means = np.add.reduceat(errors, starts) / sizes
      columns[f"{name}_mae"] = ["" if np.isnan(mean) else float(mean) for mean in means]
      continue
    # A missing label is an empty cell.
    has_label = comparison.counted.tolist()
    columns[name] = [
      label if counts else ""
      for label, counts in zip(comparison.labels.tolist(), has_label, strict=True)
    ]
    if comparison.is_class:
      columns[f"{name}_predicted"] = comparison.predictions.argmax(axis=1).tolist()
      for index, column in enumerate(comparison.predictions.T):
        columns[f"{name}_probability_{index}"] = column.tolist()
    else:
      columns[f"{name}_predicted"] = comparison.predictions.tolist()
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))


def write_structures(results: comparison_lib.Results, path: pathlib.Path) -> None:
  """Writes extxyz: predictions as energy and forces, labels as `reference_` ones."""
  frames = []
  for structure, prediction in zip(
    results.structures, results.predictions, strict=True
  ):
    atoms = to_atoms(structure)
    atoms.calc = singlepoint.SinglePointCalculator(
      atoms, energy=prediction.energy, forces=prediction.forces
    )
    for name, value in prediction.properties.items():
      if name not in results.task.per_atom:
        continue
      atoms.arrays[name] = np.asarray(value)
      if name in structure.targets:
        atoms.arrays[f"reference_{name}"] = np.asarray(structure.targets[name])
    if structure.energy is not None:
      atoms.info["reference_energy"] = structure.energy
    if structure.forces is not None:
      atoms.arrays["reference_forces"] = np.asarray(structure.forces)
    frames.append(atoms)
  ase.io.write(path, frames, format="extxyz")


def markdown_table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
  """Metrics as a Markdown table, one row a target.

  Args:
    metrics: see `comparison.Results.metrics`.
  """
  names = list(dict.fromkeys(k for row in metrics.values() for k in row if k != "unit"))
  titles = (name.upper() if len(name) < _ACRONYM else name for name in names)
  rows = [["target", "unit", *titles], ["---"] * (2 + len(names))]
  for target, row in metrics.items():
    cells = [f"{row[name]:.5g}" if name in row else "" for name in names]
    rows.append([target, row["unit"], *cells])
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def to_atoms(structure: structure_lib.Structure) -> ase.Atoms:
  """The structure as ASE has it, with its record id as info["record"]."""
  return ase.Atoms(
    numbers=structure.atomic_numbers,
    positions=structure.positions,
    cell=structure.cell,
    pbc=structure.pbc,
    info={"record": structure.record_id},
  )


def plot(comparisons: Sequence[comparison_lib.Comparison], path: pathlib.Path) -> None:
  """Draws predictions over labels, one panel a target."""
  if not comparisons:
    return
  from matplotlib import figure as figure_lib  # Slow to import.

  # Without pyplot, which would change the backend of the caller's notebook.
  figure = figure_lib.Figure(figsize=(5 * len(comparisons), 4.6))
  axes = figure.subplots(1, len(comparisons), squeeze=False)
  for axis, comparison in zip(axes.flat, comparisons, strict=True):
    (_draw_classes if comparison.is_class else _draw_values)(axis, comparison)
  figure.tight_layout()
  figure.savefig(path, dpi=120)


def _draw_values(axis: "axes_lib.Axes", comparison: comparison_lib.Comparison) -> None:
  """Values or components against labels, with the diagonal."""
  labels = comparison.labels[comparison.counted].ravel()
  predictions = comparison.predictions[comparison.counted].ravel()
  step = -(-len(labels) // _MOST_POINTS)
  axis.plot(labels[::step], predictions[::step], ".", markersize=3, alpha=0.4)
  ends = [min(labels.min(), predictions.min()), max(labels.max(), predictions.max())]
  axis.plot(ends, ends, color="black", linewidth=0.8)
  metrics = comparison.metrics()
  axis.set_title(
    f"{comparison.target.name}: MAE {metrics['mae']:.4g} {comparison.unit}, "
    f"R² {metrics['r2']:.4f}",
    fontsize=10,
  )
  axis.set_xlabel(f"label ({comparison.unit})")
  axis.set_ylabel(f"prediction ({comparison.unit})")


def _draw_classes(axis: "axes_lib.Axes", comparison: comparison_lib.Comparison) -> None:
  """How often each class is predicted as each."""
  num_classes = comparison.predictions.shape[1]
  counts = np.zeros((num_classes, num_classes), int)
  labels = comparison.labels[comparison.counted]
  chosen = comparison.predictions[comparison.counted].argmax(axis=1)
  np.add.at(counts, (labels, chosen), 1)
  axis.imshow(counts, cmap="Blues")
  for (row, column), count in np.ndenumerate(counts):
    dark = count > counts.max() / 2
    axis.text(
      column, row, count, ha="center", va="center", color="white" if dark else "black"
    )
  metrics = comparison.metrics()
  axis.set_title(
    f"{comparison.target.name}: accuracy {metrics['accuracy']:.3f}", fontsize=10
  )
  axis.set_xticks(range(num_classes))
  axis.set_yticks(range(num_classes))
  axis.set_xlabel("predicted class")
  axis.set_ylabel("class")
