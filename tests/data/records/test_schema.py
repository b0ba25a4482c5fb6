"""The record layout round-trips and is a `tf.train.Example`."""

import chex
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from data.records import schema
from data.records import shards
from jmp_hk import structure as structure_lib


@st.composite
def structures(draw, labels: tuple[bool, ...] | None = None):
  """Valid structures of any size and label set."""
  energy, forces, stress, extra = labels or draw(st.tuples(*[st.booleans()] * 4))
  n = draw(st.integers(1, 200))
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  targets = {}
  if extra:
    targets = {
      "scalar": np.float64(rng.normal()).reshape(()),
      "spectrum": rng.normal(size=7),
      "charges": rng.normal(size=(n, 1)).astype(np.float32),
    }
  return structure_lib.Structure(
    positions=rng.normal(size=(n, 3)).astype(np.float32) * 10,
    atomic_numbers=rng.integers(1, 119, n).astype(np.int32),
    cell=rng.normal(size=(3, 3)) * 20,
    pbc=rng.random(3) < 0.5,
    tags=rng.integers(0, 3, n).astype(np.int32),
    fixed=rng.random(n) < 0.5,
    energy=draw(st.floats(-1e7, 1e7)) if energy else None,
    forces=rng.normal(size=(n, 3)).astype(np.float32) if forces else None,
    stress=rng.normal(size=6) if stress else None,
    targets=targets,
    record_id=draw(st.text(max_size=300)),
  )


def assert_equal(a: structure_lib.Structure, b: structure_lib.Structure) -> None:
  for name in ("positions", "atomic_numbers", "cell", "pbc", "tags", "fixed"):
    chex.assert_trees_all_equal(getattr(a, name), getattr(b, name), custom_message=name)
    assert getattr(a, name).dtype == getattr(b, name).dtype, name
  assert a.energy == b.energy and a.record_id == b.record_id
  for name in ("forces", "stress"):
    assert (getattr(a, name) is None) == (getattr(b, name) is None)
    chex.assert_trees_all_equal(getattr(a, name), getattr(b, name))
  assert set(a.targets) == set(b.targets)
  for name, value in a.targets.items():
    chex.assert_trees_all_equal(value, b.targets[name])
    assert np.shape(value) == np.shape(b.targets[name])


@hypothesis.given(structures())
@hypothesis.settings(max_examples=40, deadline=None)
def test_round_trip(structure):
  # Stored values are float32-representable here, so nothing may change at all.
  assert_equal(schema.decode(schema.encode(structure)), structure)
  # Equal structures give equal bytes.
  assert schema.encode(structure) == schema.encode(structure)


@hypothesis.given(structures())
@hypothesis.settings(max_examples=20, deadline=None)
def test_is_a_tf_example(structure):
  serialized = schema.encode(structure)
  example = tf.train.Example.FromString(serialized)
  found = {k: v.bytes_list.value[0] for k, v in example.features.feature.items()}
  assert found == schema.to_features(structure)


def test_energies_keep_float64():
  structure = schema_example(energy=-2041.8396277138045e2)
  assert schema.decode(schema.encode(structure)).energy == -2041.8396277138045e2


@pytest.mark.parametrize("cut", [1, 10, 40, 200])
def test_cut_record_is_refused(cut):
  serialized = schema.encode(schema_example())
  with pytest.raises(schema.SchemaError, match="here"):
    schema.decode(serialized[:-cut], "here")


def schema_example(**labels) -> structure_lib.Structure:
  return structure_lib.Structure(
    np.zeros((2, 3)),
    np.array([1, 8]),
    np.zeros((3, 3)),
    np.zeros(3, bool),
    np.full(2, 2),
    np.zeros(2, bool),
    record_id="x:0",
    **labels,
  )


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 1023, 1024, 1025, 1027, 5000])
def test_checksum_is_tensorflows(size, tmp_path):
  data = np.random.default_rng(size).bytes(size)
  path = tmp_path / "train-00000-of-00001.tfrecord"
  with shards.shard_writer(path) as write:
    write(data)
  # TensorFlow checks both checksums of a record.
  assert [r.numpy() for r in tf.data.TFRecordDataset(str(path))] == [data]
  assert list(shards.read_shard(path)) == [data]
