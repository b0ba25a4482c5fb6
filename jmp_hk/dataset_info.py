"""Constants derived from a converted dataset, stored with it and in checkpoints."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from jmp_hk.graphs import config as graph_config

SCHEMA_VERSION = 1


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


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What `dataset_info.json` holds; constants that data alone decide.

  Attributes:
    name: name of the dataset, e.g. "oc20".
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
    average_atoms: mean number of atoms over the training split.
    schema_version: version of the record layout.
    provenance: free-form facts: source files with checksums, command, what was
      skipped, fitted scale where a published one is used, …
  """

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
  average_atoms: float = 0.0
  schema_version: int = SCHEMA_VERSION
  provenance: Mapping[str, object] = dataclasses.field(default_factory=dict)

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
