"""Constants derived from a converted dataset, stored with it and in checkpoints."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import math
import os
import pathlib
from typing import Any
from typing import ClassVar

import numpy as np

from jmp_hk import published
from jmp_hk import serialization
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config

FILE_NAME = "dataset_info.json"
SCHEMA_VERSION = 2


class DatasetInfoError(serialization.SerializationError):
  """A `dataset_info.json` is missing, malformed or of another version."""


@dataclasses.dataclass(frozen=True)
class TargetStatistics:
  """Statistics of one label over the training split, for standardisation.

  Attributes:
    unit: unit of the label, e.g. "eV", "D", "log10(GPa)".
    mean: mean over the training split (after subtracting `references`).
    std: standard deviation over the training split, likewise.
    references: per-element linear references by atomic number, or empty.
    num_classes: number of classes of a classification label, or 0.
  """

  unit: str
  mean: float
  std: float
  references: Mapping[int, float] = dataclasses.field(default_factory=dict)
  num_classes: int = 0

  def __post_init__(self) -> None:
    _check_finite(self, "mean")
    _check_positive(self, "std")
    _check_references("references", self.references)
    if self.num_classes < 0:
      raise ValueError(f"num_classes must not be negative, got {self.num_classes}.")


@dataclasses.dataclass(frozen=True)
class SplitFacts:
  """What is known about one split without reading it.

  Attributes:
    elements: atomic numbers that occur in it, ascending.
    missing: number of structures that lack a label, by its name; only labels that some
      structures of the dataset may lack.
  """

  elements: tuple[int, ...]
  missing: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    _check_elements(self.elements)
    for name, count in self.missing.items():
      if count < 0:
        raise ValueError(f"missing[{name!r}] must not be negative, got {count}.")


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Constants of one dataset, as `dataset_info.json` holds them.

  Attributes:
    name: name of the dataset, e.g. "rmd17_aspirin".
    graph: neighbor-graph settings of the dataset.
    num_structures: structures per split, e.g. {"train": 10, "val": 2}.
    elements: atomic numbers that occur in any split, ascending.
    size_histogram: number of structures per number of atoms, over all splits.
    energy_references: eV per element by atomic number, fitted on the training
      split in float64; empty where there is no energy.
    energy_scale: eV, by which energies are divided after the references are
      subtracted.
    force_scale: eV/Å, by which forces are divided.
    targets: statistics of further labels by name.
    units: unit of every stored quantity by name.
    evaluate_free_atoms_only: leave fixed atoms out of force metrics.
    periodic_in_3d: records are periodic in all three directions, also across the
      vacuum of a slab, and so must be the structures that are predicted.
    force_coefficient: published factor of the force loss beside an energy loss of
      factor 1; None where there is none.
    average_atoms: mean number of atoms over the training split.
    splits: facts about each split; empty in files of earlier versions.
    schema_version: version of this file and of the record layout.
    provenance: free-form facts: source files with checksums, command, what was left
      out, the fitted scale where a published one is used, …
  """

  store_checksum: ClassVar[bool] = True  # See `jmp_hk.serialization`.

  name: str
  graph: graph_config.GraphConfig
  num_structures: Mapping[str, int]
  elements: tuple[int, ...]
  size_histogram: Mapping[int, int]
  energy_references: Mapping[int, float]
  energy_scale: float
  force_scale: float
  targets: Mapping[str, TargetStatistics] = dataclasses.field(default_factory=dict)
  units: Mapping[str, str] = dataclasses.field(default_factory=dict)
  evaluate_free_atoms_only: bool = False
  periodic_in_3d: bool = False
  force_coefficient: float | None = None
  average_atoms: float = 0.0
  splits: Mapping[str, SplitFacts] = dataclasses.field(default_factory=dict)
  schema_version: int = SCHEMA_VERSION
  provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    _check_positive(self, "energy_scale")
    _check_positive(self, "force_scale")
    if self.force_coefficient is not None:
      _check_positive(self, "force_coefficient")
    _check_references("energy_references", self.energy_references)
    _check_elements(self.elements)
    _check_finite(self, "average_atoms")

  @classmethod
  def upgrade_json(cls, data: serialization.Json) -> serialization.Json:
    """Turns what an earlier version stored into the fields of this one.

    Raises:
      ValueError: the version is unknown, or the stored settings have no successor.
    """
    version = data.get("schema_version")
    if not isinstance(version, int):
      raise ValueError("it has no schema_version; convert the raw data again.")
    if version > SCHEMA_VERSION:
      raise ValueError(
        f"it has schema version {version}, but this program reads versions up to "
        f"{SCHEMA_VERSION}: update the program, or convert the raw data again with "
        "this one."
      )
    if version < 2:
      data = _upgrade_from_1(data)
    return data | {"schema_version": SCHEMA_VERSION}

  def reference_energy(self, atomic_numbers: np.ndarray) -> float:
    """Sum of the per-element references of a structure in eV, in float64.

    Args:
      atomic_numbers: [n] integers.

    Returns:
      The sum; elements without a reference raise.

    Raises:
      KeyError: an element has no reference.
    """
    missing = sorted({int(z) for z in atomic_numbers} - set(self.energy_references))
    if missing:
      raise KeyError(
        f"Dataset {self.name!r} has no reference energy for the elements with "
        f"atomic numbers {missing}; it knows {sorted(self.energy_references)}."
      )
    return float(sum(self.energy_references[int(z)] for z in atomic_numbers))


def _check_finite(value: object, name: str) -> None:
  number = getattr(value, name)
  if not math.isfinite(number):
    raise ValueError(f"{name} must be finite, got {number}.")


def _check_positive(value: object, name: str) -> None:
  number = getattr(value, name)
  if not (math.isfinite(number) and number > 0):
    raise ValueError(f"{name} must be positive and finite, got {number}.")


def _check_references(name: str, references: Mapping[int, float]) -> None:
  _check_elements(sorted(references), name)
  for element, energy in references.items():
    if not math.isfinite(energy):
      raise ValueError(f"{name}[{element}] must be finite, got {energy}.")


def _check_elements(elements: Sequence[int], name: str = "elements") -> None:
  """Checks that atomic numbers exist and ascend."""
  most = structure_lib.MAX_ATOMIC_NUMBER
  for element in elements:
    if not 1 <= element <= most:
      raise ValueError(
        f"{name} must be atomic numbers from 1 to {most}, got {element}."
      )
  if list(elements) != sorted(set(elements)):
    raise ValueError(f"{name} must ascend, got {list(elements)}.")


def _check_counts(info: DatasetInfo) -> None:
  """Checks that numbers of structures and atoms do not contradict each other.

  Raises:
    ValueError: they do; names the keys.
  """
  for name, counts in (
    ("num_structures", info.num_structures),
    ("size_histogram", info.size_histogram),
  ):
    for key, count in counts.items():
      if count < 0:
        raise ValueError(f"{name}[{key!r}] must not be negative, got {count}.")
  sizes = [size for size, count in info.size_histogram.items() if count]
  if sizes and min(sizes) < 1:
    raise ValueError(f"size_histogram has structures of {min(sizes)} atoms.")
  total = sum(info.num_structures.values())
  counted = sum(info.size_histogram.values())
  if info.size_histogram and total != counted:
    raise ValueError(
      f"num_structures has {total} structures in all splits, but size_histogram has "
      f"{counted}."
    )
  if sizes and not 0 <= info.average_atoms <= max(sizes):
    raise ValueError(
      f"average_atoms must be from 0 to {max(sizes)}, the largest size, got "
      f"{info.average_atoms}."
    )
  for split, facts in info.splits.items():
    if unknown := sorted(set(facts.elements) - set(info.elements)):
      raise ValueError(
        f"splits[{split!r}] has elements {unknown}, which the key elements lacks."
      )
    most = info.num_structures.get(split, 0)
    for name, count in facts.missing.items():
      if count > most:
        raise ValueError(
          f"splits[{split!r}].missing[{name!r}] is {count}, but num_structures has "
          f"{most}."
        )


def _published_info(name: str) -> DatasetInfo:
  constants = published.PRETRAINING[name]
  return DatasetInfo(
    name=name,
    graph=graph_config.GraphConfig(constants.cutoff, constants.max_neighbors),
    num_structures={},
    elements=constants.elements,
    size_histogram={},
    energy_references={},
    energy_scale=constants.energy_scale,
    force_scale=constants.force_scale,
    units={"energy": "eV", "forces": "eV/Å"},
    evaluate_free_atoms_only=constants.evaluate_free_atoms_only,
    periodic_in_3d=constants.periodic_in_3d,
    force_coefficient=constants.force_coefficient,
    average_atoms=constants.force_coefficient,  # It was chosen as their number.
    provenance={
      "constants": "scales of the published JMP pre-training; the per-element "
      "references are not published with the weights"
    },
  )


# The pre-training datasets as far as they are published, in the order of the published
# weights' heads.
PUBLISHED: Mapping[str, DatasetInfo] = {
  name: _published_info(name) for name in published.PRETRAINING
}


def save(info: DatasetInfo, path: str | os.PathLike[str]) -> None:
  """Writes the file, human-readable; it appears whole or not at all."""
  serialization.save(info, path)


def load(path: str | os.PathLike[str]) -> DatasetInfo:
  """Reads `dataset_info.json` from a converted directory, or the file itself.

  Raises:
    DatasetInfoError: it is missing or invalid; names the file and the key, and says
      what to do.
  """
  path = pathlib.Path(path)
  file = path / FILE_NAME if path.is_dir() else path
  try:
    info = serialization.load(DatasetInfo, file)
  except FileNotFoundError as error:
    if path.is_dir():
      hint = "the conversion there is unfinished; run `python -m data.convert` again"
    else:
      hint = "convert the raw files with `python -m data.convert`"
    raise DatasetInfoError(f"{file} does not exist: {hint}.") from error
  except serialization.SerializationError as error:
    raise DatasetInfoError(str(error)) from error
  try:
    _check_counts(info)
  except ValueError as error:
    raise DatasetInfoError(f"Cannot read {file}: {error}") from error
  return info


def _upgrade_from_1(data: Mapping[str, serialization.Json]) -> serialization.Json:
  """Version 1 had settings of GemNet-OC in `graph` and knew some datasets by name."""
  graph = dict(data.get("graph", {}))
  for name, default in (("symmetrize", "published"), ("qint_tags", [1, 2])):
    value = graph.pop(name, default)
    if value != default:
      raise ValueError(
        f"its graph settings have {name}={json.dumps(value)}, which no dataset decides "
        f"any more: delete the key there and give {name} to the backbone's settings."
      )
  for old, new in (
    ("max_neighbours", "max_neighbors"),
    ("max_neighbours_by_size", "max_neighbors_by_size"),
  ):
    if old in graph:
      graph[new] = graph.pop(old)
  upgraded = dict(data) | {"graph": graph}
  if constants := published.PRETRAINING.get(str(data.get("name"))):
    upgraded |= {
      "periodic_in_3d": constants.periodic_in_3d,
      "force_coefficient": constants.force_coefficient,
    }
  return upgraded
