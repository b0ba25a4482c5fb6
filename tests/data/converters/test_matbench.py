"""MatBench: folds as published, statistics per fold, raw layout."""

import gzip
import hashlib
import json

import chex
import numpy as np
import pytest
from sklearn import model_selection

from data.conversion import base
from data.converters import matbench
from tests import shared_files
from tests.data.converters import converted

# (train, val, test) and mean, std of the training split in every fold, computed from
# the targets of the official release.
PUBLISHED = {
  "jdft2d": [
    (457, 51, 128, 120.022913, 151.454430),
    (458, 51, 127, 114.655304, 143.823207),
    (458, 51, 127, 104.841528, 114.063101),
    (458, 51, 127, 117.312636, 148.915189),
    (458, 51, 127, 112.085951, 123.835640),
  ],
  "phonons": [
    (910, 102, 253, 583.245289, 492.196060),
    (910, 102, 253, 577.612879, 501.645783),
    (910, 102, 253, 577.198918, 475.190319),
    (910, 102, 253, 591.447044, 508.849765),
    (910, 102, 253, 580.440605, 513.665307),
  ],
  "perovskites": [
    (13627, 1515, 3786, 1.472427, 0.744979),
    (13627, 1515, 3786, 1.470909, 0.738712),
    (13627, 1515, 3786, 1.472227, 0.740258),
    (13628, 1515, 3785, 1.469991, 0.744985),
    (13628, 1515, 3785, 1.468682, 0.742566),
  ],
}
SIZES = {
  "dielectric": [(3429, 382, 953)] * 4 + [(3430, 382, 952)],
  "log_gvrh": [(7910, 879, 2198)] * 2 + [(7911, 879, 2197)] * 3,
  "log_kvrh": [(7910, 879, 2198)] * 2 + [(7911, 879, 2197)] * 3,
  "mp_gap": [(76401, 8489, 21223)] * 3 + [(76401, 8490, 21222)] * 2,
  "mp_e_form": [(95580, 10621, 26551)] * 2 + [(95581, 10621, 26550)] * 3,
}


def _crystal(row, element="Na"):
  a = 3.0 + 0.01 * row
  matrix = [[a, 0.0, 0.0], [0.5, a, 0.0], [0.0, 0.0, a]]
  abc = [[0.0, 0.0, 0.0], [0.5, 0.25, 0.5]]
  return {
    "@module": "pymatgen.core.structure",
    "@class": "Structure",
    "charge": None,
    "lattice": {"matrix": matrix, "a": a, "b": a, "c": a, "volume": a**3},
    "sites": [
      {
        "species": [{"element": symbol, "occu": 1}],
        "abc": x,
        "xyz": (np.array(x) @ matrix).tolist(),
        "label": f"{symbol}1",
        "properties": {},
      }
      for symbol, x in zip((element, "Cl"), abc)
    ],
  }


def _raw(task, values, index=None, **changes):
  return {
    "index": list(range(len(values))) if index is None else index,
    "columns": ["structure", matbench.TASKS[task].column],
    "data": [[_crystal(i), value] for i, value in enumerate(values)],
  } | changes


def _write(folder, task, raw, name=""):
  path = folder / (name or f"matbench_{task}.json.gz")
  with gzip.open(path, "wt") as file:
    json.dump(raw, file)
  return path


def _rows(structures):
  return [int(s.record_id.rsplit(":", 1)[1]) for s in structures]


@pytest.mark.parametrize("task", [*SIZES, *PUBLISHED])
def test_sizes_of_all_folds(task):
  expected = SIZES.get(task) or [row[:3] for row in PUBLISHED[task]]
  rows = matbench.TASKS[task].rows
  found = [tuple(map(len, matbench.split(rows, k).values())) for k in range(5)]
  assert found == expected


def test_folds_are_scikit_learns():
  folds = model_selection.KFold(5, shuffle=True, random_state=18012019)
  for fold, (rest, test) in enumerate(folds.split(np.arange(636))):
    split = matbench.split(636, fold)
    chex.assert_trees_all_equal(split["test"], test)
    order = np.arange(len(rest))
    np.random.RandomState(42).shuffle(order)
    chex.assert_trees_all_equal(split["train"], rest[order[: int(0.9 * len(rest))]])
    chex.assert_trees_all_equal(split["val"], rest[order[int(0.9 * len(rest)) :]])


def test_fold_of_jdft2d_is_pinned():
  digests = {
    name: hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]
    for name, rows in matbench.split(636, 0).items()
  }
  assert digests["test"] == "0106cb9919b96f62"
  assert digests["train"] == "66b0b69d2fba3552"


def test_converts_a_task(tmp_path):
  rng = np.random.default_rng(0)
  values = rng.normal(size=40).tolist()
  path = _write(tmp_path, "log_gvrh", _raw("log_gvrh", values))
  info, splits = converted.convert("matbench", path, tmp_path / "out", fold="2")
  expected = matbench.split(40, 2)
  for split, structures in splits.items():
    assert _rows(structures) == sorted(expected[split])
    for row, structure in zip(_rows(structures), structures):
      assert structure.targets["log_gvrh"] == values[row]
      crystal = _crystal(row)
      chex.assert_trees_all_close(
        structure.cell, np.array(crystal["lattice"]["matrix"]), rtol=1e-7, atol=0
      )
      chex.assert_trees_all_close(
        structure.positions,
        np.array([s["xyz"] for s in crystal["sites"]]),
        rtol=1e-6,
        atol=0,
      )
      chex.assert_trees_all_equal(structure.atomic_numbers, np.array([11, 17]))
      assert structure.pbc.all() and (structure.tags == 2).all()
      assert structure.energy is None and structure.forces is None
  train = [values[k] for k in expected["train"]]
  assert info.targets["log_gvrh"].mean == pytest.approx(np.mean(train), abs=1e-11)
  assert info.targets["log_gvrh"].std == pytest.approx(np.std(train), abs=1e-11)
  assert info.targets["log_gvrh"].unit == "log10(GPa)"
  assert info.name == "matbench_log_gvrh"
  assert info.provenance["notes"]["fold"] == 2
  assert info.graph.cutoff == 12.0
  assert info.graph.max_neighbors_by_size == ((200, 10), (300, 5))


def test_classes_have_stratified_folds(tmp_path):
  labels = [bool(i % 4 == 0) for i in range(60)]
  path = _write(tmp_path, "mp_is_metal", _raw("mp_is_metal", labels))
  info, splits = converted.convert("matbench", path, tmp_path / "out", fold=4)
  assert info.targets["mp_is_metal"].num_classes == 2
  assert sum(s.targets["mp_is_metal"] == 1.0 for s in splits["test"]) == 3
  for structures in splits.values():
    for row, structure in zip(_rows(structures), structures):
      assert structure.targets["mp_is_metal"] == float(labels[row])


def test_part_of_a_task_keeps_the_folds_of_the_whole(tmp_path):
  index = list(range(600, 400, -7))
  raw = _raw("jdft2d", [float(row) for row in index], index)
  path = _write(tmp_path, "jdft2d", raw)
  _, splits = converted.convert("matbench", path, tmp_path / "out", fold=1)
  whole = matbench.split(636, 1)
  for name, structures in splits.items():
    rows = {int(s.targets["jdft2d"]) for s in structures}
    assert rows == set(whole[name]) & set(index)


def test_positions_from_fractions_and_missing_numbers_become_errors(tmp_path):
  raw = _raw("mp_gap", [0.5] * 20)
  for site in raw["data"][3][0]["sites"]:
    del site["xyz"]
  path = _write(tmp_path, "mp_gap", raw)
  _, splits = converted.convert("matbench", path, tmp_path / "a")
  found = {_rows([s])[0]: s for s in sum(splits.values(), [])}
  chex.assert_trees_all_close(
    found[3].positions,
    np.array([s["xyz"] for s in _crystal(3)["sites"]]),
    rtol=1e-6,
    atol=0,
  )
  raw["data"][5][1] = float("nan")  # as Python's json writes it, which is not JSON
  path = _write(tmp_path, "mp_gap", raw)
  with pytest.raises(ValueError, match="mp_gap.json.gz:5: expected a finite target"):
    converted.convert("matbench", path, tmp_path / "b")


def _disorder(crystal):
  crystal["sites"][0]["species"] = [
    {"element": "Na", "occu": 0.5},
    {"element": "K", "occu": 0.5},
  ]


def _unknown_element(crystal):
  crystal["sites"][0]["species"][0]["element"] = "Zz"


def _no_lattice(crystal):
  del crystal["lattice"]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (_disorder, "site 0 is disordered"),
    (_unknown_element, "unknown element 'Zz'"),
    (_no_lattice, "not a pymatgen Structure"),
  ],
)
def test_malformed_crystal_names_its_row(tmp_path, change, message):
  raw = _raw("mp_gap", [0.5] * 20)
  change(raw["data"][7][0])
  path = _write(tmp_path, "mp_gap", raw)
  with pytest.raises(ValueError, match=f"mp_gap.json.gz:7: .*{message}"):
    converted.convert("matbench", path, tmp_path / "out")


@pytest.mark.parametrize("value", ["0.5", True, [0.5], [None], {"a": 1}, 10**400])
def test_labels_that_are_no_numbers_are_not_cast(value):
  item = matbench._item([_crystal(0), value], "mp_gap", "0")
  assert isinstance(item, base.Invalid) and " as mp_gap" in item.reason


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("sites", 0, "xyz", 1), "0.25", "numbers as xyz"),
    (("sites", 0, "xyz", 1), [0.25], "numbers as xyz"),
    (("lattice", "matrix", 0, 0), "3", "numbers as lattice.matrix"),
    (("lattice", "pbc"), ["yes", "no", ""], "true and false in lattice.pbc"),
    (("sites",), "Na", "not a pymatgen Structure"),
    (("sites", 0), 3, "not a pymatgen Structure"),
  ],
)
def test_parts_of_crystals_that_are_something_else(path, value, message):
  crystal = node = _crystal(0)
  for key in path[:-1]:
    node = node[key]
  node[path[-1]] = value
  item = matbench._item([crystal, 0.5], "mp_gap", "0")
  assert isinstance(item, base.Invalid) and message in item.reason


@pytest.mark.parametrize("index", ["rows", None, [0] * 20, ["0"] * 20, [[0]] * 20])
def test_an_index_of_something_else(tmp_path, index):
  path = _write(tmp_path, "mp_gap", _raw("mp_gap", [0.5] * 20, index or {}))
  with pytest.raises(base.RawDataError, match="distinct whole numbers as 'index'"):
    converted.plan("matbench", path)


def test_wrong_column_is_an_error(tmp_path):
  path = _write(tmp_path, "", _raw("jdft2d", [1.0] * 20), "matbench_phonons.json.gz")
  with pytest.raises(base.RawDataError, match="'last phdos peak'.*'exfoliation_en'"):
    converted.plan("matbench", path)


def test_fewer_rows_than_promised(tmp_path):
  raw = _raw("jdft2d", [1.0] * 20)
  raw["data"] = raw["data"][:-1]
  path = _write(tmp_path, "jdft2d", raw)
  with pytest.raises(base.RawDataError, match="promises row 19"):
    converted.convert("matbench", path, tmp_path / "out")


def test_truncated_file(tmp_path):
  rng = np.random.default_rng(0)
  path = _write(tmp_path, "jdft2d", _raw("jdft2d", rng.normal(size=300).tolist()))
  path.write_bytes(path.read_bytes()[:-500])
  with pytest.raises(base.RawDataError, match="matbench_jdft2d.json.gz is damaged"):
    converted.convert("matbench", path, tmp_path / "out")


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("matbench_jdft2d.json.gz", {"fold": 5}, "--fold=5"),
    ("matbench_steels.json.gz", {}, "is not one of the tasks"),
    ("matbench_jdft2d.json.gz", {"task": "phonons"}, "expected the columns"),
  ],
)
def test_impossible_options(tmp_path, name, options, message):
  path = _write(tmp_path, "", _raw("jdft2d", [1.0] * 20), name)
  with pytest.raises((base.PlanError, base.RawDataError), match=message):
    converted.plan("matbench", path, **options)


@pytest.mark.parametrize("fold", range(5))
@pytest.mark.parametrize("task", ["jdft2d", "phonons"])
def test_real_small_tasks_have_the_published_statistics(task, fold, tmp_path):
  path = shared_files.shared_file("samples", "matbench", f"matbench_{task}.json.gz")
  info, splits = converted.convert("matbench", path, tmp_path, fold=fold)
  train, val, test, mean, std = PUBLISHED[task][fold]
  assert dict(info.num_structures) == {"train": train, "val": val, "test": test}
  assert info.targets[task].mean == pytest.approx(mean, abs=1e-6)
  assert info.targets[task].std == pytest.approx(std, abs=1e-6)
  rows = sorted(sum((_rows(s) for s in splits.values()), []))
  assert rows == list(range(matbench.TASKS[task].rows))


def test_real_perovskites_have_the_published_statistics(tmp_path):
  path = shared_files.shared_file("samples", "matbench", "matbench_perovskites.json.gz")
  with gzip.open(path) as file:
    targets = np.array([row[1] for row in json.load(file)["data"]])
  for fold, (train, val, test, mean, std) in enumerate(PUBLISHED["perovskites"]):
    plan = converted.plan("matbench", path, fold=fold)
    sizes = {split: sum(map(len, parts)) for split, parts in plan.items()}
    assert sizes == {"train": train, "val": val, "test": test}
    values = targets[np.concatenate(plan["train"])]
    assert values.mean() == pytest.approx(mean, abs=1e-6)
    assert values.std() == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize(
  ("name", "count"),
  [("dielectric_subset863", 863), ("mp_e_form_subset35", 35), ("mp_gap_subset14", 14)],
)
def test_real_parts_of_large_tasks(name, count, tmp_path):
  path = shared_files.shared_file("samples", "matbench", f"matbench_{name}.json.gz")
  info, splits = converted.convert("matbench", path, tmp_path)
  assert sum(info.num_structures.values()) == count
  with gzip.open(path) as file:
    raw = json.load(file)
  (target,) = info.targets
  whole = matbench.split(matbench.TASKS[target].rows, 0)
  for split, structures in splits.items():
    for row, structure in zip(_rows(structures), structures):
      assert raw["index"][row] in whole[split]
      assert structure.targets[target] == raw["data"][row][1]
      assert structure.num_atoms == len(raw["data"][row][0]["sites"])
