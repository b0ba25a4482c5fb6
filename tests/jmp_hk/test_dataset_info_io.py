"""`dataset_info.json` round-trips, is readable, and refuses what it cannot read."""

import dataclasses
import json
import subprocess
import sys

import pytest

from jmp_hk import dataset_info
from jmp_hk import dataset_info_io
from jmp_hk.graphs import config as graph_config

INFO = dataset_info.DatasetInfo(
  name="mine",
  graph=graph_config.GraphConfig(
    cutoff=19.0, max_neighbors_by_size=((200, 10), (300, 5)), symmetrize="union"
  ),
  num_structures={"train": 3, "val": 1},
  elements=(1, 8),
  size_histogram={2: 1, 3: 3},
  energy_references={1: -13.62222753701504, 8: -2041.8396277138045},
  energy_scale=24.901469505465872,
  force_scale=1 / 3,
  targets={"gap": dataset_info.TargetStatistics("eV", 0.1, 0.2, {1: 1.5}, 0)},
  units={"energy": "eV"},
  average_atoms=2.75,
  provenance={"splits": {"train": {"skipped_invalid": [], "note": "[\n1\n]"}}},
)


def test_round_trip_is_exact(tmp_path):
  (tmp_path / "dataset_info.json").write_text(
    dataset_info_io.to_json(INFO), encoding="utf-8"
  )
  assert dataset_info_io.load(tmp_path) == INFO
  assert dataset_info_io.load(tmp_path / "dataset_info.json") == INFO
  assert dataset_info_io.from_dict(dataset_info_io.to_dict(INFO)) == INFO


def test_lists_of_numbers_take_one_line():
  assert '"elements": [ 1, 8 ]' in dataset_info_io.to_json(INFO)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"schema_version": dataset_info.SCHEMA_VERSION + 1}, "update the program"),
    ({"schema_version": None}, "no schema_version"),
    ({"colour": 1}, r"does not know \['colour'\]"),
    ({"graph": {"cut": 1}}, "GraphConfig"),
    ({"elements": 5}, "wrong value"),
    ({"energy_scale": "far"}, "wrong value"),
  ],
)
def test_what_is_refused(change, message):
  values = dataset_info_io.to_dict(INFO) | change
  with pytest.raises(dataset_info_io.DatasetInfoError, match=message):
    dataset_info_io.from_json(json.dumps(values), "here")


def test_missing_field_and_missing_file(tmp_path):
  values = dataset_info_io.to_dict(INFO)
  del values["elements"]
  with pytest.raises(dataset_info_io.DatasetInfoError, match=r"lacks \['elements'\]"):
    dataset_info_io.from_dict(values)
  with pytest.raises(dataset_info_io.DatasetInfoError, match="unfinished"):
    dataset_info_io.load(tmp_path)
  with pytest.raises(dataset_info_io.DatasetInfoError, match="not JSON"):
    dataset_info_io.from_json("{")


def test_nan_is_not_written():
  with pytest.raises(ValueError):
    dataset_info_io.to_json(dataclasses.replace(INFO, energy_scale=float("nan")))


def test_conversion_needs_neither_tensorflow_nor_jax():
  code = (
    "import sys; from data import convert; from data.converters import registry; "
    "registry.converters(); assert not {'tensorflow', 'jax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
