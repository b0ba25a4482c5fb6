"""LMDB files: as the library reads them, and without its crashes."""

import pathlib
import random

import lmdb
import pytest

from data.conversion import base
from data.formats import lmdb_file
from data.formats import lmdb_records
from tests.data import raw_files


def _write(path: pathlib.Path, values: dict[bytes, bytes], delete: int = 0) -> None:
  """Writes values in several transactions, so that pages are used again."""
  with lmdb.open(str(path), subdir=False, map_size=1 << 28, lock=False) as env:
    for start in range(0, len(values), 500):
      with env.begin(write=True) as transaction:
        for key in list(values)[start : start + 500]:
          transaction.put(key, values[key])
    with env.begin(write=True) as transaction:
      for key in list(values)[:delete]:
        transaction.delete(key)


@pytest.mark.parametrize(
  "count, delete", [(0, 0), (1, 0), (1, 1), (20, 3), (5000, 700)]
)
def test_values_are_those_of_the_library(tmp_path, count, delete):
  rng = random.Random(count)
  sizes = (0, 1, 100, 2000, 3000, 20_000)
  values = {
    str(i).encode(): rng.randbytes(rng.choice(sizes) if count < 100 else 100)
    for i in range(count)
  }
  _write(tmp_path / "a.lmdb", values, delete)
  with (
    lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, lock=False) as env,
    env.begin() as transaction,
  ):
    expected = {bytes(key): bytes(value) for key, value in transaction.cursor()}
  with lmdb_file.LmdbFile(tmp_path / "a.lmdb") as file:
    assert list(file.keys()) == list(expected)
    assert {key: file.get(key) for key in file.keys()} == expected  # noqa: SIM118
    assert file.get(b"no such key") is None and file.get(b"") is None


def test_a_damaged_file_is_refused_or_read(tmp_path):
  path = raw_files.write_oc22(
    tmp_path / "a.lmdb", [raw_files.oc22_record(seed) for seed in range(40)]
  )
  good = path.read_bytes()
  rng, refused = random.Random(0), 0
  for _ in range(150):
    data = bytearray(good)
    # Most bytes are values; the first ones of a page decide where they are looked for.
    for _ in range(rng.choice((1, 3))):
      page = rng.randrange(len(data) // 4096) * 4096
      data[page + rng.randrange(rng.choice((16, 200, 4096)))] = rng.randrange(256)
    path.write_bytes(data)
    try:
      count = min(lmdb_records.count_records(path), 100)
      for _ in lmdb_records.read(path, "a.lmdb", 0, count):
        pass
    except base.RawDataError as error:
      assert "a.lmdb" in str(error)
      refused += 1
  assert refused > 15


def test_a_tree_that_leads_in_a_circle_ends(tmp_path):
  path = tmp_path / "a.lmdb"
  _write(path, {str(i).encode(): bytes(100) for i in range(2000)})
  data = bytearray(path.read_bytes())
  branches = [
    start
    for start in range(8192, len(data), 4096)
    if data[start + 10] == 1  # flags of a branch
  ]
  for start in branches:
    number = data[start : start + 8]
    lower = int.from_bytes(data[start + 12 : start + 14], "little")
    for place in range(start + 16, start + lower, 2):
      entry = start + int.from_bytes(data[place : place + 2], "little")
      data[entry : entry + 4] = number[:4]  # Every child is the page itself.
  path.write_bytes(data)
  with lmdb_file.LmdbFile(path) as file:
    with pytest.raises(base.RawDataError, match="more than 16 levels"):
      file.get(b"100")
    with pytest.raises(base.RawDataError, match="more pages than the file"):
      list(file.keys())


def test_an_impossible_number_of_records(tmp_path):
  path = raw_files.write_oc22(tmp_path / "a.lmdb", [raw_files.oc22_record(0)])
  count = b"\x80\x04\x8a\x06" + (10**13).to_bytes(6, "little") + b"."
  with (
    lmdb.open(str(path), subdir=False, lock=False) as env,
    env.begin(write=True) as transaction,
  ):
    transaction.put(b"length", count)
  with pytest.raises(base.RawDataError, match="found 'length' 10000000000000"):
    lmdb_records.count_records(path)
