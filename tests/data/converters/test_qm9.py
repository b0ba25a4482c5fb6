"""QM9: raw layout, units, published split, removal of uncharacterised molecules."""

import hashlib
import io
import tarfile

import chex
import numpy as np
import pytest

from data.conversion import base
from data.converters import qm9
from data.formats import archives
from tests import shared_files
from tests.data.converters import converted

# The original file of methane, as released (trailing tabs, "0." numbers).
METHANE = (
  "5\n"
  "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t"
  "35.3641\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
  "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
  "H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921\n"
  "H\t 1.0117308433\t 1.4637511618\t 0.0002765748\t 0.133922\n"
  "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
  "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
  "1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\n"
  "C\tC\t\n"
  "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)
LIST = """


List of molecules among the 133885 GDB9 molecules for which the geometries differ
58 lines of header are not rows
==========
   Index   SMILES
  3        C#N   [CH]#N   C#N   1.5
  11       CC    CC       CC    2.5
==========
"""


def _write_archive(path, numbers, text=METHANE):
  with tarfile.open(path, "w:bz2") as tar:
    for number in numbers:
      data = text.replace("gdb 1", f"gdb {number}").encode()
      member = tarfile.TarInfo(f"dsgdb9nsd_{number:06d}.xyz")
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


@pytest.fixture(name="archive")
def _archive(tmp_path):
  raw = tmp_path / "raw"
  raw.mkdir()
  # Members need not be in order.
  _write_archive(raw / "dsgdb9nsd.xyz.tar.bz2", [*range(20, 0, -1)])
  (raw / "uncharacterized.txt").write_text(LIST)
  return raw / "dsgdb9nsd.xyz.tar.bz2"


def test_the_list_of_the_whole_release_leaves_the_published_number(tmp_path):
  listed = tmp_path / "uncharacterized.txt"
  qm9.check_list(133_885, 130_831, listed)
  qm9.check_list(133_885, 133_885, None)
  qm9.check_list(100, 99, listed)
  with pytest.raises(base.RawDataError, match="expected to leave 130831 of the 133885"):
    qm9.check_list(133_885, 130_832, listed)


def test_a_damaged_head_of_a_member_is_not_the_end_of_the_archive(tmp_path):
  path = tmp_path / "dsgdb9nsd.xyz.tar"
  with tarfile.open(path, "w") as tar:
    for number in range(1, 6):
      member = tarfile.TarInfo(f"dsgdb9nsd_{number:06d}.xyz")
      member.size = len(METHANE)
      tar.addfile(member, io.BytesIO(METHANE.encode()))
  assert [number for number, _ in qm9.members(path)] == [1, 2, 3, 4, 5]
  content = path.read_bytes()
  head = content.index(b"dsgdb9nsd_000004")
  for damaged in (
    content[:head] + b"x" + content[head + 1 :],  # Its checksum is wrong.
    content[:head],  # Without the mark at the end.
    content[: head + 100],
  ):
    path.write_bytes(damaged)
    with pytest.raises(base.RawDataError, match="after molecule 3: a member has a dam"):
      list(qm9.members(path))
    with pytest.raises(base.RawDataError, match="a member has a damaged head"):
      archives.members(path)


def test_units_of_methane():
  molecule = qm9.parse(METHANE, "x")
  chex.assert_trees_all_equal(molecule.atomic_numbers, np.array([6, 1, 1, 1, 1]))
  chex.assert_trees_all_equal(
    molecule.positions[0], np.array([-0.0126981359, 1.0858041578, 0.0080009958])
  )
  hartree = 27.211386246
  expected = {
    "mu": 0.0,
    "alpha": 13.21,
    "eps_HOMO": -0.3877 * hartree,
    "eps_LUMO": 0.1171 * hartree,
    "delta_eps": 0.5048 * hartree,
    "R_2_Abs": 35.3641,
    "ZPVE": 0.044749 * hartree,
    "U_0": -40.47893 * hartree,
    "U": -40.476062 * hartree,
    "H": -40.475117 * hartree,
    "G": -40.498597 * hartree,
    "c_v": 6.469,
  }
  assert {k: float(v) for k, v in molecule.targets.items()} == expected


def test_mathematica_exponents_read_as_powers_of_ten():
  text = METHANE.replace("\t 0.0080009958\t", "\t 8.0009958*^-3\t")
  text = text.replace("0.044749", "4.4749*^-2")
  parsed, plain = qm9.parse(text, "x"), qm9.parse(METHANE, "x")
  chex.assert_trees_all_equal(parsed.positions, plain.positions)
  assert parsed.targets == plain.targets


def test_split_has_the_published_sizes_and_order():
  split = qm9.split(np.arange(qm9.NUM_CHARACTERIZED))
  assert {k: len(v) for k, v in split.items()} == {
    "train": 110_831,
    "val": 10_000,
    "test": 10_000,
  }
  order = np.arange(qm9.NUM_CHARACTERIZED)
  np.random.RandomState(42).shuffle(order)
  chex.assert_trees_all_equal(np.concatenate(list(split.values())), order)
  digest = hashlib.sha256(split["test"].astype("<i8").tobytes()).hexdigest()
  assert digest[:16] == "d268a614acdeb4aa"


def test_split_of_few_molecules_keeps_the_proportions():
  assert {k: len(v) for k, v in qm9.split(np.arange(2000)).items()} == {
    "train": 1696,
    "val": 152,
    "test": 152,
  }
  # At least one molecule each for validation and test.
  assert {k: len(v) for k, v in qm9.split(np.arange(10)).items()} == {
    "train": 8,
    "val": 1,
    "test": 1,
  }


def test_uncharacterized_rows_are_those_that_begin_with_a_number(tmp_path):
  path = tmp_path / "uncharacterized.txt"
  path.write_text(LIST.replace("58 lines", "Lines"))
  assert qm9.read_uncharacterized(path) == {3, 11}


def test_converts_an_archive(archive, tmp_path):
  (archive.parent / "uncharacterized.txt").write_text(LIST.replace("58 lines", "Lines"))
  info, splits = converted.convert("qm9", archive, tmp_path / "out")
  assert dict(info.num_structures) == {"train": 16, "val": 1, "test": 1}
  ids = {s.record_id for split in splits.values() for s in split}
  # Numbers are 1-based: 3 and 11 are out, their neighbors are in.
  assert ids == {f"dsgdb9nsd_{i:06d}.xyz" for i in range(1, 21) if i not in (3, 11)}
  assert info.provenance["splits"]["train"]["filtered"] == {"uncharacterized": 2}
  assert {s["name"] for s in converted.sources(tmp_path / "out", "train")} == {
    "dsgdb9nsd.xyz.tar.bz2",
    "uncharacterized.txt",
  }
  # Order: numbers ascending, shuffled, cut.
  kept = np.array([i for i in range(1, 21) if i not in (3, 11)])
  order = np.arange(18)
  np.random.RandomState(42).shuffle(order)
  assert splits["test"][0].record_id == f"dsgdb9nsd_{kept[order][-1]:06d}.xyz"
  assert info.graph.cutoff == 8.0
  assert info.graph.max_neighbors == 30
  assert info.units["c_v"] == "cal/(mol K)"


def test_only_extensive_energies_have_references(archive, tmp_path):
  info, _ = converted.convert("qm9", archive, tmp_path / "out", uncharacterized="none")
  with_references = {k for k, v in info.targets.items() if v.references}
  assert with_references == {"ZPVE", "U_0", "U", "H", "G", "c_v"}
  # The spatial extent is predicted as it is.
  assert (info.targets["R_2_Abs"].mean, info.targets["R_2_Abs"].std) == (0.0, 1.0)


def test_missing_list_is_explained(archive):
  (archive.parent / "uncharacterized.txt").unlink()
  with pytest.raises(base.PlanError, match="--uncharacterized=none"):
    converted.plan("qm9", archive)


def test_list_without_rows_is_an_error(archive):
  (archive.parent / "uncharacterized.txt").write_text("nothing\n")
  with pytest.raises(base.RawDataError, match="begin with a number"):
    converted.plan("qm9", archive)


def test_truncated_archive_is_an_error(archive):
  archive.write_bytes(archive.read_bytes()[:-40])
  with pytest.raises(base.RawDataError, match="dsgdb9nsd.xyz.tar.bz2 cannot be read"):
    converted.plan("qm9", archive)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("\t6.469", "", "15 properties"),
    ("C\t-0.012", "Q\t-0.012", "unknown elements"),
    ("\t 0.133921", "", "5 rows"),
    ("0.044749", "zero", "could not convert"),
  ],
)
def test_malformed_molecule_names_its_file(tmp_path, old, new, message):
  path = tmp_path / "some.tar.bz2"
  _write_archive(path, range(1, 6), METHANE.replace(old, new))
  with pytest.raises(ValueError, match=f"{message}.*dsgdb9nsd_00000..xyz"):
    converted.convert("qm9", path, tmp_path / "out", uncharacterized="none")


def test_real_list_holds_3054_molecules():
  path = shared_files.shared_file("samples", "qm9", "uncharacterized.txt")
  found = qm9.read_uncharacterized(path)
  assert len(found) == 3054 and min(found) == 58 and max(found) == 133_866


def test_real_first_ten(tmp_path):
  path = shared_files.shared_file("samples", "qm9", "dsgdb9nsd_first10.tar.bz2")
  info, splits = converted.convert("qm9", path, tmp_path)
  assert dict(info.num_structures) == {"train": 8, "val": 1, "test": 1}
  by_id = {s.record_id: s for split in splits.values() for s in split}
  methane = by_id["dsgdb9nsd_000001.xyz"]
  expected = qm9.parse(METHANE, "")
  assert methane.targets == expected.targets
  chex.assert_trees_all_close(
    methane.positions, expected.positions, rtol=1e-7, atol=1e-7
  )


def test_real_sample_has_jmp_statistics(tmp_path):
  path = shared_files.shared_file(
    "samples", "qm9", "dsgdb9nsd_sample2000_derived.tar.bz2"
  )
  raw = np.load(shared_files.shared_file("samples", "qm9", "qm9_sample2000.npz"))
  info, splits = converted.convert("qm9", path, tmp_path)
  assert dict(info.num_structures) == {"train": 1696, "val": 152, "test": 152}
  # Every record equals the independent copy of the same molecules.
  ends = np.cumsum(raw["n"])
  for structure in splits["val"]:
    row = int(np.flatnonzero(raw["index"] == int(structure.record_id[10:16]))[0])
    atoms = slice(ends[row] - raw["n"][row], ends[row])
    chex.assert_trees_all_equal(structure.atomic_numbers, raw["z"][atoms])
    chex.assert_trees_all_close(
      structure.positions, raw["pos"][atoms], rtol=1e-7, atol=1e-6
    )
    assert structure.targets["U_0"] == pytest.approx(raw["U0"][row] * 27.211386246)
    assert structure.targets["c_v"] == pytest.approx(raw["Cv"][row])
  # JMP's published statistics of the whole set, within the spread of 1,696 molecules.
  for name, mean, std in [
    ("mu", 2.6746, 1.5055),
    ("eps_HOMO", -6.5348, 0.5970),
    ("eps_LUMO", 0.3238, 1.2736),
    ("delta_eps", 6.8586, 1.2831),
    ("ZPVE", 0.0, 0.0490),
    ("U_0", 0.0, 1.0966),
    ("c_v", 0.0, 2.2180),
  ]:
    found = info.targets[name]
    assert found.mean == pytest.approx(mean, abs=0.07 * std), name
    assert found.std == pytest.approx(std, rel=0.1), name
  assert info.targets["U_0"].references[6] == pytest.approx(-1036.04, abs=0.05)
