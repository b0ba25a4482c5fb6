"""QMOF: two parallel files, published split, elements, damaged input."""

import json
import zipfile

import chex
import numpy as np
import pytest

from data.conversion import base
from data.conversion import splits as splits_lib
from data.converters import qmof
from tests import shared_files
from tests.data.converters import converted


def _label(i):
  return {
    "qmof_id": f"qmof-{i:07x}",
    "name": f"MOF{i}",
    "info": {"formula": "ZnO2D", "natoms": 4, "pld": float("nan")},
    "inputs": {"pbe": {"spin": True}},
    "outputs": {
      "pbe": {"energy_total": -30.0 - i, "bandgap": 0.1 * i, "cbm": 1.0},
      "hle17": {"bandgap": None},
    },
  }


def _structure(i):
  a = 8.0 + 0.1 * i
  symbols = ["Zn", "O", "O", "D"]
  return {
    "qmof_id": f"qmof-{i:07x}",
    "name": f"MOF{i}",
    "structure": {
      "@module": "pymatgen.core.structure",
      "@class": "Structure",
      "charge": None,
      "lattice": {"matrix": [[a, 0, 0], [0, a, 0], [0.5, 0, a]], "a": a},
      "sites": [
        {
          "species": [{"element": symbol, "occu": 1}],
          "abc": [0.2 * k, 0.0, 0.0],
          "xyz": [0.2 * k * a, 0, 0],
          "label": f"{symbol}{k}",  # not an element
          "properties": {"pbe_magmom": float("nan") if k else 0.0},
        }
        for k, symbol in enumerate(symbols)
      ],
    },
  }


def _write(folder, labels, structures):
  (folder / "qmof_database").mkdir(exist_ok=True)
  for name, value in ((qmof.LABELS, labels), (qmof.STRUCTURES, structures)):
    (folder / "qmof_database" / name).write_text(json.dumps(value))
  return folder


@pytest.fixture(name="release")
def _release(tmp_path):
  raw = tmp_path / "raw"
  raw.mkdir()
  return _write(raw, [_label(i) for i in range(25)], [_structure(i) for i in range(25)])


def test_split():
  split = splits_lib.eighty_ten_ten(20_375)
  assert {k: len(v) for k, v in split.items()} == {
    "train": 16_300,
    "val": 2_038,
    "test": 2_037,
  }
  order = np.arange(20_375)
  np.random.RandomState(42).shuffle(order)
  chex.assert_trees_all_equal(np.concatenate(list(split.values())), order)


def test_converts_the_release_folder(release, tmp_path):
  info, splits = converted.convert("qmof", release, tmp_path / "out")
  assert dict(info.num_structures) == {"train": 20, "val": 3, "test": 2}
  expected = splits_lib.eighty_ten_ten(25)
  for split, structures in splits.items():
    assert [s.record_id for s in structures] == [
      f"qmof-{i:07x}" for i in sorted(expected[split])
    ]
    for i, structure in zip(sorted(expected[split]), structures):
      assert structure.targets["bandgap"] == pytest.approx(0.1 * i)
      chex.assert_trees_all_equal(structure.atomic_numbers, np.array([30, 8, 8, 1]))
      assert structure.cell[0, 0] == 8.0 + 0.1 * i and structure.pbc.all()
      assert structure.positions[1, 0] == pytest.approx(0.2 * (8.0 + 0.1 * i))
  train = 0.1 * expected["train"]
  assert info.targets["bandgap"].mean == pytest.approx(train.mean())
  assert info.targets["bandgap"].std == pytest.approx(train.std())
  assert info.targets["bandgap"].unit == "eV"
  assert info.graph.cutoff == 19.0
  assert info.graph.max_neighbors_by_size == ((200, 10), (300, 5))


def test_either_file_may_be_named(release):
  folder = release / "qmof_database"
  for source in (folder, folder / qmof.LABELS, folder / qmof.STRUCTURES):
    assert set(converted.plan("qmof", source)) == {"train", "val", "test"}


@pytest.mark.parametrize("nested", [False, True])
def test_the_release_archive_is_read_as_it_is(release, tmp_path, nested):
  archive = tmp_path / "qmof_database.zip"
  with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
    for path in (release / "qmof_database").iterdir():
      file.write(path, f"qmof_database/{path.name}")
  if nested:  # As Figshare packs all files of an article.
    with zipfile.ZipFile(tmp_path / "13147324.zip", "w") as file:
      file.write(archive, archive.name)
    archive = tmp_path / "13147324.zip"
  expected, _ = converted.convert("qmof", release, tmp_path / "expected")
  info, splits = converted.convert("qmof", archive, tmp_path / "out")
  assert info.targets == expected.targets
  assert info.num_structures == expected.num_structures
  (source,) = converted.sources(tmp_path / "out", "train")
  assert source["name"] == archive.name
  assert not list(tmp_path.glob("*.unpacked"))
  assert splits["test"][0].record_id.startswith("qmof-")


def test_a_damaged_archive_is_named(release, tmp_path):
  archive = tmp_path / "qmof_database.zip"
  with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
    for path in (release / "qmof_database").iterdir():
      file.write(path, path.name)
  content = archive.read_bytes()
  archive.write_bytes(content[:-100])
  with pytest.raises(base.RawDataError, match=r"qmof_database\.zip/qmof\S* is damaged"):
    converted.plan("qmof", archive)


def test_missing_file(release):
  (release / "qmof_database" / qmof.LABELS).unlink()
  with pytest.raises(base.PlanError, match="must hold qmof.json"):
    converted.plan("qmof", release)


def test_files_of_different_releases(release, tmp_path):
  structures = [_structure(i) for i in range(25)]
  structures[3], structures[4] = structures[4], structures[3]
  _write(release, [_label(i) for i in range(25)], structures)
  with pytest.raises(base.RawDataError, match="entry 3 is qmof-0000003 in qmof.json"):
    converted.convert("qmof", release, tmp_path / "out")


def test_structure_file_that_ends_early(release, tmp_path):
  _write(release, [_label(i) for i in range(25)], [_structure(i) for i in range(20)])
  with pytest.raises(base.RawDataError, match="entry 20 is .* but None"):
    converted.convert("qmof", release, tmp_path / "out")


def test_truncated_structure_file(release, tmp_path):
  path = release / "qmof_database" / qmof.STRUCTURES
  path.write_text(path.read_text()[:-2000])
  with pytest.raises(base.RawDataError, match="structure_data.json cannot be read"):
    converted.convert("qmof", release, tmp_path / "out")


@pytest.mark.parametrize(
  ("value", "message"),
  [(None, "found none"), ("wide", "outputs.pbe.bandgap")],
)
def test_bad_band_gap_names_the_entry(release, tmp_path, value, message):
  labels = [_label(i) for i in range(25)]
  labels[6]["outputs"]["pbe"]["bandgap"] = value
  _write(release, labels, [_structure(i) for i in range(25)])
  with pytest.raises(ValueError, match=f"qmof-0000006: .*{message}"):
    converted.convert("qmof", release, tmp_path / "out")


def test_real_sample(tmp_path):
  path = shared_files.shared_file("samples", "qmof")
  info, splits = converted.convert("qmof", path, tmp_path)
  # Of two entries, the published rule gives none to testing.
  assert dict(info.num_structures) == {"train": 1, "val": 1}
  found = {s.record_id: s for s in sum(splits.values(), [])}
  assert found["qmof-81035b4"].targets["bandgap"] == 1.647473
  assert found["qmof-fc0e787"].targets["bandgap"] == 3.899547
  assert found["qmof-81035b4"].num_atoms == 60
  assert found["qmof-fc0e787"].num_atoms == 32
  numbers = np.bincount(found["qmof-fc0e787"].atomic_numbers)
  assert numbers[[1, 3, 6, 8]].tolist() == [8, 4, 8, 12]
  volume = abs(np.linalg.det(found["qmof-81035b4"].cell))
  assert volume == pytest.approx(661.80661823)
