"""Tiny converted datasets for the pipeline's tests."""

import dataclasses
import pathlib

import numpy as np

from data.records import datasets as datasets_lib
from data.records import schema
from data.records import shards as shards_lib
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.pipeline import microbatches
from jmp_hk.targets import config as tasks
from tests import gemnet_graphs

REFERENCES = {1: -1.5, 6: -30.25, 8: -70.0, 29: -3.0}
BUDGET = gemnet_graphs.Budget(12, 64, 700, 1400, 480, 200, 40, 20, 8, 4)
TASKS = tuple(tasks.pretraining_task(name) for name in ("slabs", "molecules"))
SPEC = microbatches.BatchSpec(
  TASKS, dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=0.1), BUDGET
)


def molecule(seed: int, index: int) -> structure_lib.Structure:
  """A random molecule of 3 to 8 atoms."""
  rng = np.random.default_rng([seed, index])
  n = int(rng.integers(3, 9))
  return structure_lib.Structure(
    positions=(rng.uniform(-2.0, 2.0, (n, 3)) + 5.0 * index % 3).astype(np.float32),
    atomic_numbers=rng.choice([1, 6, 8], n).astype(np.int32),
    cell=np.zeros((3, 3)),
    pbc=np.zeros(3, bool),
    tags=np.full(n, 2, np.int32),
    fixed=np.zeros(n, bool),
    energy=float(rng.normal(-100.0, 10.0)),
    forces=rng.normal(size=(n, 3)).astype(np.float32),
    targets={"gap": np.float64(rng.normal()), "kind": np.float64(index % 3)},
    record_id=f"molecules:{index}",
  )


def slab(seed: int, index: int) -> structure_lib.Structure:
  """A random periodic structure of 6 to 12 atoms."""
  rng = np.random.default_rng([seed, index, 1])
  n = int(rng.integers(6, 13))
  cell = np.diag([5.0, 5.5, 15.0])
  positions = rng.uniform(0, 1, (n, 3)) @ np.diag([5.0, 5.5, 6.0])
  return structure_lib.Structure(
    positions=positions.astype(np.float32),
    atomic_numbers=rng.choice([8, 29], n).astype(np.int32),
    cell=cell,
    pbc=np.ones(3, bool),
    tags=rng.integers(0, 3, n).astype(np.int32),
    fixed=np.zeros(n, bool),
    energy=float(rng.normal(-50.0, 3.0)),
    forces=rng.normal(size=(n, 3)).astype(np.float32),
    record_id=f"slabs:{index}",
  )


def write(
  directory: pathlib.Path,
  name: str,
  structures,
  cutoff: float,
  shards: int = 3,
  split: str = "train",
) -> pathlib.Path:
  """Writes one split as the converter would."""
  directory.mkdir(parents=True, exist_ok=True)
  for shard in range(shards):
    path = directory / shards_lib.shard_name(split, shard, shards)
    with shards_lib.shard_writer(path) as append:
      for structure in structures[shard::shards]:
        append(schema.encode(structure))
  sizes = [structure.num_atoms for structure in structures]
  statistics = dataset_info.TargetStatistics
  info = dataset_info.DatasetInfo(
    name=name,
    graph=graph_config.GraphConfig(cutoff=cutoff, max_neighbors=12),
    num_structures={split: len(structures)},
    elements=(1, 6, 8, 29),
    size_histogram={n: sizes.count(n) for n in sorted(set(sizes))},
    energy_references=REFERENCES,
    energy_scale=2.5,
    force_scale=0.5,
    targets={
      "gap": statistics("eV", 0.25, 2.0, {1: 0.5, 6: 1.0, 8: 2.0}),
      "kind": statistics("", 0.0, 1.0, {}, 3),
    },
  )
  dataset_info.save(info, directory / dataset_info.FILE_NAME)
  return directory


def make(directory: pathlib.Path, slabs: int = 20, molecules: int = 45):
  """The two datasets of `TASKS`, opened."""
  write(directory / "slabs", "slabs", [slab(0, i) for i in range(slabs)], 6.0)
  write(
    directory / "molecules",
    "molecules",
    [molecule(0, i) for i in range(molecules)],
    8.0,
    shards=5,
  )
  return open_all(directory)


def open_all(directory: pathlib.Path, names=("slabs", "molecules"), weights=None):
  """Opens datasets that `make` wrote."""
  configs = [
    datasets_lib.DatasetConfig(name, str(directory / name), weight)
    for name, weight in zip(names, weights or [None] * len(names))
  ]
  return datasets_lib.open_datasets(configs, TASKS)
