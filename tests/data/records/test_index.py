"""Indices lie beside shards, fit them, and give random access to their records."""

import dataclasses
import logging
import os
import pathlib
import pickle
import shutil

from absl.testing import parameterized
import chex
import numpy as np
import pytest

from data.records import datasets as datasets_lib
from data.records import index
from data.records import index_file
from data.records import schema
from data.records import shards
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import size_tables
from tests import gemnet_graphs
from tests.jmp_hk.pipeline import corpus

_FIELDS = ("num_atoms", "width")


def _write(folder: pathlib.Path, structures, key="a key") -> pathlib.Path:
  shard = folder / shards.shard_name("train", 0, 1)
  with index.indexed_writer(shard, key, _FIELDS if key else ()) as append:
    for i, structure in enumerate(structures):
      append(
        schema.encode(structure),
        structure.num_atoms,
        (structure.num_atoms, i) if key else (),
      )
  return shard


def _molecules(count):
  return [corpus.molecule(3, i) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_an_index_says_where_records_lie_and_what_they_need(tmp_path, count):
  structures = _molecules(count)
  shard = _write(tmp_path, structures)
  found = index_file.load(shard)
  assert found.num_records == count
  content = shard.read_bytes()
  records = [
    shards.check_record(content[start:stop], shard, 0)
    for start, stop in zip(found.offsets[:-1], found.offsets[1:])
  ]
  assert records == list(shards.read_shard(shard))
  atoms = [structure.num_atoms for structure in structures]
  assert found.num_atoms.tolist() == atoms
  table = found.sizes["a key"]
  assert table.fields == _FIELDS
  assert table.rows.tolist() == [[n, i] for i, n in enumerate(atoms)]
  assert table.largest == (max(atoms, default=0), max(count - 1, 0))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_walk_over_the_records_gives_the_same_but_for_sizes(tmp_path, count):
  shard = _write(tmp_path, _molecules(count), key="")
  written, walked = index_file.load(shard), index.scan(shard)
  chex.assert_trees_all_equal(written.offsets, walked.offsets)
  chex.assert_trees_all_equal(written.num_atoms, walked.num_atoms)
  assert (written.checksum, written.last) == (walked.checksum, walked.last)


def test_equal_shards_have_equal_indices(tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    _write(tmp_path / name, _molecules(5))
  first, second = (
    index_file.path_of(tmp_path / name / shards.shard_name("train", 0, 1)).read_bytes()
    for name in ("a", "b")
  )
  assert first == second


def test_a_failed_writer_leaves_neither_shard_nor_index(tmp_path):
  with (
    pytest.raises(RuntimeError),
    index.indexed_writer(tmp_path / shards.shard_name("train", 0, 1)) as append,
  ):
    append(schema.encode(corpus.molecule(0, 0)), 3)
    raise RuntimeError
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("position", [0, 9, 13, 17, 60, 300, -1])
def test_a_damaged_index_is_made_anew_and_said(tmp_path, caplog, position):
  shard = _write(tmp_path, _molecules(9))
  path = index_file.path_of(shard)
  content = bytearray(path.read_bytes())
  content[position] ^= 16
  path.write_bytes(content)
  with pytest.raises(index_file.IndexFileError, match="train-00000-of-00001.index"):
    index_file.load(shard)
  with caplog.at_level(logging.WARNING):
    found, is_stored = index.open_index(shard)
  assert "new index" in caplog.text and is_stored
  chex.assert_trees_all_equal(found.offsets, index_file.load(shard).offsets)


@pytest.mark.parametrize("keep", [0, 5, 30, 200])
def test_a_truncated_index_is_made_anew(tmp_path, keep):
  shard = _write(tmp_path, _molecules(9))
  path = index_file.path_of(shard)
  path.write_bytes(path.read_bytes()[:keep])
  assert index.open_index(shard)[0].num_records == 9
  assert index_file.load(shard).num_records == 9


def test_the_index_of_another_shard_is_made_anew(tmp_path):
  shard = _write(tmp_path, _molecules(9))
  stale = index_file.path_of(shard).read_bytes()
  # Of the same length and the same number of atoms, with other coordinates.
  others = [dataclasses.replace(s, positions=s.positions + 1) for s in _molecules(9)]
  size = shard.stat().st_size
  _write(tmp_path, others)
  assert shard.stat().st_size == size
  fresh = index_file.load(shard).checksum
  index_file.path_of(shard).write_bytes(stale)
  found, _ = index.open_index(shard)
  assert found.checksum == fresh and not found.sizes


def _damage(path: pathlib.Path, position: int) -> None:
  content = bytearray(path.read_bytes())
  content[position] ^= 1
  path.write_bytes(content)


def test_parts_of_an_index_are_read_and_checked_by_themselves(tmp_path):
  shard = _write(tmp_path, _molecules(9))
  whole = index_file.load(shard)
  assert index_file.load_summary(shard) == index_file.summarize(whole)
  chex.assert_trees_all_equal(index_file.load_offsets(shard), whole.offsets)
  chex.assert_trees_all_equal(
    index_file.load_rows(shard, "a key"), whole.sizes["a key"].rows
  )
  with pytest.raises(index_file.IndexFileError, match="damaged"):
    index_file.load_rows(shard, "another key")
  _damage(index_file.path_of(shard), -1)  # In the last row of sizes.
  chex.assert_trees_all_equal(index_file.load_offsets(shard), whole.offsets)
  with pytest.raises(index_file.IndexFileError, match="checksum is wrong"):
    index_file.load_rows(shard, "a key")
  rows = 9 * len(_FIELDS) * 4
  _damage(index_file.path_of(shard), -rows - 9 * 4 - 1)  # In the size of the shard.
  assert index_file.load_summary(shard) == index_file.summarize(whole)
  with pytest.raises(index_file.IndexFileError, match="checksum is wrong"):
    index_file.load_offsets(shard)


class SourceTest(parameterized.TestCase):
  @pytest.fixture(autouse=True)
  def _data(self, tmp_path, datasets, corpus_directory):
    self.dataset = datasets[1]
    self.source = datasets[1].source
    self.everything = [
      schema.decode(record)
      for shard in self.source.shards
      for record in shards.read_shard(shard)
    ]
    self.folder = tmp_path / "copy"
    shutil.copytree(corpus_directory / "molecules", self.folder)

  def _copy(self):
    config = datasets_lib.DatasetConfig("molecules", str(self.folder))
    return datasets_lib.open_datasets([config], corpus.TASKS)[0].source

  @parameterized.parameters(
    ((),), ((0,),), ((44,),), ((7, 7, 3),), (tuple(range(44, -1, -1)),)
  )
  def test_structures_are_fetched_in_any_order(self, wanted):
    found = self.source.fetch(wanted)
    self.assertLen(found, len(wanted))
    for i, structure in zip(wanted, found):
      self.assertEqual(structure.record_id, self.everything[i].record_id)
      chex.assert_trees_all_equal(structure.positions, self.everything[i].positions)
      self.assertEqual(structure.energy, self.everything[i].energy)
      self.assertEqual(set(structure.targets), {"gap", "kind"})

  @parameterized.parameters(((45,),), ((-1,),), ((3, 99, 4),))
  def test_a_structure_that_is_not_there_is_an_error(self, wanted):
    with self.assertRaisesRegex(IndexError, "'molecules' has the structures 0 to 44"):
      self.source.fetch(wanted)

  def test_only_what_is_wanted_is_read(self):
    source = self._copy()
    source.fetch([])  # Indices are there from now on.
    for shard in source.shards[1:]:
      content = bytearray(shard.read_bytes())
      content[40] ^= 1  # In the first record, of which no index knows.
      shard.write_bytes(content)
    again = self._copy()
    self.assertLen(again.fetch(range(9)), 9)
    self.assertLen(again.fetch(range(10, 18)), 8)
    with self.assertRaisesRegex(
      shards.RecordFileError, "train-00001-of-00005.tfrecord is corrupt in record 0"
    ):
      again.fetch([3, 9])

  def test_a_pickled_source_reads_the_same_without_looking_at_indices(self):
    source = self._copy()
    stored = pickle.dumps(source)
    for path in self.folder.glob("*.index"):
      path.unlink()
    again = pickle.loads(stored)
    self.assertEqual(again.identity, source.identity)
    self.assertEqual(
      [s.record_id for s in again.fetch([40, 2])],
      [s.record_id for s in source.fetch([40, 2])],
    )

  def test_identity_follows_the_content(self):
    self.assertEqual(self._copy().identity, self.source.identity)
    first, second = sorted(self.folder.glob("*.tfrecord"))[:2]
    first.rename(self.folder / "x")
    second.rename(first)
    (self.folder / "x").rename(second)
    self.assertNotEqual(self._copy().identity, self.source.identity)

  def test_more_structures_than_promised_are_an_error(self):
    source = self._copy()
    with index.indexed_writer(source.shards[2]) as append:
      append(schema.encode(self.everything[0]), 3)
    with self.assertRaisesRegex(shards.RecordFileError, "promises 45.*hold 37"):
      self._copy().fetch([0])

  def test_a_label_that_one_structure_lacks_is_named(self):
    source = dataclasses.replace(self.source, labels=frozenset(["forces", "x"]))
    with self.assertRaisesRegex(shards.RecordFileError, "Record 4 .*no label 'x'"):
      source.fetch([4])

  def test_sizes_are_kept_beside_the_shards(self):
    source, graph = self._copy(), self.dataset.info.graph
    builder = gemnet_graphs.BUILDER
    self.assertIsNone(source.measured(builder, graph))
    rows = np.arange(495).reshape(45, 11) % 97
    source.remember(builder, graph, size_tables.ArraySizes(builder.budget_type, rows))
    dropping = dataclasses.replace(builder, edge_dropout=0.3)
    for found in (
      source.measured(dropping, graph),
      self._copy().measured(dropping, graph),
    ):
      chex.assert_trees_all_equal(found.values, rows.astype(np.int32))
      chex.assert_trees_all_equal(
        found.rows([44, 0, 9]), rows[[44, 0, 9]].astype(np.int32)
      )
      self.assertEqual(
        found.largest(), gemnet_graphs.Budget(*rows.max(axis=0).tolist())
      )
      self.assertEqual(found.column("num_atoms").tolist(), rows[:, 1].tolist())
    other = dataclasses.replace(graph, cutoff=3.0)
    self.assertIsNone(self._copy().measured(builder, other))
    self.assertIsNone(self._copy().measured(gemnet_graphs.UNION, graph))

  def test_damaged_parts_of_an_index_are_made_anew_or_said(self):
    source, graph = self._copy(), self.dataset.info.graph
    builder = gemnet_graphs.BUILDER
    rows = np.zeros((45, 11), np.int32)
    source.remember(builder, graph, size_tables.ArraySizes(builder.budget_type, rows))
    for shard in source.shards:
      _damage(index_file.path_of(shard), -1)
    again = self._copy()
    self.assertEqual(again.fetch([44])[0].record_id, self.everything[44].record_id)
    with self.assertRaisesRegex(
      shards.RecordFileError, "train-00000-of-00005.index is damaged.*data.convert"
    ):
      _ = again.measured(builder, graph).values
    for shard in source.shards:
      _damage(index_file.path_of(shard), -9 * 11 * 4 - 9 * 4 - 1)
    self.assertEqual(
      self._copy().fetch([44])[0].record_id, self.everything[44].record_id
    )
    self.assertEqual(index_file.load(source.shards[-1]).num_records, 9)

  def test_a_folder_that_cannot_be_written_is_read_all_the_same(self):
    source = self._copy()
    for shard in source.shards:
      index_file.path_of(shard).unlink(missing_ok=True)
      # Nothing can be written under this name, not even by root.
      index_file.path_of(shard).mkdir()
    self.assertEqual(source.identity, self.source.identity)
    again = pickle.loads(pickle.dumps(source))
    self.assertEqual(
      [s.record_id for s in again.fetch([40, 2])],
      [self.everything[i].record_id for i in (40, 2)],
    )
    self.assertTrue(all(index_file.path_of(shard).is_dir() for shard in source.shards))


def test_more_shards_than_are_kept_open_can_be_read(tmp_path):
  count = 300
  corpus.write(
    tmp_path / "molecules", "molecules", _molecules(count), 8.0, shards=count
  )
  source = corpus.open_all(tmp_path, ["molecules"])[0].source
  found = source.fetch(range(count))
  assert [s.record_id for s in found] == [f"molecules:{i}" for i in range(count)]
  if os.path.isdir("/proc/self/fd"):
    opened = {
      os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
    }
    assert 0 < len([path for path in opened if path.startswith(str(tmp_path))]) <= 128


def test_a_table_needs_the_fields_of_its_budgets():
  with pytest.raises(ValueError, match="num_qint"):
    size_tables.ArraySizes(gemnet_graphs.Budget, np.zeros((3, 4), np.int32))
  assert len(budget_lib.names(gemnet_graphs.Budget)) == 11
