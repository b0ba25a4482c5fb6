"""OC22: LMDB of pickled PyTorch Geometric records, read without either."""

import pickle
import subprocess
import sys

import chex
import lmdb
import numpy as np
import pytest

from data.conversion import base
from data.formats import pickled
from jmp_hk import structure as structure_lib
from tests import shared_files
from tests.data import raw_files


def _assert_equals(structure, record):
  chex.assert_trees_all_equal(structure.positions, record["pos"])
  chex.assert_trees_all_equal(structure.atomic_numbers, record["atomic_numbers"])
  chex.assert_trees_all_equal(structure.cell, np.float64(record["cell"]).reshape(3, 3))
  chex.assert_trees_all_equal(structure.forces, record["force"])
  chex.assert_trees_all_equal(structure.tags, record["tags"])
  chex.assert_trees_all_equal(structure.fixed, record["fixed"] == 1)
  assert structure.energy == record["y"] and structure.pbc.all()


def test_self_made_release(convert, tmp_path):
  splits = {"train": range(5), "val_id": range(5, 7)}
  for split, seeds in splits.items():
    raw_files.write_oc22(
      tmp_path / "s2ef-total" / split / "data.0000.lmdb",
      [raw_files.oc22_record(k) for k in seeds],
    )
  found, info = convert("oc22", tmp_path / "s2ef-total")
  for split, seeds in splits.items():
    for structure, seed in zip(found[split], seeds, strict=True):
      _assert_equals(structure, raw_files.oc22_record(seed))
  assert found["val_id"][1].record_id == "val_id/data.0000.lmdb:1:sid6,fid7"
  assert info.energy_scale == 25.229595396538468 and info.evaluate_free_atoms_only


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_sample_equals_the_pickled_list(convert, split):
  source = shared_files.shared_file("samples", "oc22", "lmdb_records", f"{split}.lmdb")
  other = shared_files.shared_file("samples", "oc22", f"oc22_pickle16_{split}.pkl")
  found, _ = convert("oc22", source, split)
  records = [pickled.attributes(r) for r in pickled.load(other.read_bytes())]
  for structure, record in zip(found[split], records, strict=True):
    _assert_equals(structure, record)
  assert len(records) == 16


@pytest.mark.parametrize(
  "change, reason",
  [
    ({"y": float("nan")}, "finite energy"),
    ({"force": None}, "key force or forces"),
    ({"pos": np.zeros((4, 3), np.float32)}, "positions of shape"),
    ({"atomic_numbers": np.array([8, 8, 8, 8, 8, 119], np.float32)}, "found 119"),
    ({"atomic_numbers": np.array([8, 8, 8, 8, 8, 1.5], np.float32)}, "fractions"),
    ({"cell": np.zeros((1, 3, 3), np.float32)}, "zero volume"),
  ],
)
def test_bad_record_is_named(convert, tmp_path, change, reason):
  records = [raw_files.oc22_record(0), raw_files.oc22_record(1) | change]
  source = raw_files.write_oc22(tmp_path / "data.0000.lmdb", records)
  with pytest.raises(structure_lib.InvalidStructureError, match=reason) as caught:
    convert("oc22", source, "train")
  assert "data.0000.lmdb:1" in str(caught.value)


def test_missing_key_and_corrupt_value(convert, tmp_path):
  source = raw_files.write_oc22(tmp_path / "a.lmdb", [raw_files.oc22_record(0)] * 3)
  with (
    lmdb.open(str(source), subdir=False) as env,
    env.begin(write=True) as transaction,
  ):
    transaction.put(b"1", transaction.get(b"1")[:-30])
    transaction.delete(b"2")
  with pytest.raises(
    structure_lib.InvalidStructureError, match="a.lmdb:1: not a readable"
  ):
    convert("oc22", source, "train")


def test_truncated_and_foreign_files(convert, tmp_path):
  source = raw_files.write_oc22(tmp_path / "a.lmdb", [raw_files.oc22_record(0)] * 50)
  source.write_bytes(source.read_bytes()[:20000])
  with pytest.raises(base.RawDataError, match="a.lmdb is truncated: expected"):
    convert("oc22", source, "train")
  source.write_bytes(b"no database" * 1000)
  with pytest.raises(base.RawDataError, match="not a readable LMDB"):
    convert("oc22", source, "train")


def test_pickles_run_no_code(tmp_path):
  victim = tmp_path / "victim"

  class Attack:
    def __reduce__(self):
      return open, (str(victim), "w")

  data = pickle.dumps({"y": 1.0, "pos": Attack()})
  assert isinstance(pickled.load_record(data)["pos"], pickled.Inert)
  assert not victim.exists()


def test_reading_imports_no_torch(tmp_path):
  path = tmp_path / "record.pkl"
  path.write_bytes(raw_files.pickle_data(raw_files.oc22_record(0)))
  code = (
    "import sys; from data.formats import pickled; "
    f"print(pickled.load_record(open({str(path)!r}, 'rb').read())['pos'].shape); "
    "assert not {'torch', 'torch_geometric', 'tensorflow', 'jax'} & set(sys.modules)"
  )
  out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
  assert out.stdout.split() == [b"(6,", b"3)"]


def test_records_of_older_torch_geometric():
  # Version 1 kept the attributes in the object itself.
  kind = type("Data", (pickled.Inert,), {})
  record = kind()
  record.__setstate__({"pos": 1, "y": 2})
  assert pickled.attributes(record) == {"pos": 1, "y": 2}
