"""OC20: the fast extended XYZ reader against ASE, and the release's layout."""

import io
import lzma
import shutil

from ase import constraints
import ase.io
import chex
import numpy as np
import pytest

from data.conversion import base
from data.formats import archives
from data.formats import extxyz
from tests import shared_files
from tests.data import raw_files
from tests.data.converters import converted


def _assert_equals_ase(structure, atoms):
  chex.assert_trees_all_equal(structure.positions, atoms.positions.astype(np.float32))
  chex.assert_trees_all_equal(structure.atomic_numbers, atoms.numbers)
  chex.assert_trees_all_equal(structure.cell, atoms.cell[:])
  chex.assert_trees_all_equal(structure.pbc, atoms.pbc)
  chex.assert_trees_all_equal(structure.tags, atoms.get_tags())
  fixed = np.zeros(len(atoms), bool)
  for constraint in atoms.constraints:
    assert isinstance(constraint, constraints.FixAtoms)
    fixed[constraint.index] = True
  chex.assert_trees_all_equal(structure.fixed, fixed)
  assert structure.energy == atoms.calc.results["energy"]
  # Raw forces: ASE zeroes those of fixed atoms only when asked to.
  raw = atoms.get_forces(apply_constraint=False)
  chex.assert_trees_all_equal(structure.forces, raw.astype(np.float32))


def _frames(path):
  with lzma.open(path, "rt") as file:
    return ase.io.read(io.StringIO(file.read()), ":", format="extxyz")


def test_self_made_files_equal_ase(convert, tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=2, frames=3)
  found, info = convert("oc20", source, "train")
  atoms = [a for k in range(2) for a in _frames(source / f"{k}.extxyz.xz")]
  for structure, expected in zip(found["train"], atoms, strict=True):
    _assert_equals_ase(structure, expected)
  assert found["train"][4].record_id == "1.extxyz.xz:1:random1,frame1"
  assert info.graph.cutoff == 12.0 and info.graph.max_neighbors == 30
  # Forces on fixed atoms are kept as they are.
  assert any(s.fixed.any() and s.forces[s.fixed].any() for s in found["train"])


def test_real_sample_equals_ase(convert):
  source = shared_files.shared_file("samples", "oc20", "s2ef_train_mini_derived")
  found, info = convert("oc20", source, "train")
  atoms = [a for k in range(2) for a in _frames(source / f"{k}.extxyz.xz")]
  for structure, expected in zip(found["train"], atoms, strict=True):
    _assert_equals_ase(structure, expected)
  assert info.num_structures == {"train": 210}
  assert found["train"][0].record_id == "0.extxyz.xz:0:random1000100,frame0"
  assert {t for s in found["train"] for t in s.tags} == {0, 1, 2}


def test_shards_follow_the_numbers_of_the_pairs(convert, tmp_path):
  source = raw_files.write_oc20(
    tmp_path / "raw", {k: [raw_files.oc20_frame(k)] for k in (10, 2, 1)}
  )
  found, _ = convert("oc20", source, "val")
  assert [s.record_id.split(".")[0] for s in found["val"]] == ["1", "2", "10"]


def test_release_folders_name_the_splits(convert, tmp_path):
  raw_files.oc20_folder(tmp_path / "raw" / "s2ef_train_200K", files=2)
  raw_files.oc20_folder(tmp_path / "raw" / "s2ef_val_id", files=1)
  found, _ = convert("oc20", tmp_path / "raw")
  assert {k: len(v) for k, v in found.items()} == {"train": 8, "val_id": 4}
  with pytest.raises(base.PlanError, match="no split 'test'; it has train, val_id"):
    convert("oc20", tmp_path / "raw", "test")


def _ids(structures):
  return [structure.record_id for structure in structures]


def _archive(tmp_path, name="s2ef_train_200K", **kwargs):
  """A release archive: NAME.tar with NAME/NAME/N.extxyz.xz, … and a README."""
  outer = tmp_path / "packed" / name
  raw_files.oc20_folder(outer / name, **kwargs)
  (outer / "README").write_text("Not a pair.")
  return raw_files.write_tar(tmp_path / f"{name}.tar", outer)


def test_the_release_archive_gives_what_its_folder_gives(convert, tmp_path):
  archive = _archive(tmp_path, files=12)
  folder = tmp_path / "packed" / "s2ef_train_200K"
  found, info = convert("oc20", archive)
  (source,) = converted.sources(tmp_path / "converted", "train")
  assert source["name"] == "s2ef_train_200K.tar"
  shutil.rmtree(tmp_path / "converted")
  expected, _ = convert("oc20", folder, "train")
  assert _ids(found["train"]) == [
    f"s2ef_train_200K/{i}" for i in _ids(expected["train"])
  ]
  for structure, other in zip(found["train"], expected["train"], strict=True):
    chex.assert_trees_all_equal(structure.positions, other.positions)
    chex.assert_trees_all_equal(structure.forces, other.forces)
    assert structure.energy == other.energy


def test_the_release_archive_can_be_called_another_split(convert, tmp_path):
  found, _ = convert("oc20", _archive(tmp_path, "s2ef_val_id", files=1), "val")
  assert {k: len(v) for k, v in found.items()} == {"val": 4}


def test_a_folder_of_archives_holds_several_splits(convert, tmp_path):
  (tmp_path / "raw").mkdir()
  for name, files in (("s2ef_train_2M", 2), ("s2ef_val_id", 1)):
    _archive(tmp_path, name, files=files).rename(tmp_path / "raw" / f"{name}.tar")
  found, _ = convert("oc20", tmp_path / "raw")
  assert {k: len(v) for k, v in found.items()} == {"train": 8, "val_id": 4}


def test_an_archive_and_its_folder_are_not_converted_both(convert, tmp_path):
  (tmp_path / "packed").mkdir()
  archive = _archive(tmp_path)
  archive.rename(tmp_path / "packed" / archive.name)
  with pytest.raises(base.PlanError, match="archives.*and unpacked files"):
    convert("oc20", tmp_path / "packed")


def test_the_name_of_the_folder_tells_the_split(convert, tmp_path):
  found, _ = convert("oc20", raw_files.oc20_folder(tmp_path / "s2ef_train_200K"))
  assert list(found) == ["train"]


def test_decompressed_pairs(convert, tmp_path):
  # As fairchem's uncompress script leaves them.
  source = raw_files.oc20_folder(tmp_path / "raw", files=2)
  compressed, _ = convert("oc20", source, "train")
  for path in list(source.iterdir()):
    path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
  with pytest.raises(base.PlanError, match="0.extxyz.xz would be converted twice"):
    convert("oc20", source, "train")
  for path in source.glob("*.xz"):
    path.unlink()
  shutil.rmtree(tmp_path / "converted")
  found, _ = convert("oc20", source, "train")
  plain = [i.replace(".extxyz.xz", ".extxyz") for i in _ids(compressed["train"])]
  assert _ids(found["train"]) == plain
  for structure, other in zip(found["train"], compressed["train"], strict=True):
    chex.assert_trees_all_equal(structure.forces, other.forces)


def test_a_truncated_archive_is_named(convert, tmp_path):
  archive = _archive(tmp_path)
  archive.write_bytes(archive.read_bytes()[:5000])
  with pytest.raises(base.RawDataError, match="s2ef_train_200K.tar cannot be read"):
    convert("oc20", archive)


def test_a_damaged_member_is_named(convert, tmp_path):
  archive = _archive(tmp_path, files=1)
  (frames,) = [m for m in archives.members(archive) if m.name.endswith("0.extxyz.xz")]
  content = bytearray(archive.read_bytes())
  content[frames.offset + 100 : frames.offset + 110] = bytes(10)
  archive.write_bytes(content)
  with pytest.raises(base.RawDataError, match="s2ef_train_200K/0.extxyz.xz: after"):
    convert("oc20", archive)


def test_an_archive_without_pairs(convert, tmp_path):
  (tmp_path / "folder").mkdir()
  archive = raw_files.write_tar(tmp_path / "s2ef_train_2M.tar", tmp_path / "folder")
  with pytest.raises(base.PlanError, match="holds no .extxyz.xz"):
    convert("oc20", archive)


def test_column_order_comes_from_properties():
  text = (
    b"2\nProperties=tags:I:1:forces:R:3:species:S:1:pos:R:3:move_mask:L:1 "
    b'energy=-1.5 Lattice="1 0 0 0 1 0 0 0 1" note="a = b"\n'
    b"2 1 2 3 H 4 5 6 T\n1 7 8 9 Pt 1e1 -1.1E-1 12 F\n"
  )
  (frame,) = extxyz.read_frames(io.BufferedReader(io.BytesIO(text)))
  assert frame.column("species", ()).tolist() == [1, 78]
  assert frame.column("pos", (3,)).tolist() == [[4, 5, 6], [10, -0.11, 12]]
  assert frame.column("forces", (3,)).tolist() == [[1, 2, 3], [7, 8, 9]]
  assert frame.column("move_mask", ()).tolist() == [True, False]
  assert frame.info["note"] == "a = b" and frame.numbers("energy", 1) == [-1.5]


@pytest.mark.parametrize(
  "text, reason",
  [
    (b"x\n", "number of atoms"),
    (b"3\nProperties=species:S:1\nH\nH\n", "truncated"),
    (b"3\n", "truncated"),
    (b"1\nProperties=species:S:1\nH\n\n5\n", "empty line"),
  ],
)
def test_unreadable_file(text, reason):
  with pytest.raises(extxyz.FileError, match=reason):
    list(extxyz.read_frames(io.BufferedReader(io.BytesIO(text))))


def test_frame_count_must_agree_with_the_txt_file(convert, tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=1)
  with lzma.open(source / "0.txt.xz", "wt") as file:
    file.writelines(f"random1,frame{i},0.0\n" for i in range(5))
  with pytest.raises(base.RawDataError, match="expected 5 frames.*found 4"):
    convert("oc20", source, "train")


def test_files_of_ids_that_were_swapped_are_noticed_by_their_energies(
  convert, tmp_path
):
  frames = {
    k: [raw_files.oc20_frame(10 * k + i, energy=energy + i) for i in range(3)]
    for k, energy in enumerate((-181.5, -402.25))
  }
  source = raw_files.write_oc20(tmp_path / "raw", frames)
  first, second = source / "0.txt.xz", source / "1.txt.xz"
  contents = first.read_bytes(), second.read_bytes()
  first.write_bytes(contents[1])
  second.write_bytes(contents[0])
  message = "0.extxyz.xz: expected energies .* 0.txt.xz, found a median of 223 eV"
  with pytest.raises(base.RawDataError, match=message):
    convert("oc20", source, "train")
  # Copies of the release without references have zeros.
  for path in (first, second):
    with lzma.open(path, "wt") as file:
      file.writelines(f"random1,frame{i},0.0\n" for i in range(3))
  assert len(convert("oc20", source, "train")[0]["train"]) == 6


def test_files_of_ids_that_lack_or_hold_something_else_are_refused(convert, tmp_path):
  lacking = raw_files.oc20_folder(tmp_path / "lacking", files=2)
  (lacking / "1.txt.xz").unlink()
  with pytest.raises(base.PlanError, match="1.extxyz.xz has no 1.txt.xz beside it"):
    convert("oc20", lacking, "train")
  other = raw_files.oc20_folder(tmp_path / "other", files=1)
  (other / "0.txt.xz").write_bytes((other / "0.extxyz.xz").read_bytes())
  with pytest.raises(base.RawDataError, match="0.txt.xz, line 1: expected random<ID>"):
    convert("oc20", other, "train")
  with lzma.open(other / "0.txt.xz", "wt") as file:
    file.writelines("random1,frame0,0.0\n" for _ in range(4))
  with pytest.raises(base.RawDataError, match="listed twice"):
    convert("oc20", other, "train")
