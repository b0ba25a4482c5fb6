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


def _release(folder):
  """s2ef-total with labelled splits and a test split without labels."""
  for split, seeds in {"train": range(3), "val_id": range(3, 5)}.items():
    raw_files.write_oc22(
      folder / "s2ef-total" / split / "data.0000.lmdb",
      [raw_files.oc22_record(k) for k in seeds],
    )
  without = [
    {k: v for k, v in raw_files.oc22_record(9).items() if k not in ("y", "force")}
  ]
  raw_files.write_oc22(folder / "s2ef-total" / "test_id" / "data.0000.lmdb", without)
  return folder


def test_the_test_split_without_labels_is_left_out_and_said(convert, tmp_path, caplog):
  found, _ = convert("oc22", _release(tmp_path / "oc22"))
  assert {k: len(v) for k, v in found.items()} == {"train": 3, "val_id": 2}
  assert (
    "The records of test_id have neither energies nor forces and are left out."
    in caplog.text
  )


@pytest.mark.parametrize("source", ["oc22", "oc22/s2ef-total/test_id"])
def test_a_split_without_labels_that_is_asked_for(convert, tmp_path, source):
  _release(tmp_path / "oc22")
  with pytest.raises(base.PlanError, match="test_id have neither energies nor forces"):
    convert("oc22", tmp_path / source, "test_id")


def test_the_release_archive_is_unpacked_without_its_test_split(convert, tmp_path):
  (tmp_path / "raw").mkdir()
  archive = raw_files.write_tar(
    tmp_path / "raw" / "s2ef_total_train_val_test_lmdbs.tar.gz",
    _release(tmp_path / "data"),
    "w:gz",
  )
  found, info = convert("oc22", archive)
  assert {k: len(v) for k, v in found.items()} == {"train": 3, "val_id": 2}
  for structure, seed in zip(found["train"], range(3), strict=True):
    _assert_equals(structure, raw_files.oc22_record(seed))
  folder = tmp_path / f"{archive.name}.unpacked"
  assert [p.parent.name for p in sorted(folder.rglob("*.lmdb"))] == ["train", "val_id"]
  # The folder that holds the archive alone will do, and nothing is unpacked again.
  again, _ = convert("oc22", archive.parent)
  assert again.keys() == found.keys()


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
  record = pickled.Inert("torch_geometric.data.Data", {"pos": 1, "y": 2})
  assert pickled.attributes(record) == {"pos": 1, "y": 2}
