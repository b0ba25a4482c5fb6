"""rMD17: raw layout, force sign and units, JMP's and the official splits."""

import hashlib
import zipfile

import chex
import numpy as np
import pytest

from data.conversion import base
from data.conversion import splits as splits_lib
from data.converters import rmd17
from tests import shared_files
from tests.data import raw_files
from tests.data.converters import converted

KCAL = 23.061


def _digest(indices):
  return hashlib.sha256(np.asarray(indices).astype("<i8").tobytes()).hexdigest()[:16]


def _frames(structures):
  return [int(s.record_id.rsplit(":", 1)[1]) for s in structures]


def _oscillator(count, rng):
  """Diatomics on a harmonic spring: energy k (r − r0)² / 2, in kcal/mol."""
  distance = rng.uniform(0.8, 1.6, count)
  coords = np.zeros((count, 2, 3))
  coords[:, 1, 2] = distance
  forces = np.zeros((count, 2, 3))
  forces[:, 1, 2] = -300.0 * (distance - 1.1)
  forces[:, 0, 2] = -forces[:, 1, 2]
  return {
    "nuclear_charges": np.array([6, 8], np.uint8),
    "coords": coords,
    "energies": 150.0 * (distance - 1.1) ** 2 - 70_000.0,
    "forces": forces,
    "old_indices": np.arange(count, dtype=np.float64),
    "old_energies": np.zeros(count),
    "old_forces": np.zeros_like(forces),
  }


@pytest.fixture(name="release")
def _release(tmp_path):
  """rmd17/npz_data/rmd17_oxide.npz and rmd17/splits/*.csv, 1,200 frames."""
  rng = np.random.default_rng(0)
  (tmp_path / "rmd17/npz_data").mkdir(parents=True)
  (tmp_path / "rmd17/splits").mkdir()
  path = tmp_path / "rmd17/npz_data/rmd17_oxide.npz"
  np.savez_compressed(path, **_oscillator(1200, rng))
  order = rng.permutation(1200)
  for part, indices in (("train", order[:1000]), ("test", order[1000:])):
    text = "\n".join(map(str, indices)) + "\n"
    (tmp_path / f"rmd17/splits/index_{part}_02.csv").write_text(text)
  return path


def test_jmp_split_of_the_release_is_pinned():
  split = splits_lib.rest_is_test(100_000, rmd17.TRAIN_SIZE, rmd17.VAL_SIZE)
  assert {k: len(v) for k, v in split.items()} == {
    "train": 950,
    "val": 50,
    "test": 99_000,
  }
  assert {k: _digest(v) for k, v in split.items()} == {
    "train": "1f689d40773059c8",
    "val": "9cd86294bfa48992",
    "test": "34cac695c2a0583c",
  }


def test_converts_in_ev_with_jmp_factor(release, tmp_path):
  info, splits = converted.convert("rmd17", release, tmp_path / "out")
  assert dict(info.num_structures) == {"train": 950, "val": 50, "test": 200}
  raw = np.load(release)
  order = np.arange(1200)
  np.random.RandomState(42).shuffle(order)
  assert sorted(_frames(splits["train"])) == sorted(order[:950])
  assert sorted(_frames(splits["val"])) == sorted(order[950:1000])
  for structure in splits["test"]:
    frame = int(structure.record_id.rsplit(":", 1)[1])
    assert structure.energy == raw["energies"][frame] / KCAL  # float64, exactly
    chex.assert_trees_all_equal(
      structure.forces, (raw["forces"][frame] / KCAL).astype(np.float32)
    )
    assert not structure.pbc.any() and (structure.tags == 2).all()
  assert (info.graph.cutoff, info.graph.max_neighbors) == (7.0, 100)
  assert info.name == "rmd17_oxide"
  assert info.provenance["notes"]["molecule"] == "oxide"


def test_scales_are_those_of_the_training_split(release, tmp_path):
  info, splits = converted.convert("rmd17", release, tmp_path / "out")
  forces = np.stack([s.forces for s in splits["train"]]).astype(np.float64)
  assert info.force_scale == pytest.approx(forces.std(), rel=1e-6)
  energies = np.array([s.energy for s in splits["train"]])
  assert info.energy_scale == pytest.approx(energies.std(), rel=1e-9)
  mean = info.reference_energy(splits["train"][0].atomic_numbers)
  assert mean == pytest.approx(energies.mean(), rel=1e-12)


def test_forces_point_downhill(release, tmp_path):
  _, splits = converted.convert("rmd17", release, tmp_path / "out")
  distances = np.array([s.positions[1, 2] - s.positions[0, 2] for s in splits["test"]])
  forces = np.array([s.forces[1, 2] for s in splits["test"]])
  assert (np.sign(forces) == -np.sign(distances - 1.1)).all()


def test_official_split(release, tmp_path):
  _, splits = converted.convert(
    "rmd17", release, tmp_path / "out", splits="official:02"
  )
  folder = release.parent.parent / "splits"
  train = np.loadtxt(folder / "index_train_02.csv", dtype=int)
  test = np.loadtxt(folder / "index_test_02.csv", dtype=int)
  assert sorted(_frames(splits["test"])) == sorted(test)
  order = np.arange(1000)
  np.random.RandomState(42).shuffle(order)
  assert sorted(_frames(splits["train"])) == sorted(train[order[:950]])
  assert sorted(_frames(splits["val"])) == sorted(train[order[950:]])


@pytest.mark.parametrize("packed", ["rmd17.tar.bz2", "12672038.zip"])
def test_the_release_archive_is_unpacked_once_for_all(release, tmp_path, packed):
  folder = release.parent.parent
  (release.parent / "rmd17_other.npz").write_bytes(release.read_bytes())
  archive = raw_files.write_tar(tmp_path / "rmd17.tar.bz2", folder, "w:bz2")
  if packed.endswith(".zip"):  # As Figshare packs all files of an article.
    archive = tmp_path / packed
    with zipfile.ZipFile(archive, "w") as file:
      file.write(tmp_path / "rmd17.tar.bz2", "rmd17.tar.bz2")
  expected, _ = converted.convert("rmd17", release, tmp_path / "expected")
  found, splits = converted.convert(
    "rmd17", archive, tmp_path / "out" / "oxide", molecule="oxide"
  )
  assert found.num_structures == expected.num_structures
  assert found.energy_scale == expected.energy_scale
  assert splits["train"][0].record_id.startswith("rmd17/npz_data/rmd17_oxide.npz:")
  archive_folder = tmp_path / "out" / f"{packed}.unpacked"
  inode = (archive_folder / "rmd17/npz_data/rmd17_other.npz").stat().st_ino
  _, splits = converted.convert(
    "rmd17",
    archive,
    tmp_path / "out" / "other",
    molecule="other",
    splits="official:02",
  )
  assert len(splits["test"]) == 200
  assert (archive_folder / "rmd17/npz_data/rmd17_other.npz").stat().st_ino == inode


def test_the_release_archive_needs_a_molecule(release, tmp_path):
  archive = raw_files.write_tar(
    tmp_path / "rmd17.tar.bz2", release.parent.parent, "w:bz2"
  )
  with pytest.raises(base.PlanError, match="aspirin, azobenzene.*with --molecule"):
    converted.convert("rmd17", archive, tmp_path / "out" / "any")
  with pytest.raises(base.PlanError, match="no file called rmd17_aspirin.npz"):
    converted.convert("rmd17", archive, tmp_path / "out" / "any", molecule="aspirin")


def test_split_files_are_sources(release, tmp_path):
  root = release.parent.parent
  converted.convert("rmd17", root, tmp_path / "out", splits="official:2")
  names = {s["name"] for s in converted.sources(tmp_path / "out", "val")}
  assert names == {
    "npz_data/rmd17_oxide.npz",
    "splits/index_train_02.csv",
    "splits/index_test_02.csv",
  }


@pytest.mark.parametrize(
  ("text", "frames", "message"),
  [
    ("1\n2\n3", 10, "expected whole lines, found 3 numbers"),
    ("1\n2\n", 100_000, "expected 1000 whole lines, found 2 numbers"),
    ("", 10, "expected whole lines, found 0 numbers"),
    ("1\n\xff\n", 10, "is not a list of indices"),
  ],
)
def test_truncated_official_lists(tmp_path, text, frames, message):
  path = tmp_path / "index_train_01.csv"
  path.write_text(text)
  with pytest.raises(base.RawDataError, match=message):
    rmd17.read_indices(path, frames)


def test_official_split_of_given_sizes():
  split = rmd17.official_split(np.arange(100, 200), np.arange(50), 20, 5)
  assert {k: len(v) for k, v in split.items()} == {"train": 20, "val": 5, "test": 50}
  order = np.arange(100)
  np.random.RandomState(42).shuffle(order)
  chex.assert_trees_all_equal(split["train"], 100 + order[:20])
  chex.assert_trees_all_equal(split["val"], 100 + order[20:25])
  with pytest.raises(base.PlanError, match="too few"):
    rmd17.official_split(np.arange(100), np.arange(5), 99, 5)


def test_too_few_frames_ask_for_sizes(tmp_path):
  path = tmp_path / "rmd17_small.npz"
  np.savez(path, **_oscillator(100, np.random.default_rng(0)))
  with pytest.raises(base.PlanError, match="100 frames are too few.*--train_size"):
    converted.plan("rmd17", path)
  info, _ = converted.convert(
    "rmd17", path, tmp_path / "out", train_size="80", val_size="10"
  )
  assert dict(info.num_structures) == {"train": 80, "val": 10, "test": 10}


def test_folder_with_several_molecules_needs_a_name(release):
  folder = release.parent
  (folder / "rmd17_other.npz").write_bytes(release.read_bytes())
  with pytest.raises(base.PlanError, match="--molecule"):
    converted.plan("rmd17", folder)
  assert set(converted.plan("rmd17", folder, molecule="other")) == {
    "train",
    "val",
    "test",
  }


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"splits": "official:07"}, "official:01 to official:05"),
    ({"splits": "official:03"}, "no index_train_03.csv"),
    ({"splits": "official:02", "splits_dir": "/nowhere"}, "/nowhere"),
    ({"molecule": "aspirin"}, "one with|no file called"),
  ],
)
def test_impossible_options(release, options, message):
  source = release.parent if "molecule" in options else release
  with pytest.raises(base.PlanError, match=message):
    converted.plan("rmd17", source, **options)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("1\n2\n1200\n", "below 1200"),
    ("1\n1\n", "distinct"),
    ("one\n", "not a list of"),
  ],
)
def test_bad_split_file(release, text, message):
  path = release.parent.parent / "splits/index_test_02.csv"
  path.write_text(text)
  with pytest.raises(base.RawDataError, match=message):
    converted.plan("rmd17", release, splits="official:02")


def test_frame_in_training_and_test_is_an_error(release):
  folder = release.parent.parent / "splits"
  train = (folder / "index_train_02.csv").read_text()
  (folder / "index_test_02.csv").write_text(train)
  with pytest.raises(base.RawDataError, match="1000 frames are in both"):
    converted.plan("rmd17", release, splits="official:02")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"forces": None}, "no array 'forces'"),
    ({"nuclear_charges": np.array([6], np.uint8)}, "expected 'coords' of shape"),
    ({"energies": np.zeros(3)}, "expected 'energies' of shape"),
  ],
)
def test_wrong_arrays(tmp_path, change, message):
  arrays = _oscillator(1200, np.random.default_rng(0)) | change
  path = tmp_path / "rmd17_bad.npz"
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  with pytest.raises(base.RawDataError, match=message):
    converted.plan("rmd17", path)


def test_damaged_files(release, tmp_path):
  whole = release.read_bytes()
  path = tmp_path / "rmd17_cut.npz"
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(base.RawDataError, match="rmd17_cut.npz cannot be read"):
    converted.plan("rmd17", path)
  # The directory at the end of the zip is whole, an array is not.
  with zipfile.ZipFile(release) as archive:
    offset = archive.getinfo("forces.npy").header_offset
  damaged = bytearray(whole)
  damaged[offset + 2000 : offset + 3000] = bytes(1000)
  path.write_bytes(damaged)
  with pytest.raises(base.RawDataError, match="rmd17_cut.npz cannot be read"):
    converted.convert("rmd17", path, tmp_path / "out")


def test_nan_label_names_the_frame(tmp_path):
  arrays = _oscillator(1200, np.random.default_rng(0))
  arrays["forces"][7, 1, 2] = np.nan
  path = tmp_path / "rmd17_nan.npz"
  np.savez(path, **arrays)
  with pytest.raises(ValueError, match="rmd17_nan.npz:7: expected finite forces"):
    converted.convert("rmd17", path, tmp_path / "out")


def test_real_ethanol(tmp_path):
  path = shared_files.shared_file("samples", "rmd17", "rmd17_ethanol.npz")
  info, splits = converted.convert("rmd17", path, tmp_path, splits="official:01")
  assert dict(info.num_structures) == {"train": 950, "val": 50, "test": 1000}
  # JMP's table, from other 950 frames: mean −4209.5346 eV, std 0.18617, F 1.19292.
  energies = [s.energy for s in splits["train"]]
  assert np.mean(energies) == pytest.approx(-4209.534573, abs=0.02)
  assert info.energy_scale == pytest.approx(0.18616577, rel=0.05)
  assert info.force_scale == pytest.approx(1.1929188, rel=0.01)
  # A long bond to hydrogen pulls the hydrogen back, a short one pushes it away.
  lengths, pushes = converted.hydrogen_bonds(splits["test"])
  assert np.corrcoef(lengths, pushes)[0, 1] < -0.4
  # eV/Å²; in raw units it would be 23 times larger (kcal/mol) or smaller (hartree).
  assert -40 < np.polyfit(lengths, pushes, 1)[0] < -8


def test_real_defective_sample_is_refused():
  path = shared_files.shared_file("samples", "rmd17", "rmd17_benzene_10frames.npz")
  with pytest.raises(base.RawDataError, match=r"shape \(10, 10, 3\) for 10 atoms"):
    converted.plan("rmd17", path)


@pytest.mark.parametrize(
  "molecule",
  [
    "aspirin",
    "azobenzene",
    "benzene",
    "malonaldehyde",
    "naphthalene",
    "paracetamol",
    "salicylic",
    "toluene",
    "uracil",
  ],
)
def test_real_first_hundred_frames(molecule, tmp_path):
  folder = shared_files.shared_file("samples", "rmd17", "npz_data_100")
  info, splits = converted.convert(
    "rmd17", folder, tmp_path, molecule=molecule, train_size=80, val_size=10
  )
  assert dict(info.num_structures) == {"train": 80, "val": 10, "test": 10}
  raw = np.load(folder / f"rmd17_{molecule}.npz")
  for structure in splits["val"]:
    frame = _frames([structure])[0]
    chex.assert_trees_all_equal(structure.atomic_numbers, raw["nuclear_charges"])
    chex.assert_trees_all_close(
      structure.positions, raw["coords"][frame], rtol=1e-7, atol=1e-6
    )
    assert structure.energy == raw["energies"][frame] / KCAL
    chex.assert_trees_all_close(
      structure.forces, raw["forces"][frame] / KCAL, rtol=1e-6, atol=1e-6
    )
