"""A dataset and a structure with a label of every built-in kind."""

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.targets import config as tasks_lib

# One target of every kind that has a name of its own.
TARGETS = {
  target.kind: target
  for target in (
    tasks_lib.TargetConfig("energy", "energy"),
    tasks_lib.TargetConfig("forces", "direct_forces"),
    tasks_lib.TargetConfig("forces", "conservative_forces"),
    tasks_lib.TargetConfig("stress", "conservative_stress"),
    tasks_lib.TargetConfig("gap", "scalar"),
    tasks_lib.TargetConfig("extent", "spatial_extent"),
    tasks_lib.TargetConfig("velocity", "vector"),
    tasks_lib.TargetConfig("metal", "binary"),
    tasks_lib.TargetConfig("lattice", "multiclass", num_classes=3),
  )
}


def info(**changes) -> dataset_info.DatasetInfo:
  """Constants of the dataset; all scales differ."""
  fields = {
    "name": "mine",
    "graph": graph_config.GraphConfig(),
    "num_structures": {"train": 1},
    "elements": (1, 8),
    "size_histogram": {3: 1},
    "energy_references": {1: -13.6, 8: -2041.0},
    "energy_scale": 7.0,
    "force_scale": 0.5,
    "targets": {
      "gap": dataset_info.TargetStatistics("eV", -2.0, 3.0, {1: 0.25, 8: -1.5}),
      "extent": dataset_info.TargetStatistics("a0²", 12.0, 4.0),
      "velocity": dataset_info.TargetStatistics("Å/fs", 0.0, 0.25),
      "metal": dataset_info.TargetStatistics("", 0.0, 1.0, num_classes=2),
      "lattice": dataset_info.TargetStatistics("", 0.0, 1.0, num_classes=3),
    },
    "units": {"energy": "eV", "forces": "eV/Å", "gap": "eV"},
  }
  return dataset_info.DatasetInfo(**fields | changes)


def structure(seed: int = 0, **changes) -> structure_lib.Structure:
  """A cell of three atoms with random labels."""
  rng = np.random.default_rng(seed)
  fields = {
    "positions": rng.normal(size=(3, 3)),
    "atomic_numbers": np.array([8, 1, 1], np.int32),
    "cell": np.diag([9.0, 10.0, 11.0]),
    "pbc": np.ones(3, bool),
    "tags": np.full(3, 2, np.int32),
    "fixed": np.array([True, False, False]),
    "energy": float(rng.normal(-2068.0, 5.0)),
    "forces": rng.normal(size=(3, 3)),
    "stress": rng.normal(size=6),
    "targets": {
      "gap": np.float64(rng.normal()),
      "extent": np.float64(rng.normal()),
      "velocity": rng.normal(size=(3, 3)),
      "metal": np.float64(rng.integers(2)),
      "lattice": np.float64(rng.integers(3)),
    },
    "record_id": f"mine:{seed}",
  }
  return structure_lib.Structure(**fields | changes)
