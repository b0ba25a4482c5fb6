"""Shards are atomic, complete and checked."""

import pytest

from data.records import shards


def _write(folder, split, count, index, payload=b"abc"):
  path = folder / shards.shard_name(split, index, count)
  with shards.shard_writer(path) as write:
    write(payload)
    write(payload * 500)
  return path


def test_names_and_order(tmp_path):
  paths = [_write(tmp_path, "val_id", 12, i) for i in range(12)]
  _write(tmp_path, "val", 1, 0)
  assert paths[3].name == "val_id-00003-of-00012.tfrecord"
  assert shards.list_shards(tmp_path, "val_id") == paths
  assert shards.list_splits(tmp_path) == ["val", "val_id"]


def test_a_failed_writer_leaves_nothing(tmp_path):
  with (
    pytest.raises(RuntimeError),
    shards.shard_writer(tmp_path / shards.shard_name("train", 0, 1)) as write,
  ):
    write(b"abc")
    raise RuntimeError
  assert not list(tmp_path.iterdir())


def test_left_overs_of_one_split_are_removed(tmp_path):
  mine = tmp_path / ".val-00000-of-00002.tfrecord.123.tmp"
  other = tmp_path / ".val-x-00000-of-00002.tfrecord.123.tmp"
  mine.touch()
  other.touch()
  shards.remove_temporary_files(tmp_path, "val")
  assert not mine.exists() and other.exists()


def test_missing_shard_is_named(tmp_path):
  _write(tmp_path, "train", 3, 0)
  _write(tmp_path, "train", 3, 2)
  with pytest.raises(shards.RecordFileError, match="train-00001-of-00003"):
    shards.list_shards(tmp_path, "train")


def test_missing_split_names_the_others(tmp_path):
  _write(tmp_path, "train", 1, 0)
  with pytest.raises(shards.RecordFileError, match="'val'.*splits: train"):
    shards.list_shards(tmp_path, "val")


def test_two_sets_of_shards_are_refused(tmp_path):
  _write(tmp_path, "train", 1, 0)
  _write(tmp_path, "train", 2, 0)
  with pytest.raises(shards.RecordFileError, match="1 and 2 shards"):
    shards.list_shards(tmp_path, "train")


@pytest.mark.parametrize("keep", [1, 11, 13, 18, 30, 1500])
def test_truncated_shard(tmp_path, keep):
  path = _write(tmp_path, "train", 1, 0)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(shards.RecordFileError, match="truncated in record"):
    list(shards.read_shard(path))


@pytest.mark.parametrize("position", [0, 8, 13, 17, 100])
def test_flipped_bit(tmp_path, position):
  path = _write(tmp_path, "train", 1, 0)
  data = bytearray(path.read_bytes())
  data[position] ^= 4
  path.write_bytes(data)
  with pytest.raises(shards.RecordFileError, match="corrupt"):
    list(shards.read_shard(path))
