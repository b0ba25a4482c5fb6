"""From structures and a declaration of their labels to a `DatasetInfo`.

  declaration = dataset_summary.Declaration(
    name="mine",
    graph=graph_config.GraphConfig(cutoff=8.0),
    targets={"gap": dataset_summary.Label("eV")},
  )
  train = statistics.of_structures(structures)
  info = dataset_summary.build_info(declaration, {"train": train})

Converters declare what they read; `data.conversion` gathers the statistics of each
shard as it is written and summarises them here.
"""

from collections import Counter
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import Literal

from jmp_hk import dataset_info
from jmp_hk import statistics as statistics_lib
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

TRAIN = "train"
ScaleSource = Literal["published", "fitted"]


class EmptyError(ValueError):
  """A dataset has no structures."""


class LabelError(ValueError):
  """Labels are missing, or do not fit what was declared about them."""


@dataclasses.dataclass(frozen=True)
class Scales:
  """Scales that the labels of energy and forces are divided by.

  Attributes:
    energy: eV, applied after the references are subtracted.
    forces: eV/Å.
  """

  energy: float
  forces: float


@dataclasses.dataclass(frozen=True)
class Label:
  """Declares a label besides energy and forces.

  Attributes:
    unit: unit of the stored values, e.g. "D".
    kind: "structure": a scalar or [k] per structure; "atoms": [n, k] per atom;
      "class": a class index per structure.
    references: fit per-element linear references (scalars of structures only).
    num_classes: number of classes of a class index; 0 takes the largest index of the
      training split plus 1.
    statistics: published (mean, std) in place of those of the training split, which
      then stay in the provenance.
  """

  unit: str
  kind: Literal["structure", "atoms", "class"] = "structure"
  references: bool = False
  num_classes: int = 0
  statistics: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Declaration:
  """Everything about a dataset that is known before its structures are read.

  Attributes:
    name: name stored in `dataset_info.json`, e.g. "rmd17_aspirin".
    graph: neighbor-graph settings.
    energy: every structure has an energy (eV); its references are fitted.
    forces: every structure has forces (eV/Å).
    stress: every structure has a stress (eV/Å³, ASE's sign).
    targets: further labels by name; every structure has all of them.
    optional: names of those of these labels that some structures may lack.
    published_scales: scales to store where published ones are asked for; the fitted
      ones stay in the provenance.
    evaluate_free_atoms_only: leave fixed atoms out of force metrics.
    periodic_in_3d: structures are periodic in all three directions, also across the
      vacuum of a slab.
    force_coefficient: published factor of the force loss, or None.
    notes: facts for the provenance, e.g. how raw units were converted.
  """

  name: str
  graph: graph_config.GraphConfig
  energy: bool = True
  forces: bool = True
  stress: bool = False
  targets: Mapping[str, Label] = dataclasses.field(default_factory=dict)
  optional: frozenset[str] = frozenset()
  published_scales: Scales | None = None
  evaluate_free_atoms_only: bool = False
  periodic_in_3d: bool = False
  force_coefficient: float | None = None
  notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def find_problem(self, structure: structure_lib.Structure) -> str | None:
    """What keeps a structure from having exactly these labels, as half a sentence.

    Args:
      structure: a structure in which `structure.find_problem` found nothing.

    Returns:
      The first problem, or None.
    """
    for name in structure_lib.LABELS:
      wanted, has = getattr(self, name), getattr(structure, name) is not None
      if has != wanted and not (wanted and name in self.optional):
        return f"expected {'an' if wanted else 'no'} {name} label, found the opposite"
    targets = set(structure.targets)
    if not set(self.targets) - self.optional <= targets <= set(self.targets):
      return (
        f"expected the targets {sorted(self.targets)}, found "
        f"{sorted(structure.targets)}"
      )
    for name, label in self.targets.items():
      if name not in structure.targets:
        continue
      value = structure.targets[name]
      if (value.ndim == 2) != (label.kind == "atoms"):
        return (
          f"expected target {name!r} of kind {label.kind}, found shape {value.shape}"
        )
      if label.kind == "class" and (value < 0 or value != int(value)):
        return f"expected {name!r} to be a class index, found {value}"
    return None


def build_info(
  declaration: Declaration,
  splits: Mapping[str, statistics_lib.Statistics],
  scales: ScaleSource = "published",
  provenance: Mapping[str, Any] | None = None,
) -> dataset_info.DatasetInfo:
  """Summarises a dataset.

  References, scales and statistics of targets come from the split "train" alone;
  without it references are empty, and scales are 1 unless they are published.

  Args:
    declaration: what is known about the dataset beforehand.
    splits: statistics of all structures of each split by its name.
    scales: which energy and force scale to store; "published" falls back on the
      fitted ones where none are published.
    provenance: free-form facts to store.

  Returns:
    The constants of the dataset.

  Raises:
    LabelError: class indices do not fit the declared number of classes.
    EmptyError: there is no structure, or none to train on in a split "train".
  """
  _check_not_empty(declaration.name, splits)
  train = splits.get(TRAIN, statistics_lib.Statistics())
  fit = statistics_lib.fit_references(train, train.energy, "energy")
  fitted = Scales(fit.std or 1.0, train.forces.rms() or 1.0)
  published = declaration.published_scales
  chosen = published if published and scales == "published" else fitted
  targets, fitted_targets = {}, {}
  for name, label in declaration.targets.items():
    targets[name], fitted_targets[name] = _target(name, label, train, splits)
  sizes = sum((Counter(s.sizes) for s in splits.values()), Counter())
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
    splits={name: _facts(split) for name, split in sorted(splits.items())},
    provenance={
      **(provenance or {}),
      "scales": "published" if chosen is published else "fitted",
      "fitted_on_train": _fitted(train, fit) | {"targets": fitted_targets},
      "notes": dict(declaration.notes),
    },
  )


def _check_not_empty(
  name: str, splits: Mapping[str, statistics_lib.Statistics]
) -> None:
  """Checks that there are structures, and some to train on.

  Raises:
    EmptyError: there are none.
  """
  counts = {split: statistics.structures for split, statistics in splits.items()}
  if not any(counts.values()) or counts.get(TRAIN, 1) == 0:
    listed = ", ".join(f"{split}: {count}" for split, count in counts.items())
    raise EmptyError(
      f"The dataset {name!r} has no structures{' to train on' * any(counts.values())} "
      f"({listed or 'no splits'}): all records were filtered or left out as invalid. "
      "Without --skip_invalid the conversion says what is wrong with them; with "
      "--overwrite it begins anew."
    )


def _facts(split: statistics_lib.Statistics) -> dataset_info.SplitFacts:
  """What checks have to know about one split."""
  return dataset_info.SplitFacts(
    elements=tuple(sorted(split.atoms_by_element)),
    missing={k: v.structures for k, v in sorted(split.missing.items())},
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


def _units(declaration: Declaration) -> dict[str, str]:
  units = {"positions": "Å", "cell": "Å"}
  if declaration.energy:
    units["energy"] = "eV"
  if declaration.forces:
    units["forces"] = "eV/Å"
  if declaration.stress:
    units["stress"] = "eV/Å³"
  return units | {name: label.unit for name, label in declaration.targets.items()}


def _target(
  name: str,
  label: Label,
  train: statistics_lib.Statistics,
  splits: Mapping[str, statistics_lib.Statistics],
) -> tuple[dataset_info.TargetStatistics, dict[str, float]]:
  """Stored statistics of a label, and those of the training split."""
  moments = train.targets.get(name, statistics_lib.Moments())
  if label.kind == "class":
    return _class_statistics(name, label, moments, splits), {}
  if label.references:
    fit = statistics_lib.fit_references(train, moments, name)
    references, mean, std = fit.references, fit.mean, fit.std
  else:
    references = {}
    mean, std = moments.mean_std()
  fitted = {"mean": mean, "std": std}
  if label.statistics:
    mean, std = label.statistics
  stored = dataset_info.TargetStatistics(label.unit, mean, std or 1.0, references)
  return stored, fitted


def _class_statistics(
  name: str,
  label: Label,
  moments: statistics_lib.Moments,
  splits: Mapping[str, statistics_lib.Statistics],
) -> dataset_info.TargetStatistics:
  """The number of classes, which the indices of all splits must lie below."""
  counted = int(moments.largest) + 1 if moments.count else 0
  classes = label.num_classes or counted
  for split, statistics in splits.items():
    largest = statistics.targets.get(name, statistics_lib.Moments()).largest
    # Without a training split there is no number of classes to compare with.
    if classes and largest >= classes:
      raise LabelError(
        f"Split {split!r} has class {int(largest)} of {name!r}, expected indices "
        f"below the {classes} classes of the training split."
      )
  return dataset_info.TargetStatistics(label.unit, 0.0, 1.0, {}, classes)
