"""SPICE: units, sign of the forces, subsets, published split."""

import re
import shutil

import chex
import h5py
import numpy as np
import pytest

from data.conversion import base
from data.conversion import splits as splits_lib
from tests import shared_files
from tests.data.converters import converted

HARTREE, BOHR = 1.0 / 0.0367493, 0.529177
DIPEPTIDES = "SPICE Dipeptides Single Points Dataset v1.2"


def _add_molecule(file, name, count, subset, numbers=(1, 9)):
  """Diatomics on a harmonic spring, in bohr and hartree."""
  rng = np.random.default_rng(len(name))
  distance = rng.uniform(1.5, 2.5, count)
  atoms = len(numbers)
  positions = np.zeros((count, atoms, 3), np.float32)
  positions[:, 1, 0] = distance
  gradient = np.zeros((count, atoms, 3), np.float32)
  gradient[:, 1, 0] = 0.4 * (distance - 1.9)
  gradient[:, 0, 0] = -gradient[:, 1, 0]
  formation = 0.2 * (distance - 1.9) ** 2 - 0.25
  group = file.create_group(name)
  group["atomic_numbers"] = np.array(numbers, np.int16)
  for key, value, unit in (
    ("conformations", positions, "bohr"),
    ("dft_total_energy", formation - 100.0, "hartree"),
    ("dft_total_gradient", gradient, "hartree/bohr"),
    ("formation_energy", formation, "hartree"),
  ):
    group[key] = value
    group[key].attrs["units"] = unit
  strings = h5py.string_dtype()
  group.create_dataset("subset", data=[subset], dtype=strings)
  group.create_dataset("smiles", data=["[F:1][H:2]"], dtype=strings)


@pytest.fixture(name="release")
def _release(tmp_path):
  path = tmp_path / "SPICE-1.1.4.hdf5"
  with h5py.File(path, "w") as file:
    # Not in alphabetical order.
    _add_molecule(file, "b", 25, DIPEPTIDES)
    _add_molecule(file, "c", 7, "SPICE DES370K Single Points Dataset v1.0")
    _add_molecule(file, "a", 15, DIPEPTIDES)
    _add_molecule(file, "d", 10, DIPEPTIDES.replace("v1.2", "v1.1"))
  return path


def test_published_sizes():
  for total, sizes in ((33_850, (27_080, 3_385, 3_385)), (1_300, (1_040, 130, 130))):
    split = splits_lib.eighty_ten_ten(total)
    assert tuple(map(len, split.values())) == sizes
    assert list(split) == ["train", "val", "test"]
    order = np.arange(total)
    np.random.RandomState(42).shuffle(order)
    chex.assert_trees_all_equal(np.concatenate(list(split.values())), order)


def test_converts_a_subset(release, tmp_path):
  info, splits = converted.convert(
    "spice", release, tmp_path / "out", subset="dipeptides"
  )
  # 15 + 25 + 10 conformers of any version of the subset, molecules in order.
  assert dict(info.num_structures) == {"train": 40, "val": 5, "test": 5}
  conformers = [("a", k) for k in range(15)] + [("b", k) for k in range(25)]
  conformers += [("d", k) for k in range(10)]
  order = np.arange(50)
  np.random.RandomState(42).shuffle(order)
  for split, part in (
    ("train", order[:40]),
    ("val", order[40:45]),
    ("test", order[45:]),
  ):
    assert [s.record_id for s in splits[split]] == [
      "SPICE-1.1.4.hdf5:{}:{}".format(*conformers[k]) for k in sorted(part)
    ]
  assert info.name == "spice_dipeptides"
  assert (info.graph.cutoff, info.graph.max_neighbors) == (12.0, 30)


def test_units_and_sign(release, tmp_path):
  _, splits = converted.convert("spice", release, tmp_path / "out", subset="dipeptides")
  with h5py.File(release) as file:
    for structure in splits["train"]:
      _, name, row = structure.record_id.split(":")
      group, row = file[name], int(row)
      assert structure.energy == group["dft_total_energy"][row] * HARTREE
      assert structure.targets["formation_energy"] == pytest.approx(
        group["formation_energy"][row] * HARTREE, rel=1e-12
      )
      chex.assert_trees_all_close(
        structure.positions, group["conformations"][row] * BOHR, rtol=1e-6, atol=0
      )
      chex.assert_trees_all_close(
        structure.forces,
        -group["dft_total_gradient"][row] * (HARTREE / BOHR),
        rtol=1e-6,
        atol=0,
      )
      # Stretched bonds pull back: forces, not gradients.
      stretch = structure.positions[1, 0] - structure.positions[0, 0] - 1.9 * BOHR
      assert structure.forces[1, 0] * stretch < 0


def test_any_prefix_is_a_subset(release):
  plan = converted.plan("spice", release, subset="SPICE DES370K")
  assert sum(map(len, sum(plan.values(), []))) == 7


@pytest.mark.parametrize(
  ("subset", "message"),
  [("", "needs --subset"), ("solvated_amino_acids", "SPICE DES370K")],
)
def test_wrong_subset(release, subset, message):
  with pytest.raises(base.PlanError, match=message):
    converted.plan("spice", release, subset=subset)


def test_missing_key(release):
  with h5py.File(release, "a") as file:
    del file["b/dft_total_gradient"]
  with pytest.raises(base.RawDataError, match="/b: expected the key 'dft_total_grad"):
    converted.plan("spice", release, subset="dipeptides")


def test_mismatched_arrays(release):
  with h5py.File(release, "a") as file:
    del file["b/atomic_numbers"]
    file["b/atomic_numbers"] = np.array([1, 1, 9], np.int16)
  with pytest.raises(base.RawDataError, match=r"/b: expected 'conf.* \(25, 3, 3\)"):
    converted.plan("spice", release, subset="dipeptides")


@pytest.mark.parametrize(
  ("key", "value", "message"),
  [
    ("subset", np.arange(3), "a list of texts as 'subset', found int64"),
    ("subset", np.zeros(0, "S3"), "a text as 'subset', found none"),
    ("atomic_numbers", 3, "numbers in 1 directions as 'atomic_numbers'"),
    ("conformations", 3.0, "numbers in 3 directions as 'conformations'"),
    ("dft_total_energy", np.zeros(25, complex), "found complex128"),
    ("formation_energy", np.array([b"x"] * 25), "'formation_energy', found |S1"),
  ],
)
def test_datasets_of_another_kind_are_named(release, key, value, message):
  with h5py.File(release, "a") as file:
    del file["b"][key]
    file["b"][key] = value
  with pytest.raises(base.RawDataError, match=re.escape(message)):
    converted.plan("spice", release, subset="dipeptides")


def test_fractional_atomic_numbers_are_not_rounded(release, tmp_path):
  with h5py.File(release, "a") as file:
    del file["b/atomic_numbers"]
    file["b/atomic_numbers"] = np.array([1.5, 9.0])
  with pytest.raises(ValueError, match="whole numbers as atomic_numbers, found float"):
    converted.convert("spice", release, tmp_path / "out", subset="dipeptides")


def test_truncated_file(release):
  release.write_bytes(release.read_bytes()[:3000])
  with pytest.raises(base.RawDataError, match="SPICE-1.1.4.hdf5"):
    converted.plan("spice", release, subset="dipeptides")


def test_real_sample(tmp_path):
  path = shared_files.shared_file("samples", "spice", "SPICE-1.1.4_n2.hdf5")
  info, splits = converted.convert("spice", path, tmp_path, subset="SPICE PubChem")
  assert dict(info.num_structures) == {"train": 40, "val": 5, "test": 5}
  structures = sum(splits.values(), [])
  for structure in structures:
    # Chemistry in Å: the shortest bond is one to hydrogen.
    positions = structure.positions.astype(np.float64)
    gaps = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    assert 0.85 < gaps[gaps > 0].min() < 1.15
    assert np.abs(structure.forces.sum(0)).max() < 0.01
  # A long bond to hydrogen pulls the hydrogen back, a short one pushes it away.
  lengths, pushes = converted.hydrogen_bonds(structures)
  assert np.corrcoef(lengths, pushes)[0, 1] < -0.4
  # eV/Å²; in raw units it would be 23 times larger (kcal/mol) or smaller (hartree).
  assert -40 < np.polyfit(lengths, pushes, 1)[0] < -8


def test_real_molecule_in_the_dipeptide_subset(tmp_path):
  path = shared_files.shared_file("samples", "spice", "SPICE-1.1.4_n2.hdf5")
  copy = tmp_path / "SPICE-1.1.4.hdf5"
  shutil.copyfile(path, copy)
  with h5py.File(copy, "a") as file:
    file["103147721/subset"][0] = DIPEPTIDES
  plan = converted.plan("spice", copy, subset="dipeptides")
  assert {k: sum(map(len, v)) for k, v in plan.items()} == {
    "train": 40,
    "val": 5,
    "test": 5,
  }
