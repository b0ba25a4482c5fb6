"""`--dataset=ase`: label keys, units, splits, tags of OC20 trajectories."""

import shutil

import ase
from ase import constraints
import ase.build
from ase.calculators import emt
from ase.calculators import singlepoint
import ase.io
import chex
import numpy as np
import pytest

from data import convert as convert_lib
from data.conversion import base
from data.formats import ase_atoms
from jmp_hk import structure as structure_lib
from jmp_hk import voigt
from tests import shared_files
from tests.data.converters import converted


def _atoms(seed, n=4):
  rng = np.random.default_rng(seed)
  atoms = ase.Atoms("H" * n, positions=rng.normal(size=(n, 3)) + 2)
  atoms.calc = singlepoint.SinglePointCalculator(
    atoms, energy=float(rng.normal()), forces=rng.normal(size=(n, 3))
  )
  atoms.info["gap"] = float(rng.normal())
  atoms.info["kind"] = seed % 3
  atoms.arrays["magmom"] = rng.normal(size=(n, 3))
  return atoms


@pytest.mark.parametrize("suffix", ["xyz", "traj", "db"])
def test_formats_equal_ase(convert, tmp_path, suffix):
  path = tmp_path / f"mine.{suffix}"
  frames = [_atoms(k) for k in range(3)]
  if suffix == "db":
    for atoms in frames:
      ase.io.write(path, atoms, append=True)
  else:
    ase.io.write(path, frames)
  found, info = convert("ase", path, "train", name="mine")
  assert len(found["train"]) == 3
  for structure, atoms in zip(found["train"], ase.io.iread(path), strict=True):
    chex.assert_trees_all_equal(structure.positions, atoms.positions.astype("f4"))
    assert structure.energy == atoms.get_potential_energy()
    chex.assert_trees_all_equal(structure.forces, atoms.get_forces().astype("f4"))
  assert info.name == "mine" and info.provenance["scales"] == "fitted"
  assert (found["train"][0].tags == 2).all() and not found["train"][0].pbc.any()


def test_label_keys_units_and_targets(convert, tmp_path):
  path = tmp_path / "mine.extxyz"
  frames = [_atoms(k) for k in range(6)]
  for atoms in frames:
    atoms.info["E_dft"], atoms.arrays["grad"] = 2.0, np.full((4, 3), 1.0)
  ase.io.write(path, frames)
  found, info = convert(
    "ase",
    path,
    "train",
    energy_key="E_dft",
    forces_key="grad",
    energy_unit="kcal/mol",
    forces_unit="Hartree/Bohr",
    targets="gap:structure:eV,kind:class,magmom:atoms",
    cutoff="7.5",
  )
  for structure, atoms in zip(found["train"], frames, strict=True):
    assert structure.energy == pytest.approx(2 * 0.0433641, rel=1e-5)
    chex.assert_trees_all_close(structure.forces, 51.42207, rtol=1e-6, atol=0)
    assert structure.targets["gap"] == pytest.approx(atoms.info["gap"])
    chex.assert_trees_all_close(
      structure.targets["magmom"], atoms.arrays["magmom"], rtol=1e-7, atol=1e-6
    )
  gaps = [a.info["gap"] for a in frames]
  assert info.targets["gap"].mean == pytest.approx(np.mean(gaps))
  assert info.targets["gap"].std == pytest.approx(np.std(gaps))
  assert info.targets["kind"].num_classes == 3 and info.graph.cutoff == 7.5


def test_without_energy_and_forces(convert, tmp_path):
  path = tmp_path / "bare.cif"
  ase.io.write(path, ase.build.bulk("Cu", cubic=True))
  found, info = convert("ase", path, "test", energy_key="none", forces_key="none")
  assert found["test"][0].energy is None and found["test"][0].pbc.all()
  assert info.energy_references == {} and "energy" not in info.units


@pytest.mark.parametrize("split_by", ["frame", "file"])
def test_random_fractions(convert, tmp_path, split_by):
  (tmp_path / "raw").mkdir()
  for k in range(10):
    ase.io.write(tmp_path / "raw" / f"{k}.xyz", [_atoms(k), _atoms(k + 100)])
  found, info = convert(
    "ase", tmp_path / "raw" / "*.xyz", split_by=split_by, split_fractions="0.7,0.2,0.1"
  )
  assert info.num_structures == {"train": 14, "val": 4, "test": 2}
  ids = {k: {s.record_id for s in v} for k, v in found.items()}
  assert len(set.union(*ids.values())) == 20
  if split_by == "file":
    files = {k: {i.split(":")[0] for i in v} for k, v in ids.items()}
    assert {k: len(v) for k, v in files.items()} == {"train": 7, "val": 2, "test": 1}


def test_folders_are_splits(convert, tmp_path):
  for split in ("train", "val"):
    (tmp_path / "raw" / split).mkdir(parents=True)
    ase.io.write(tmp_path / "raw" / split / "a.xyz", [_atoms(1)])
  _, info = convert("ase", tmp_path / "raw")
  assert info.num_structures == {"train": 1, "val": 1}


def test_conventions_are_options(convert, tmp_path):
  path = tmp_path / "mine.xyz"
  ase.io.write(path, [_atoms(0)])
  options = {"periodic_in_3d": "true", "evaluate_free_atoms_only": "true"}
  _, info = convert("ase", path, "train", **options)
  assert info.periodic_in_3d and info.evaluate_free_atoms_only
  assert info.force_coefficient is None


def test_errors_say_what_to_do(convert, tmp_path):
  path = tmp_path / "mine.xyz"
  ase.io.write(path, [_atoms(0)])
  with pytest.raises(base.PlanError, match="--split=train"):
    convert("ase", path)
  with pytest.raises(
    structure_lib.InvalidStructureError,
    match="mine.xyz:0: expected the label 'E', found .*'energy'",
  ):
    convert("ase", path, "train", energy_key="E")
  with pytest.raises(base.PlanError, match="--forces_unit=N must"):
    convert("ase", path, "train", forces_unit="N")
  with pytest.raises(base.PlanError, match="shares that add up to 1"):
    convert("ase", path, split_fractions="0.5,0.1")
  with pytest.raises(base.PlanError, match="--cutoff=far: expected a number, above 0"):
    convert("ase", path, "train", cutoff="far")
  path.write_text(path.read_text()[:-30])
  with pytest.raises(base.RawDataError, match="mine.xyz: ASE fails after 0 frames"):
    convert("ase", path, "train")


def test_empty_trajectory(convert, tmp_path):
  path = tmp_path / "mine.traj"
  ase.io.write(path, _atoms(0), append=True)  # ASE writes a file without frames
  with pytest.raises(
    base.RawDataError, match="mine.traj: expected records, found none"
  ):
    convert("ase", path, "train")


def test_tags_of_oc20_trajectories():
  # Two fixed slab atoms, a free one, a free slab oxygen, and CO at the end.
  numbers = np.array([29, 8, 29, 8, 29, 6, 8])
  fixed = np.array([True, True, False, False, False, False, False])
  tags = ase_atoms.derive_oc20_tags(numbers, fixed)
  assert tags.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_real_trajectory_keeps_raw_forces_of_fixed_atoms(convert):
  path = shared_files.shared_file("samples", "oc20", "traj", "random1000142.traj")
  found, _ = convert("ase", path, "train", tags_key="oc20_rule")
  frames = ase.io.read(path, ":")
  for structure, atoms in zip(found["train"], frames, strict=True):
    raw = atoms.get_forces(apply_constraint=False)
    chex.assert_trees_all_equal(structure.forces, raw.astype(np.float32))
    assert structure.energy == atoms.get_potential_energy()
    (constraint,) = atoms.constraints
    assert isinstance(constraint, constraints.FixAtoms)
    assert (np.flatnonzero(structure.fixed) == np.sort(constraint.index)).all()
    assert (structure.tags[structure.fixed] == 0).all() and (structure.tags == 2).any()


def test_keys_are_found_and_stored(convert, tmp_path):
  path = tmp_path / "mace.extxyz"
  frames = [_atoms(k) for k in range(4)]
  for atoms in frames:
    atoms.info["REF_energy"] = atoms.get_potential_energy()
    atoms.arrays["REF_forces"] = atoms.get_forces()
    atoms.calc = singlepoint.SinglePointCalculator(
      atoms, energy=99.0, forces=np.zeros((4, 3))
    )
  ase.io.write(path, frames)
  found, info = convert("ase", path, "train", targets="GAP")
  assert [s.energy for s in found["train"]] == pytest.approx(
    [a.info["REF_energy"] for a in frames]
  )
  assert float(found["train"][1].targets["GAP"]) == frames[1].info["gap"]
  options = info.provenance["splits"]["train"]["options"]
  assert options["energy_key"] == "REF_energy" and options["target_keys"] == "GAP=gap"


def _crystals():
  """Two crystals with a stress, one without, and a molecule."""
  frames = []
  for index, symbol in enumerate(("Cu", "Au", "Cu")):
    atoms = ase.build.bulk(symbol, cubic=True)
    atoms.rattle(0.1, seed=index)
    atoms.calc = emt.EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if index < 2:
      results["stress"] = atoms.get_stress()
    atoms.calc = singlepoint.SinglePointCalculator(atoms, **results)
    frames.append(atoms)
  return [*frames, _atoms(3)]


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db"])
def test_stress_is_kept_where_there_is_one(convert, tmp_path, suffix):
  path, frames = tmp_path / f"mine.{suffix}", _crystals()
  for atoms in frames:
    ase.io.write(path, atoms, append=True)
  found, info = convert("ase", path, "train")
  assert info.units["stress"] == "eV/Å³"
  assert info.splits["train"].missing == {"stress": 2}
  structures = found["train"]
  for structure, atoms in zip(structures[:2], frames, strict=False):
    expected = atoms.calc.results["stress"]
    chex.assert_trees_all_close(structure.stress, expected, rtol=1e-6, atol=1e-9)
  assert [s.stress is None for s in structures] == [False, False, True, True]
  # It need not be read, and then nothing is said about it.
  found, info = convert("ase", path, "val", stress_key="none")
  assert "stress" not in info.units and found["val"][0].stress is None


def test_virials_and_other_units_of_stress(convert, tmp_path):
  path, frames = tmp_path / "mine.extxyz", _crystals()[:2]
  expected = [atoms.calc.results.pop("stress") for atoms in frames]
  for atoms, stress in zip(frames, expected, strict=True):
    matrix = voigt.to_matrix(stress)
    atoms.info |= {"virial": -matrix * atoms.get_volume(), "kbar": 10 * matrix}
    atoms.info["kbar"] *= voigt.GPA
  ase.io.write(path, frames)
  options = {"stress_key": "kbar", "stress_unit": "kbar"}
  for split, given in (("train", {}), ("val", options)):
    found, _ = convert("ase", path, split, **given)
    for structure, stress in zip(found[split], expected, strict=True):
      chex.assert_trees_all_close(structure.stress, stress, rtol=1e-5, atol=1e-8)


def test_stress_of_what_has_none_is_refused(convert, tmp_path):
  path, atoms = tmp_path / "mine.traj", _atoms(0)
  atoms.calc.results["stress"] = np.ones(6)
  ase.io.write(path, [atoms])
  with pytest.raises(ValueError, match="without a periodic cell.*has no stress"):
    convert("ase", path, "train")
  with pytest.raises(base.PlanError, match="stress is read without it, see --stress_k"):
    convert("ase", path, "train", targets="stress")
  with pytest.raises(base.PlanError, match="--stress_unit=Pa is unknown"):
    convert("ase", path, "train", stress_unit="Pa")


def test_keys_that_are_not_plain_are_asked_for(convert, tmp_path):
  path = tmp_path / "mine.extxyz"
  atoms = _atoms(0)
  atoms.info["dft_energy"] = 1.0
  ase.io.write(path, [atoms])
  with pytest.raises(base.PlanError, match="'dft_energy'.*Say which with --energy_key"):
    convert("ase", path, "train")
  with pytest.raises(base.PlanError, match="--target_keys=dipole=KEY"):
    convert("ase", path, "train", energy_key="energy", targets="dipole")
  atoms = ase.build.molecule("H2O")
  ase.io.write(path, [atoms])
  with pytest.raises(base.PlanError, match="neither energies nor forces"):
    convert("ase", path, "train")
  with pytest.raises(base.PlanError, match="no label 'energy'"):
    convert("ase", path, "train", energy_key="required")


def test_labels_that_may_be_missing(convert, tmp_path):
  path = tmp_path / "mine.traj"
  frames = [_atoms(k) for k in range(6)]
  del frames[0].info["gap"]
  frames[1].info["gap"] = float("nan")
  frames[2].calc = None
  ase.io.write(path, frames)
  found, info = convert(
    "ase", path, "train", targets="gap", missing="gap,energy,forces"
  )
  lacking = [
    [name for name in ("energy", "forces", "gap") if structure.label(name) is None]
    for structure in found["train"]
  ]
  assert lacking == [["gap"], ["gap"], ["energy", "forces"], [], [], []]
  facts = info.splits["train"]
  assert facts.missing == {"energy": 1, "forces": 1, "gap": 2}
  assert facts.elements == (1,)
  gaps = [a.info["gap"] for a in frames[2:]]
  assert info.targets["gap"].mean == pytest.approx(np.mean(gaps))
  with pytest.raises(
    structure_lib.InvalidStructureError, match="^mine.traj:0: expected the label 'gap'"
  ):
    convert("ase", path, "val", targets="gap", missing="energy,forces")


def test_errors_of_one_kind_are_one_sentence(convert, tmp_path):
  path = tmp_path / "mine.traj"
  frames = [_atoms(k) for k in range(40)]
  for atoms in frames[::2]:
    atoms.calc.results["forces"] = np.full((4, 3), np.nan)
  ase.io.write(path, frames)
  with pytest.raises(
    structure_lib.InvalidStructureError,
    match=r"^20 of 40 records: expected finite forces.*mine.traj:8, and 15 more\)\.$",
  ):
    convert("ase", path, "train")


def test_small_files_share_a_shard(convert, tmp_path):
  (tmp_path / "raw").mkdir()
  for k in range(5):
    ase.io.write(tmp_path / "raw" / f"{k}.xyz", [_atoms(k), _atoms(k + 10)])
  found, info = convert("ase", tmp_path / "raw", "train")
  assert info.provenance["splits"]["train"]["shards"] == 1
  expected = [f"{k}.xyz:{i}" for k in range(5) for i in range(2)]
  assert [structure.record_id for structure in found["train"]] == expected
  assert len(converted.sources(tmp_path / "converted", "train")) == 5


def test_elements_that_are_rare_stay_in_the_training(convert, tmp_path):
  path = tmp_path / "mine.traj"
  frames = [_atoms(k) for k in range(20)]
  labels = frames[7].calc.results
  frames[7].symbols[0] = "Pt"
  frames[7].calc = singlepoint.SinglePointCalculator(frames[7], **labels)
  ase.io.write(path, frames)
  for seed in range(4):
    found, info = convert(
      "ase", path, split_fractions="0.5,0.25,0.25", split_seed=seed, name=f"s{seed}"
    )
    assert 78 in info.splits["train"].elements
    assert sum(map(len, found.values())) == 20
    shutil.rmtree(tmp_path / "converted")


def test_small_shares_get_a_structure(convert, tmp_path):
  path = tmp_path / "mine.traj"
  ase.io.write(path, [_atoms(k) for k in range(3)])
  _, info = convert("ase", path, split_fractions="0.9,0.1")
  assert info.num_structures == {"train": 2, "val": 1}


def test_a_table_beside_structures(convert, tmp_path):
  rows = ["id,gap"]
  for k in range(6):
    ase.io.write(tmp_path / f"s{k}.cif", ase.build.bulk("Cu", a=3.6 + 0.01 * k))
    rows.append(f"s{k},{'' if k == 2 else k / 2}")
  (tmp_path / "props.csv").write_text("\n".join(rows))
  found, info = convert(
    "ase",
    tmp_path / "props.csv",
    targets="gap:structure:eV",
    missing="gap",
    split_fractions="0.5,0.5",
  )
  labels = {s.record_id: s.label("gap") for split in found.values() for s in split}
  expected = {f"props.csv:s{k}": None if k == 2 else k / 2 for k in range(6)}
  assert labels == expected
  assert info.units["gap"] == "eV" and "energy" not in info.units
  sources = [s["name"] for s in converted.sources(tmp_path / "converted", "train")]
  assert sources == sorted(["props.csv", *(f"s{k}.cif" for k in range(6))])


@pytest.mark.parametrize("truncation", ["published", "smooth"])
def test_the_command_says_where_the_limit_cuts_shells(tmp_path, capsys, truncation):
  ase.io.write(tmp_path / "cu.traj", [ase.build.bulk("Cu", cubic=True)] * 3)
  options = {"energy_key": "none", "forces_key": "none", "truncation": truncation}
  convert_lib.run(
    convert_lib.Config(
      dataset="ase",
      input=str(tmp_path / "cu.traj"),
      output=str(tmp_path / "out"),
      split="train",
      options=options | {"cutoff": "5", "max_neighbors": "30"},
    )
  )
  printed = capsys.readouterr().out
  assert "structures: 3 train" in printed
  advised = "100 % of the atoms have more neighbors inside 5 Å than the 30" in printed
  assert advised == (truncation == "published")
  assert ("42 neighbors would leave none out" in printed) == advised
