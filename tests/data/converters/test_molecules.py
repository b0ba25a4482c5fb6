"""ANI-1x and Transition1x: units, splits by molecule, filters, real samples."""

import chex
import h5py
import numpy as np
import pytest

from data.conversion import base
from data.converters import ani1x
from data.formats import hdf5
from data.formats import pickled
from jmp_hk import structure as structure_lib
from tests import shared_files
from tests.data import raw_files

_HARTREE = 27.211386024367243


def _by_id(found):
  return {s.record_id: s for part in found.values() for s in part}


def test_ani1x_units_and_force_sign(convert, tmp_path):
  groups = {"H4": ([1] * 4, np.eye(4, 3)[None], [-2.0], np.full((1, 4, 3), 0.5))}
  source = raw_files.write_ani1x(tmp_path / "ani1x-release.h5", groups)
  found, info = convert("ani1x", source)
  (structure,) = _by_id(found).values()
  # Hartree to eV, Hartree/Å to eV/Å; the release stores forces, not gradients.
  assert structure.energy == pytest.approx(-54.422772, abs=1e-5)
  chex.assert_trees_all_close(structure.forces, 13.605693, rtol=1e-6, atol=0)
  assert not structure.pbc.any() and (structure.tags == 2).all()
  assert info.graph.cutoff == 8.0 and info.energy_scale == 2.8700712783472118
  assert info.force_coefficient == 15.0 and not info.periodic_in_3d


def test_ani1x_splits_whole_formulas_and_counts_what_it_filters(convert, tmp_path):
  groups = raw_files.ani1x_groups(12, frames=10)
  groups["H2O1"] = ([8, 1, 1], np.ones((7, 3, 3)), np.ones(7), np.ones((7, 3, 3)))
  numbers, coordinates, energies, forces = groups["C1H3"]
  energies[2], forces[5, 0, 0] = np.nan, np.nan
  source = raw_files.write_ani1x(tmp_path / "ani1x-release.h5", groups)
  found, info = convert("ani1x", source)
  formulas = {k: {s.record_id.split(":")[1] for s in v} for k, v in found.items()}
  assert len(set.union(*formulas.values())) == 12 == sum(map(len, formulas.values()))
  # A tenth of about 119 frames needs two formulas for each held-out split.
  assert [len(formulas[k]) for k in ("test", "val", "train")] == [2, 2, 8]
  filtered = {}
  for facts in info.provenance["splits"].values():
    for reason, count in facts["filtered"].items():
      filtered[reason] = filtered.get(reason, 0) + count
  assert filtered == {
    "wb97x_dz not computed (NaN in the release)": 2,
    "molecule of fewer than 4 atoms": 7,
  }


def test_ani1x_split_depends_on_the_seed_only():
  frames = {f"C{k}": 10 for k in range(50)}
  first = ani1x.assign_formulas(frames, 0)
  assert first == ani1x.assign_formulas(dict(reversed(frames.items())), 0)
  assert first != ani1x.assign_formulas(frames, 1)
  assert {k: len(v) for k, v in first.items()} == {"train": 40, "val": 5, "test": 5}


def test_ani1x_real_sample_equals_h5py(convert):
  path = shared_files.shared_file("samples", "ani1x", "ani1x-release_n5.h5")
  found, info = convert("ani1x", path)
  structures, count = _by_id(found), 0
  with h5py.File(path) as file:
    for formula, group in file.items():
      for row, energy in enumerate(group["wb97x_dz.energy"]):
        structure = structures[f"{path.name}:{formula}:{row}"]
        assert structure.energy == energy * _HARTREE
        chex.assert_trees_all_equal(structure.positions, group["coordinates"][row])
        chex.assert_trees_all_equal(structure.atomic_numbers, group["atomic_numbers"])
        chex.assert_trees_all_close(
          structure.forces, group["wb97x_dz.forces"][row] * _HARTREE, rtol=1e-6, atol=0
        )
        count += 1
  assert count == 8 == sum(info.num_structures.values())


def test_transition1x_splits_and_end_points(convert, tmp_path):
  path = raw_files.write_transition1x(tmp_path / "Transition1x.h5", frames=3)
  found, info = convert("transition1x", path)
  # Three frames each, without `reactant` and without the union in `data`.
  assert info.num_structures == {"train": 3, "val": 3, "test": 3}
  with h5py.File(path) as file:
    group = file["val/C2H4/rxn0001"]
    for row, structure in enumerate(found["val"]):
      assert structure.energy == group["wB97x_6-31G(d).energy"][row]
      chex.assert_trees_all_equal(
        structure.forces, group["wB97x_6-31G(d).forces"][row].astype(np.float32)
      )
      chex.assert_trees_all_equal(
        structure.positions, group["positions"][row].astype(np.float32)
      )
  assert info.force_scale == 0.3591422140598297


def test_transition1x_real_sample_equals_h5py_and_published_records(convert):
  path = shared_files.shared_file(
    "samples", "transition1x", "Transition1x_mini_derived.h5"
  )
  found, info = convert("transition1x", path)
  assert info.num_structures == {"train": 16, "val": 8, "test": 8}
  with h5py.File(path) as file:
    for structure in _by_id(found).values():
      _, group, row = structure.record_id.split(":")
      assert structure.energy == file[group]["wB97x_6-31G(d).energy"][int(row)]
      chex.assert_trees_all_equal(
        structure.positions, file[group]["positions"][int(row)].astype(np.float32)
      )
  published = shared_files.shared_file(
    "samples", "transition1x", "trans1x_pickle16_train.pkl"
  )
  records = [pickled.attributes(r) for r in pickled.load(published.read_bytes())]
  energies = sorted(float(np.reshape(r["y"], ())) for r in records)
  chex.assert_trees_all_close(
    np.array(sorted(s.energy for s in found["train"])),
    np.array(energies),
    rtol=1e-7,
    atol=0,
  )


def test_wrong_keys_are_named(convert, tmp_path):
  path = raw_files.write_ani1x(
    tmp_path / "a.h5", raw_files.ani1x_groups(2, 3), skip_keys=["wb97x_dz.energy"]
  )
  with pytest.raises(
    base.RawDataError, match=r"a\.h5/C1H3: expected the key 'wb97x_dz.en"
  ):
    convert("ani1x", path)
  raw_files.write_ani1x(path, raw_files.ani1x_groups(2, 3), skip_keys=["coordinates"])
  with pytest.raises(base.RawDataError, match="expected the key 'coordinates', found"):
    convert("ani1x", path)
  with pytest.raises(base.RawDataError, match="expected the groups train, val, test"):
    convert("transition1x", path)


def test_truncated_file_and_mismatched_lengths(convert, tmp_path):
  path = raw_files.write_transition1x(tmp_path / "t.h5")
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  with pytest.raises(base.RawDataError, match="t.h5 cannot be read as HDF5"):
    convert("transition1x", path)
  path.write_bytes(content)
  with h5py.File(path, "a") as file:
    del file["val/C2H4/rxn0001/atomic_numbers"]
    file["val/C2H4/rxn0001/atomic_numbers"] = np.array([6, 1], np.uint8)
  with pytest.raises(
    structure_lib.InvalidStructureError, match="expected pos.*rxn0001:0"
  ):
    convert("transition1x", path)


def test_datasets_of_another_kind_are_named(convert, tmp_path):
  path = raw_files.write_ani1x(tmp_path / "a.h5", raw_files.ani1x_groups(2, 3))
  for key, value in (
    ("atomic_numbers", 3),
    ("wb97x_dz.energy", -40.0),
    ("wb97x_dz.energy", np.array([b"a"] * 3)),
  ):
    content = path.read_bytes()
    with h5py.File(path, "a") as file:
      del file["C1H3"][key]
      file["C1H3"][key] = value
    with pytest.raises(base.RawDataError, match=f"1 directions as '{key}', found"):
      convert("ani1x", path)
    path.write_bytes(content)


def test_units_cut_large_groups():
  units = hdf5.pack_units("train", "f", [("a", 5), ("b", 3), ("c", 9)], size=6)
  assert [u.payload for u in units] == [
    [["a", 0, 5], ["b", 0, 1]],
    [["b", 1, 3], ["c", 0, 4]],
    [["c", 4, 9]],
  ]
