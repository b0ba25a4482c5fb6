"""Builds `DatasetInfo` from a declaration and the statistics of every split."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from typing import Literal

from data.converters import base
from jmp_hk import dataset_info
from jmp_hk import statistics as statistics_lib

ScaleSource = Literal["published", "fitted"]


def build(
  declaration: base.Declaration,
  splits: Mapping[str, statistics_lib.Statistics],
  scales: ScaleSource,
  provenance: Mapping[str, Any],
) -> dataset_info.DatasetInfo:
  """Summarises a converted dataset.

  References, scales and target statistics come from the split "train" alone; without
  it references are empty, and scales are 1 unless they are published.

  Args:
    declaration: what the converter declares.
    splits: statistics of all shards of each split.
    scales: which energy and force scale to store; "published" falls back on the
      fitted ones where none are published.
    provenance: free-form facts to store.

  Raises:
    RawDataError: class indices do not fit the declared number of classes.
  """
  train = splits.get(base.TRAIN, statistics_lib.Statistics())
  fit = statistics_lib.fit_references(train, train.energy)
  fitted = base.Scales(fit.std or 1.0, train.forces.rms() or 1.0)
  published = declaration.published_scales
  chosen = published if published and scales == "published" else fitted
  targets, fitted_targets = {}, {}
  for name, target in declaration.targets.items():
    targets[name], fitted_targets[name] = _target(name, target, train, splits)
  sizes = sum((s.sizes for s in splits.values()), Counter())
  elements = {z for s in splits.values() for z in s.atoms_by_element}
  return dataset_info.DatasetInfo(
    name=declaration.name,
    graph=declaration.graph,
    num_structures={k: v.structures for k, v in sorted(splits.items())},
    elements=tuple(sorted(elements)),
    size_histogram=dict(sorted(sizes.items())),
    energy_references=fit.references if train.energy.count else {},
    energy_scale=chosen.energy,
    force_scale=chosen.forces,
    targets=targets,
    units=_units(declaration),
    evaluate_free_atoms_only=declaration.evaluate_free_atoms_only,
    periodic_in_3d=declaration.periodic_in_3d,
    force_coefficient=declaration.force_coefficient,
    average_atoms=train.atoms / train.structures if train.structures else 0.0,
    provenance={
      **provenance,
      "scales": "published" if chosen is published else "fitted",
      "fitted_on_train": _fitted(train, fit) | {"targets": fitted_targets},
      "notes": dict(declaration.notes),
    },
  )


def _fitted(
  train: statistics_lib.Statistics, fit: statistics_lib.LinearFit
) -> dict[str, Any]:
  """What was fitted on the training split, whether or not it is used."""
  return {
    "structures": train.structures,
    "energy_scale": fit.std,
    "energy_residual_mean": fit.mean,
    "force_scale": train.forces.rms(),
  }


def _units(declaration: base.Declaration) -> dict[str, str]:
  units = {"positions": "Å", "cell": "Å"}
  if declaration.energy:
    units["energy"] = "eV"
  if declaration.forces:
    units["forces"] = "eV/Å"
  return units | {name: target.unit for name, target in declaration.targets.items()}


def _target(
  name: str,
  target: base.Target,
  train: statistics_lib.Statistics,
  splits: Mapping[str, statistics_lib.Statistics],
) -> tuple[dataset_info.TargetStatistics, dict[str, float]]:
  """Stored statistics of a label, and those of the training split."""
  moments = train.targets.get(name, statistics_lib.Moments())
  if target.kind == "class":
    counted = int(moments.largest) + 1 if moments.count else 0
    classes = target.num_classes or counted
    for split, statistics in splits.items():
      largest = statistics.targets.get(name, statistics_lib.Moments()).largest
      # Without a training split there is no number of classes to compare with.
      if classes and largest >= classes:
        raise base.RawDataError(
          f"Split {split!r} has class {int(largest)} of {name!r}, expected indices "
          f"below the {classes} classes of the training split."
        )
    return dataset_info.TargetStatistics(target.unit, 0.0, 1.0, {}, classes), {}
  if target.references:
    fit = statistics_lib.fit_references(train, moments)
    references, mean, std = fit.references, fit.mean, fit.std
  else:
    references = {}
    mean, std = moments.mean_std()
  fitted = {"mean": mean, "std": std}
  if target.statistics:
    mean, std = target.statistics
  stored = dataset_info.TargetStatistics(target.unit, mean, std or 1.0, references)
  return stored, fitted
