"""Streaming JSON: NaN at any place of a chunk, damage."""

import gzip
import json

import pytest

from data.conversion import base
from data.formats import json_stream


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_nan_becomes_none_wherever_chunks_end(tmp_path, monkeypatch, chunk, name):
  monkeypatch.setattr(json_stream, "_CHUNK_BYTES", chunk)
  nan, inf = float("nan"), float("inf")
  values = [{"x": [nan, 1.5, -inf, inf], "s": "NaN, Infinity"}, nan, {"y": nan}] * 20
  path = tmp_path / name
  with gzip.open(path, "wt") if name.endswith("gz") else open(path, "w") as file:
    json.dump({"data": values}, file)
  expected = [{"x": [None, 1.5, None, None], "s": "NaN, Infinity"}, None, {"y": None}]
  assert list(json_stream.items(path, "data.item")) == expected * 20


def test_damage_says_how_far_reading_came(tmp_path):
  path = tmp_path / "a.json"
  path.write_text(json.dumps({"data": list(range(5))})[:-6])
  with pytest.raises(base.RawDataError, match="a.json cannot be read.* after . items"):
    list(json_stream.items(path, "data.item"))
  path.write_text("{}")
  with pytest.raises(base.RawDataError, match="nothing at 'data'"):
    json_stream.first(path, "data")
