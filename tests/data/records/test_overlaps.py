"""Records that are in two splits are refused, equal structures are warned of."""

import dataclasses
import logging

import numpy as np
import pytest

from data.records import overlaps
from data.records import schema
from data.records import shards
from jmp_hk import structure as structure_lib


def _structure(seed: int, record_id: str = "") -> structure_lib.Structure:
  rng = np.random.default_rng(seed)
  return structure_lib.molecule(
    rng.normal(size=(3, 3)).astype(np.float32),
    np.array([8, 1, 1]),
    record_id or f"raw:{seed}",
    energy=float(seed),
  )


def _split(folder, name: str, *structures) -> shards.Split:
  path = folder / shards.shard_name(name, 0, 1)
  with shards.shard_writer(path) as write:
    for structure in structures:
      write(schema.encode(structure))
  return shards.Split("mine", name, (path,), len(structures))


def test_splits_without_common_structures(tmp_path, caplog):
  training = _split(tmp_path, "train", *map(_structure, range(5)))
  # The same atoms elsewhere, or others at the same places, are other structures.
  moved = _structure(0)
  moved = dataclasses.replace(moved, positions=moved.positions + np.float32(1e-5))
  others = dataclasses.replace(_structure(1), atomic_numbers=np.array([8, 1, 2]))
  overlaps.check(training, _split(tmp_path, "val", moved, others, _structure(7)))
  assert not caplog.records


def test_a_record_in_two_splits_is_refused(tmp_path):
  training = _split(tmp_path, "train", *map(_structure, range(5)))
  held_out = _split(tmp_path, "test", _structure(8), _structure(3), _structure(4))
  message = "2 records of 'mine' are in the split 'train' and in 'test' .first: raw:3"
  with pytest.raises(overlaps.OverlapError, match=message):
    overlaps.check(training, held_out)


def test_equal_structures_of_other_records_are_warned_of(tmp_path, caplog):
  training = _split(tmp_path, "train", *map(_structure, range(5)))
  held_out = _split(tmp_path, "val", _structure(3, "copy:0"), _structure(9))
  with caplog.at_level(logging.WARNING):
    overlaps.check(training, held_out)
  assert (
    "1 of 2 structures in the split 'val'" in caplog.text and "copy:0" in caplog.text
  )


def test_large_datasets_are_not_read(tmp_path):
  training = _split(tmp_path, "train", _structure(0))
  held_out = _split(tmp_path, "val", _structure(0))
  large = dataclasses.replace(training, num_structures=overlaps.MOST_COMPARED)
  overlaps.check(large, held_out)


def test_what_is_no_structure_is_named(tmp_path):
  training = _split(tmp_path, "train", _structure(0))
  path = tmp_path / shards.shard_name("val", 0, 1)
  with shards.shard_writer(path) as write:
    write(b"something else")
  with pytest.raises(shards.RecordFileError, match="Record 0 of shard .*val-00000"):
    overlaps.check(training, shards.Split("mine", "val", (path,), 1))
