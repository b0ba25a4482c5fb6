"""A converted split read through tf.data equals what the converter wrote."""

import dataclasses

import chex
import numpy as np
import pytest
import tensorflow as tf

from data import records
from data.records import shards
from jmp_hk import dataset_info
from tests.jmp_hk.pipeline import corpus

_ARRAYS = ("positions", "atomic_numbers", "cell", "pbc", "tags", "fixed", "forces")


def _by_id(dataset):
  elements = list(dataset.as_numpy_iterator())
  found = {element["record_id"].decode(): element for element in elements}
  assert len(found) == len(elements)
  return found


def test_every_structure_comes_once_as_it_was_written(datasets, corpus_directory):
  found = _by_id(records.tf_dataset(corpus_directory / "molecules"))
  written = datasets[1].source.fetch(range(45))
  assert set(found) == {structure.record_id for structure in written}
  for structure in written:
    element = found[structure.record_id]
    for name in _ARRAYS:
      value = getattr(structure, name)
      assert element[name].dtype == value.dtype
      chex.assert_trees_all_equal(element[name], value)
    assert element["energy"] == structure.energy
    assert element["target/gap"] == structure.targets["gap"]
    assert element["target/gap"].shape == ()


def test_one_shard_after_another_is_the_order_of_the_split(datasets, corpus_directory):
  dataset = records.tf_dataset(corpus_directory / "molecules", "train", 1)
  ids = [element["record_id"].decode() for element in dataset.as_numpy_iterator()]
  assert ids == [s.record_id for s in datasets[1].source.fetch(range(45))]


def test_shapes_are_known_so_that_batches_can_be_padded(corpus_directory):
  dataset = records.tf_dataset(corpus_directory / "slabs")
  assert dataset.element_spec["positions"].shape.as_list() == [None, 3]
  batch = next(dataset.padded_batch(4).as_numpy_iterator())
  assert batch["forces"].shape == (4, batch["atomic_numbers"].shape[1], 3)


def test_labels_that_a_structure_lacks_are_not_numbers(tmp_path):
  molecules = [corpus.molecule(0, i) for i in range(6)]
  charges = lambda s: np.arange(s.num_atoms * 2.0).reshape(-1, 2)
  molecules = [
    dataclasses.replace(
      s,
      energy=None if i < 2 else s.energy,
      stress=None if i < 4 else np.arange(6.0) + i,
      targets={} if i < 3 else s.targets | {"charges": charges(s)},
    )
    for i, s in enumerate(molecules)
  ]
  folder = corpus.write(tmp_path / "mine", "mine", molecules, 6.0, shards=2)
  missing = {"energy": 2, "stress": 4, "gap": 3, "kind": 3, "charges": 3}
  info = dataclasses.replace(
    dataset_info.load(folder),
    splits={"train": dataset_info.SplitFacts((1, 6, 8), missing)},
  )
  dataset_info.save(info, folder / dataset_info.FILE_NAME)
  found = _by_id(records.tf_dataset(folder))
  for structure in molecules:
    element = found[structure.record_id]
    for key, name in (
      ("energy", "energy"),
      ("stress", "stress"),
      ("target/gap", "gap"),
      ("atom_target/charges", "charges"),
    ):
      value = structure.label(name)
      if value is None:
        assert np.isnan(element[key]).all()
      else:
        chex.assert_trees_all_equal(
          np.asarray(element[key]), np.asarray(value, element[key].dtype)
        )
    assert element["atom_target/charges"].shape == (structure.num_atoms, 2)


def test_damage_is_an_error(tmp_path):
  folder = corpus.write(
    tmp_path / "mine", "mine", [corpus.molecule(0, i) for i in range(6)], 6.0
  )
  shard = shards.list_shards(folder, "train")[1]
  content = bytearray(shard.read_bytes())
  content[-20] ^= 1
  shard.write_bytes(content)
  with pytest.raises(tf.errors.DataLossError):
    list(records.tf_dataset(folder))
  with pytest.raises(shards.RecordFileError, match="'val'"):
    records.tf_dataset(folder, "val")
  with pytest.raises(dataset_info.DatasetInfoError):
    records.tf_dataset(tmp_path)
