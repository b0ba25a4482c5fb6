import itertools

import chex
import pytest

from data.records import shard_reader
from data.records import shards
from jmp_hk.pipeline import random_streams
from tests.jmp_hk.pipeline import corpus


def _ids(iterator, count):
  return [s.record_id for s in itertools.islice(iterator, count)]


def _source(dataset, **kwargs):
  settings = {"seed": 1, "shuffle_buffer": 7, "shards_per_group": 2} | kwargs
  return shard_reader.ShardReader(dataset.source, **settings)


def test_every_epoch_has_every_structure_once_in_another_order(datasets):
  ids = _ids(_source(datasets[1]).shuffled(), 3 * 45)
  epochs = [ids[i : i + 45] for i in (0, 45, 90)]
  everything = {f"molecules:{i}" for i in range(45)}
  assert all(set(epoch) == everything for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])


def test_order_follows_the_seed(datasets):
  first, again = (_ids(_source(datasets[1]).shuffled(), 100) for _ in range(2))
  assert first == again
  assert first != _ids(_source(datasets[1], seed=2).shuffled(), 100)
  seeds = {random_streams.stream_seed(s, name) for s in (0, 1) for name in ("a", "b")}
  assert len(seeds) == 4


@pytest.mark.parametrize("start", [1, 44, 45, 63, 64, 117])
def test_stream_can_be_entered_anywhere(datasets, start):
  whole = _ids(_source(datasets[1]).shuffled(), 150)
  assert _ids(_source(datasets[1]).shuffled(start), 20) == whole[start : start + 20]


def test_structures_come_back_as_written(datasets):
  written = corpus.molecule(0, 0)
  read = next(_source(datasets[1]).ordered())
  assert read.record_id == written.record_id and read.energy == written.energy
  for name in ("positions", "forces", "atomic_numbers", "cell", "pbc", "tags"):
    chex.assert_trees_all_equal(getattr(read, name), getattr(written, name))
  assert read.targets["gap"] == written.targets["gap"]


def test_ordered_pass_and_stride(datasets):
  ids = _ids(_source(datasets[1]).ordered(), 999)
  assert ids == [f"molecules:{i}" for shard in range(5) for i in range(shard, 45, 5)]
  assert _ids(_source(datasets[1]).ordered(stride=10), 999) == ids[::10]
  assert len(set(_ids(_source(datasets[1]).spread(12), 99))) == 12


def test_records_are_counted_and_damage_is_named(tmp_path):
  dataset = corpus.make(tmp_path, molecules=10)[1]
  assert [shard_reader.count_records(path) for path in dataset.source.shards] == [2] * 5
  content = bytearray(dataset.source.shards[3].read_bytes())
  content[-20] ^= 1
  dataset.source.shards[3].write_bytes(content)
  with pytest.raises(shards.RecordFileError, match="'molecules'.*'train'"):
    list(_source(dataset).ordered())
  dataset.source.shards[3].write_bytes(content[:5])
  with pytest.raises(shards.RecordFileError, match="truncated"):
    shard_reader.count_records(dataset.source.shards[3])
