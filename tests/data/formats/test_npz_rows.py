"""Streaming rows of .npz files."""

import chex
import numpy as np
import pytest

from data.conversion import base
from data.formats import npz_rows


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("chunk", [1, 500, 1 << 20])
def test_rows_equal_numpys(tmp_path, monkeypatch, save, chunk):
  monkeypatch.setattr(npz_rows, "_CHUNK_BYTES", chunk)
  rng = np.random.default_rng(0)
  arrays = {
    "a": rng.normal(size=(50, 4, 3)),
    "b": rng.integers(0, 9, 50),
    "c": rng.normal(size=(50, 1)).astype(np.float32),
    "unused": np.zeros(7),
  }
  path = tmp_path / "x.npz"
  save(path, **arrays)
  wanted = [0, 3, 4, 17, 48]
  found = list(npz_rows.rows(path, ["a", "b", "c"], wanted))
  assert [index for index, _ in found] == wanted
  for index, row in found:
    for key in ("a", "b", "c"):
      chex.assert_trees_all_equal(row[key], arrays[key][index])
  chex.assert_trees_all_equal(npz_rows.array(path, "b"), arrays["b"])
  assert npz_rows.shapes(path, ["a", "unused"]) == {"a": (50, 4, 3), "unused": (7,)}
  assert not list(npz_rows.rows(path, ["a"], []))


def test_what_cannot_be_streamed(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, f=np.asfortranarray(np.zeros((3, 4))), o=np.array([None, {}]))
  for key in "fo":
    with pytest.raises(base.RawDataError, match=f"{key!r} is not a plain row-major"):
      npz_rows.array(path, key)
  with pytest.raises(base.RawDataError, match=r"no array 'z'; it has \['f', 'o'\]"):
    npz_rows.shapes(path, ["z"])
  np.savez(path, a=np.zeros((3, 2)))
  with pytest.raises(base.RawDataError, match="has 3 rows, row 5 is wanted"):
    list(npz_rows.rows(path, ["a"], [1, 5]))
