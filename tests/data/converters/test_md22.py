"""MD22: both distributions, units, published sizes."""

import chex
import numpy as np
import pytest

from data.conversion import base
from data.conversion import splits as splits_lib
from data.converters import md22
from tests import shared_files
from tests.data.converters import converted

KCAL = 23.061


def _arrays(count):
  rng = np.random.default_rng(0)
  return {
    "type": np.array(b"d"),
    "name": np.array("AT-AT"),
    "theory": np.array("PBE+MBD, 500K"),
    "z": np.array([8, 1, 1], np.int64),
    "R": rng.normal(size=(count, 3, 3)),
    "E": rng.normal(size=(count, 1)) - 48_000.0,
    "F": 20.0 * rng.normal(size=(count, 3, 3)),
    "e_unit": np.array("kcal/mol"),
    "r_unit": np.array("Ang"),
    "perms": np.array([[0, 1, 2], [0, 2, 1]]),
    "md5": np.array(b"0"),
  }


def _write_xyz(path, arrays):
  lines = []
  for positions, energy, forces in zip(arrays["R"], arrays["E"], arrays["F"]):
    lines += [
      "3",
      f"Energy={float(energy[0])!r} Properties=species:S:1:pos:R:3:forces:R:3",
    ]
    for symbol, x, f in zip("OHH", positions, forces):
      lines.append(" ".join([symbol, *map(repr, map(float, (*x, *f)))]) + "  ")
  path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
  ("molecule", "sizes"),
  [
    ("Ac-Ala3-NHMe", (5700, 300)),
    ("DHA", (7600, 400)),
    ("stachyose", (7600, 400)),
    ("AT-AT", (2850, 150)),
    ("AT-AT-CG-CG", (1900, 100)),
    ("buckyball-catcher", (570, 30)),
    ("double-walled_nanotube", (760, 40)),
  ],
)
def test_published_sizes(molecule, sizes):
  assert md22.published_sizes(molecule) == sizes


def test_split_order():
  split = splits_lib.rest_is_test(6102, *md22.published_sizes("buckyball-catcher"))
  order = np.arange(6102)
  np.random.RandomState(42).shuffle(order)
  chex.assert_trees_all_equal(split["train"], order[:570])
  chex.assert_trees_all_equal(split["val"], order[570:600])
  chex.assert_trees_all_equal(split["test"], order[600:])


@pytest.mark.parametrize(
  ("name", "molecule"),
  [
    ("md22_AT-AT-CG-CG", "AT-AT-CG-CG"),
    ("md22_AT-AT", "AT-AT"),
    ("md22_double-walled_nanotube", "double-walled_nanotube"),
    ("md22_Ac-Ala3-NHMe_5frames", "Ac-Ala3-NHMe"),
    ("water", ""),
  ],
)
def test_molecule_from_file_name(name, molecule):
  assert md22.molecule_of(name) == molecule


@pytest.mark.parametrize("suffix", ["npz", "xyz"])
def test_converts_both_distributions(tmp_path, suffix):
  arrays = _arrays(700)
  path = tmp_path / f"md22_buckyball-catcher.{suffix}"
  if suffix == "npz":
    np.savez(path, **arrays)
  else:
    _write_xyz(path, arrays)
  info, splits = converted.convert("md22", path, tmp_path / "out")
  assert dict(info.num_structures) == {"train": 570, "val": 30, "test": 100}
  order = np.arange(700)
  np.random.RandomState(42).shuffle(order)
  assert [s.record_id for s in splits["val"]] == [
    f"{path.name}:{i}" for i in sorted(order[570:600])
  ]
  for structure in splits["test"]:
    frame = int(structure.record_id.rsplit(":", 1)[1])
    assert structure.energy == arrays["E"][frame, 0] / KCAL
    chex.assert_trees_all_close(
      structure.forces, arrays["F"][frame] / KCAL, rtol=1e-6, atol=1e-7
    )
    chex.assert_trees_all_close(
      structure.positions, arrays["R"][frame], rtol=1e-6, atol=0
    )
    chex.assert_trees_all_equal(structure.atomic_numbers, np.array([8, 1, 1]))
  assert info.name == "md22_buckyball_catcher"
  assert (info.graph.cutoff, info.graph.max_neighbors) == (12.0, 30)


def test_unknown_molecule_needs_sizes(tmp_path):
  path = tmp_path / "water.npz"
  np.savez(path, **_arrays(20))
  with pytest.raises(base.PlanError, match="--train_size and --val_size"):
    converted.plan("md22", path)
  plan = converted.plan("md22", path, train_size=10, val_size=2)
  assert {k: sum(map(len, v)) for k, v in plan.items()} == {
    "train": 10,
    "val": 2,
    "test": 8,
  }


def test_too_few_frames(tmp_path):
  path = tmp_path / "md22_DHA.npz"
  np.savez(path, **_arrays(20))
  with pytest.raises(base.PlanError, match="20 frames are too few for 7600"):
    converted.plan("md22", path)


def test_folder_with_several_molecules(tmp_path):
  for name in ("md22_DHA", "md22_AT-AT"):
    np.savez(tmp_path / f"{name}.npz", **_arrays(20))
  with pytest.raises(base.PlanError, match="holds 2 files"):
    converted.plan("md22", tmp_path)
  plan = converted.plan("md22", tmp_path, molecule="DHA", train_size=10, val_size=2)
  assert sum(map(len, plan["train"])) == 10


def test_truncated_xyz(tmp_path):
  path = tmp_path / "md22_DHA.xyz"
  _write_xyz(path, _arrays(5))
  path.write_text("\n".join(path.read_text().splitlines()[:-2]))
  with pytest.raises(base.RawDataError, match="md22_DHA.xyz: after 4 frames"):
    converted.plan("md22", path, train_size=2, val_size=1)


def test_frame_without_energy_is_named(tmp_path):
  path = tmp_path / "md22_DHA.xyz"
  _write_xyz(path, _arrays(5))
  path.write_text(path.read_text().replace("Energy=", "Enthalpy=", 1))
  with pytest.raises(ValueError, match="md22_DHA.xyz:0: expected the key 'Energy'"):
    converted.convert("md22", path, tmp_path / "out", train_size=2, val_size=1)


def test_real_samples_agree(tmp_path):
  folder = shared_files.shared_file("samples", "md22")
  found = {}
  for name in ("md22_Ac-Ala3-NHMe_5frames.xyz", "md22_Ac-Ala3-NHMe_mini_derived.npz"):
    info, splits = converted.convert(
      "md22", folder / name, tmp_path / name, train_size=3, val_size=1
    )
    assert dict(info.num_structures) == {"train": 3, "val": 1, "test": 1}
    assert info.name == "md22_ac_ala3_nhme"
    found[name] = {
      s.record_id.rsplit(":")[1]: s for split in splits.values() for s in split
    }
  for a, b in zip(*(sorted(x.items()) for x in found.values())):
    assert a[0] == b[0] and a[1].num_atoms == 42
    assert a[1].energy == b[1].energy
    chex.assert_trees_all_equal(a[1].positions, b[1].positions)
    chex.assert_trees_all_equal(a[1].forces, b[1].forces)
  first = found["md22_Ac-Ala3-NHMe_5frames.xyz"]["0"]
  # The E_min of the release's header; JMP's mean of the set is −26913.953 eV.
  assert first.energy == pytest.approx(-620726.002662 / KCAL, abs=1e-9)
  assert first.energy == pytest.approx(-26913.953, abs=5.0)
  lengths, pushes = converted.hydrogen_bonds(
    list(found["md22_Ac-Ala3-NHMe_5frames.xyz"].values())
  )
  assert -40 < np.polyfit(lengths, pushes, 1)[0] < -8  # eV/Å², attractive
