"""`dataset_info.json` round-trips, is readable, and refuses what it cannot read."""

import dataclasses
import json
import subprocess
import sys

import pytest

from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk.graphs import config as graph_config

INFO = dataset_info.DatasetInfo(
  name="mine",
  graph=graph_config.GraphConfig(
    cutoff=19.0, max_neighbors_by_size=((200, 10), (300, 5))
  ),
  num_structures={"train": 3, "val": 1},
  elements=(1, 8),
  size_histogram={2: 1, 3: 3},
  energy_references={1: -13.62222753701504, 8: -2041.8396277138045},
  energy_scale=24.901469505465872,
  force_scale=1 / 3,
  targets={"gap": dataset_info.TargetStatistics("eV", 0.1, 0.2, {1: 1.5}, 0)},
  units={"energy": "eV"},
  periodic_in_3d=True,
  force_coefficient=12.5,
  average_atoms=2.75,
  provenance={"splits": {"train": {"skipped_invalid": [], "note": "[\n1\n]"}}},
)


def _read(values: serialization.Json) -> dataset_info.DatasetInfo:
  return serialization.from_json(dataset_info.DatasetInfo, values)


def _version_1(name: str, **graph: object) -> serialization.Json:
  """What version 1 of the program wrote for such a dataset."""
  values = serialization.to_json(INFO)
  for key in ("periodic_in_3d", "force_coefficient"):
    del values[key]
  graph = {
    "cutoff": 19.0,
    "max_neighbours": 30,
    "max_neighbours_by_size": [[200, 10], [300, 5]],
    "symmetrize": "published",
    "qint_tags": [1, 2],
  } | graph
  return values | {"name": name, "schema_version": 1, "graph": graph}


def test_round_trip_is_exact(tmp_path):
  dataset_info.save(INFO, tmp_path / "dataset_info.json")
  assert dataset_info.load(tmp_path) == INFO
  assert dataset_info.load(tmp_path / "dataset_info.json") == INFO
  assert _read(serialization.to_json(INFO)) == INFO


def test_lists_of_numbers_take_one_line(tmp_path):
  dataset_info.save(INFO, tmp_path / "dataset_info.json")
  lines = (tmp_path / "dataset_info.json").read_text(encoding="utf-8").splitlines()
  assert '  "elements": [1, 8],' in lines


@pytest.mark.parametrize(
  "change, message",
  [
    ({"schema_version": dataset_info.SCHEMA_VERSION + 1}, "update the program"),
    ({"schema_version": None}, "no schema_version"),
    ({"colour": 1}, "has no 'colour'"),
    ({"graph": {"cut": 1}}, "DatasetInfo.graph has no 'cut'"),
    ({"elements": 5}, "DatasetInfo.elements should be a list"),
    ({"energy_scale": "far"}, "DatasetInfo.energy_scale should be a number"),
    ({"energy_scale": 0.0}, "energy_scale must be positive"),
    ({"force_scale": -1.0}, "force_scale must be positive"),
    ({"energy_scale": True}, "energy_scale should be a number"),
    ({"energy_references": {"1": "nan"}}, "energy_references.1 should be a number"),
    ({"energy_references": {"0": 1.0}}, "energy_references must be atomic numbers"),
    ({"force_coefficient": -2.0}, "force_coefficient must be positive"),
    ({"elements": [8, 1]}, "elements must ascend"),
    ({"elements": [1, 119]}, "elements must be atomic numbers from 1 to 118, got 119"),
    ({"num_structures": {"train": 2.0}}, "num_structures.train should be of type int"),
    ({"num_structures": {"train": 3, "val": 2}}, "num_structures has 5.*has 4"),
    ({"num_structures": {"train": 5, "val": -1}}, r"num_structures\['val'\] must not"),
    ({"size_histogram": {"0": 4}}, "size_histogram has structures of 0 atoms"),
    ({"average_atoms": 4.0}, "average_atoms must be from 0 to 3"),
    ({"splits": {"train": {"elements": [1, 6]}}}, "has elements .6., which"),
    (
      {"splits": {"train": {"elements": [1], "missing": {"gap": 9}}}},
      "missing.'gap'. is 9, but num_structures has 3",
    ),
    ({"graph": {"cutoff": 0}}, "graph: cutoff must be a number, above 0"),
    (
      {"targets": {"gap": {"unit": "eV", "mean": 0.0, "std": -1.0}}},
      "targets.gap: std must be positive",
    ),
    (
      {"targets": {"gap": {"unit": "eV", "mean": 0, "std": 1, "references": [1]}}},
      "targets.gap.references should be a mapping",
    ),
  ],
)
def test_what_is_refused(change, message, tmp_path):
  path = tmp_path / "dataset_info.json"
  path.write_text(json.dumps(serialization.to_json(INFO) | change))
  with pytest.raises(dataset_info.DatasetInfoError, match=message) as error:
    dataset_info.load(path)
  assert str(path) in str(error.value)


def test_a_changed_digit_is_noticed(tmp_path):
  path = tmp_path / "dataset_info.json"
  dataset_info.save(INFO, path)
  path.write_text(path.read_text().replace("24.90", "24.91"))
  with pytest.raises(dataset_info.DatasetInfoError, match="does not fit its checksum"):
    dataset_info.load(path)


def test_missing_field_and_missing_file(tmp_path):
  values = serialization.to_json(INFO)
  del values["elements"]
  with pytest.raises(serialization.SerializationError, match="lacks 'elements'"):
    _read(values)
  with pytest.raises(dataset_info.DatasetInfoError, match="unfinished"):
    dataset_info.load(tmp_path)
  with pytest.raises(dataset_info.DatasetInfoError, match="python -m data.convert"):
    dataset_info.load(tmp_path / "nowhere.json")
  (tmp_path / "dataset_info.json").write_text("{")
  with pytest.raises(dataset_info.DatasetInfoError, match=r"dataset_info.json"):
    dataset_info.load(tmp_path)


def test_version_1_is_read():
  # A dataset of one's own is neither periodic across vacua nor has it a published
  # force coefficient; everything else is as it was.
  expected = dataclasses.replace(INFO, periodic_in_3d=False, force_coefficient=None)
  assert _read(_version_1("mine")) == expected


def test_version_1_knew_datasets_by_name():
  oc20, ani1x = _read(_version_1("oc20")), _read(_version_1("ani1x"))
  assert (oc20.periodic_in_3d, oc20.force_coefficient) == (True, 73.0)
  assert (ani1x.periodic_in_3d, ani1x.force_coefficient) == (False, 15.0)


@pytest.mark.parametrize("change", [{"symmetrize": "union"}, {"qint_tags": [2]}])
def test_version_1_with_settings_of_the_backbone_is_refused(change):
  (name,) = change
  with pytest.raises(serialization.SerializationError, match=f"{name}.*backbone"):
    _read(_version_1("mine", **change))


def test_scales_are_finite():
  with pytest.raises(ValueError, match="energy_scale"):
    dataclasses.replace(INFO, energy_scale=float("nan"))


def test_published_datasets():
  infos = dataset_info.PUBLISHED
  assert list(infos) == ["oc20", "oc22", "ani1x", "transition1x"]
  periodic = [name for name, info in infos.items() if info.periodic_in_3d]
  assert periodic == ["oc20", "oc22"]
  # λ_F of the published pre-training.
  coefficients = [info.force_coefficient for info in infos.values()]
  assert coefficients == [73, 80, 15, 14]


def test_conversion_needs_neither_tensorflow_nor_jax():
  code = (
    "import sys; from data import convert; from data.conversion import registry; "
    "registry.converters(); assert not {'tensorflow', 'jax'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
