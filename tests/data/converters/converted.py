"""Runs a converter as `data.convert` does and reads back what it wrote."""

import json
import pathlib
from typing import Any

import numpy as np

from data.conversion import registry
from data.conversion import runner
from data.records import schema
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib

Splits = dict[str, list[structure_lib.Structure]]


def convert(
  name: str, source: pathlib.Path, output: pathlib.Path, **options: Any
) -> tuple[dataset_info.DatasetInfo, Splits]:
  """Converts `source` into `output`.

  Returns:
    The dataset's info and the stored structures by split, in the order of the shards.
  """
  converter = registry.make(name, source, options=options)
  info = runner.convert(converter, output, progress=False)
  splits = {
    split: [
      schema.decode(record)
      for shard in shards.list_shards(output, split)
      for record in shards.read_shard(shard)
    ]
    for split in shards.list_splits(output)
  }
  return info, splits


def sources(output: pathlib.Path, split: str) -> list[dict[str, Any]]:
  """The raw files of a split as the list beside the shards has them."""
  text = (output / f"{split}.sources.json").read_text(encoding="utf-8")
  return json.loads(text)["files"]


def plan(name: str, source: pathlib.Path, **options: Any) -> dict[str, list[Any]]:
  """Payloads of all units by split, without converting."""
  by_split: dict[str, list[Any]] = {}
  for unit in registry.make(name, source, options=options).units():
    by_split.setdefault(unit.split, []).append(unit.payload)
  return by_split


def hydrogen_bonds(
  structures: list[structure_lib.Structure],
) -> tuple[np.ndarray, np.ndarray]:
  """Lengths (Å) of all bonds to hydrogen, and the force (eV/Å) on it away from them.

  The sign and unit of forces show in their relation: a spring of 10 to 30 eV/Å².
  """
  lengths, pushes = [], []
  for structure in structures:
    positions = structure.positions.astype(np.float64)
    for atom in np.flatnonzero(structure.atomic_numbers == 1):
      vectors = positions[atom] - positions
      distances = np.linalg.norm(vectors, axis=1)
      distances[atom] = np.inf
      partner = int(np.argmin(distances))
      lengths.append(distances[partner])
      pushes.append(structure.forces[atom] @ vectors[partner] / distances[partner])
  return np.array(lengths), np.array(pushes)
