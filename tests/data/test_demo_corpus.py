"""The shipped demo corpora: layout, counts, units, labels that can be recomputed."""

import gzip
import io
import json
import lzma
import pathlib
import re
import tarfile

import ase
from ase import units
import ase.calculators.emt
import ase.io
import chex
import h5py
import numpy as np
import pytest

from data.formats import lmdb_records

_RAW = pathlib.Path(__file__).resolve().parents[2] / "data" / "demo" / "raw"
_KCAL = units.kcal / units.mol


def _oc20(split: str) -> list[ase.Atoms]:
  frames = []
  for path in sorted((_RAW / "oc20" / split).glob("*.extxyz.xz")):
    text = lzma.decompress(path.read_bytes()).decode()
    frames += ase.io.read(io.StringIO(text), ":", format="extxyz")
  return frames


def test_the_raw_files_are_small_enough_to_ship():
  assert sum(p.stat().st_size for p in _RAW.rglob("*") if p.is_file()) < 5e6


@pytest.mark.parametrize("split, least", [("s2ef_train", 600), ("s2ef_val_id", 100)])
def test_oc20_has_the_release_layout(split, least):
  frames = _oc20(split)
  assert len(frames) >= least
  lines = []
  for path in sorted((_RAW / "oc20" / split).glob("*.txt.xz")):
    lines += lzma.decompress(path.read_bytes()).decode().splitlines()
  assert len(lines) == len(frames) == len(set(lines))
  assert all(re.fullmatch(r"random\d+,frame\d+,-?\d+\.\d+", line) for line in lines)
  for atoms in frames:
    assert atoms.pbc.all() and len(atoms) <= 20
    (constraint,) = atoms.constraints
    # Fixed is what lies below the surface, as in OC20.
    subsurface = np.flatnonzero(atoms.get_tags() == 0)
    chex.assert_trees_all_equal(subsurface, constraint.index)


def test_oc20_labels_are_those_of_emt():
  # Every twentieth frame: positions have eight decimals, so labels agree to 1e-6.
  for atoms in _oc20("s2ef_val_id")[::20]:
    energy = atoms.get_potential_energy()
    forces = atoms.get_forces(apply_constraint=False)
    atoms.calc = ase.calculators.emt.EMT()
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    again = atoms.get_forces(apply_constraint=False)
    chex.assert_trees_all_close(again, forces, rtol=0, atol=1e-5)


@pytest.mark.parametrize("split, least", [("train", 250), ("val_id", 50)])
def test_oc22_records_have_labels_that_balance(split, least):
  path = _RAW / "oc22" / "s2ef-total" / split / "data.0000.lmdb"
  count = lmdb_records.count_records(path)
  assert count >= least
  for item in lmdb_records.read(path, path.name, 0, count):
    assert len(item.positions) <= 20
    assert set(np.unique(item.tags)) <= {0, 1, 2}
    # Gamma-point GFN1-xTB total energies: between -20 and -110 eV an atom.
    assert -110 < item.energy / len(item.positions) < -20
    chex.assert_trees_all_close(np.sum(item.forces, axis=0), 0, rtol=1e-7, atol=1e-3)


def test_ani1x_has_the_keys_units_and_gaps_of_the_release():
  missing = total = 0
  with h5py.File(_RAW / "ani1x" / "ani1x-release.h5") as file:
    assert "omegaB97X" in file.attrs["level_of_theory"]
    assert len(file) >= 25
    for formula, group in file.items():
      numbers, energies = group["atomic_numbers"][:], group["wb97x_dz.energy"][:]
      forces = group["wb97x_dz.forces"][:]
      assert (
        group["coordinates"].shape == forces.shape == (len(energies), len(numbers), 3)
      )
      assert (numbers.dtype, energies.dtype, forces.dtype) == ("u1", "f8", "f4")
      assert len(numbers) == sum(int(n) for n in re.findall(r"\d+", formula)) >= 4
      known = np.isfinite(energies)
      missing, total = missing + (~known).sum(), total + len(known)
      chex.assert_trees_all_equal(known, np.isfinite(forces).all(axis=(1, 2)))
      # Hartree: near the sum of the atoms' energies.
      atoms = {1: -0.6, 6: -38.0, 7: -54.7, 8: -75.1}
      expected = sum(atoms[int(z)] for z in numbers)
      chex.assert_trees_all_close(
        energies[known], expected, rtol=1e-7, atol=0.25 * len(numbers)
      )
      chex.assert_trees_all_close(forces[known].sum(axis=1), 0, rtol=1e-7, atol=1e-5)
  assert total >= 550 and 0 < missing < 0.1 * total


def test_transition1x_has_the_groups_of_the_release():
  counts = {}
  with h5py.File(_RAW / "transition1x" / "Transition1x.h5") as file:
    assert set(file) == {"data", "train", "val", "test"}
    for split in file:
      reactions = [r for formula in file[split].values() for r in formula.values()]
      counts[split] = len(reactions)
      for reaction in reactions:
        _check_reaction(reaction)
  assert counts["data"] == counts["train"] + counts["val"] + counts["test"]
  assert counts["train"] >= 30 and counts["val"] >= 5 and counts["test"] >= 5


def _check_reaction(group: h5py.Group) -> None:
  energy = group["wB97x_6-31G(d).energy"][:]
  forces = group["wB97x_6-31G(d).forces"][:]
  assert (
    group["positions"].shape
    == forces.shape
    == (len(energy), len(group["atomic_numbers"]), 3)
  )
  chex.assert_trees_all_close(forces.sum(axis=1), 0, rtol=1e-7, atol=1e-3)
  for state in ("reactant", "product", "transition_state"):
    (value,) = group[state]["wB97x_6-31G(d).energy"][:]
    assert value in energy
  # eV: a reaction of a small molecule spans tenths to some tens.
  assert 0.3 < np.ptp(energy) < 25
  # No frame is stuck in an excited state, which would stand out from its neighbors.
  initial, relaxed = energy[:8], energy[8:]
  for part in (initial, relaxed):
    middle = 0.5 * (part[:-2] + part[2:])
    assert np.all(part[1:-1] - middle < 6.0)


def test_transition1x_forces_are_minus_the_slope_of_the_energy():
  errors = []
  with h5py.File(_RAW / "transition1x" / "Transition1x.h5") as file:
    for formula in file["data"].values():
      for reaction in formula.values():
        errors.append(_slope_errors(reaction))
  # eV. Most steps of a path are short enough for the trapezoid rule.
  errors = np.concatenate(errors)
  assert len(errors) > 100 and np.median(errors) < 0.1


def _slope_errors(group: h5py.Group) -> np.ndarray:
  """Energy differences along short steps against the mean force of their ends."""
  energy = group["wB97x_6-31G(d).energy"][:]
  forces = group["wB97x_6-31G(d).forces"][:]
  step = np.diff(group["positions"][:], axis=0)
  predicted = -0.5 * ((forces[:-1] + forces[1:]) * step).sum(axis=(1, 2))
  short = np.abs(step).max(axis=(1, 2)) < 0.2
  return np.abs(np.diff(energy) - predicted)[short]


@pytest.mark.parametrize("level", ["ani1x", "transition1x"])
def test_molecular_labels_can_be_computed_again(level):
  pytest.importorskip("pyscf", reason="only data/demo/requirements.txt has it")
  from data.demo import dft  # pylint: disable=g-import-not-at-top

  if level == "ani1x":
    with h5py.File(_RAW / "ani1x" / "ani1x-release.h5") as file:
      group = file["H3N1"]
      numbers, positions = group["atomic_numbers"][:], group["coordinates"][0]
      energy, forces = group["wb97x_dz.energy"][0], group["wb97x_dz.forces"][0]
  else:
    with h5py.File(_RAW / "transition1x" / "Transition1x.h5") as file:
      group = file["train/CH2O/rxn0000"]
      numbers, positions = group["atomic_numbers"][:], group["positions"][0]
      energy = group["wB97x_6-31G(d).energy"][0] / units.Hartree
      forces = group["wB97x_6-31G(d).forces"][0] / units.Hartree
  made = dft.label(numbers, positions.astype(np.float64))
  assert made.energy == pytest.approx(energy, abs=1e-6)
  chex.assert_trees_all_close(made.forces, forces, rtol=0, atol=1e-4)


def test_rmd17_has_the_release_layout_and_units():
  with np.load(_RAW / "rmd17" / "npz_data" / "rmd17_ethanol.npz") as file:
    data = dict(file)
  assert set(data) == {
    "nuclear_charges",
    "coords",
    "energies",
    "forces",
    "old_indices",
    "old_energies",
    "old_forces",
  }
  frames, atoms = data["coords"].shape[:2]
  assert (frames, atoms) == (1500, 9) and data["nuclear_charges"].dtype == np.uint8
  assert data["forces"].shape == data["old_forces"].shape == (frames, atoms, 3)
  chex.assert_trees_all_close(data["forces"].sum(axis=1), 0, rtol=1e-7, atol=1e-3)
  # kcal/mol(/angstrom): in eV about 0.2 and 1.3, as for the real ethanol at 500 K.
  assert 0.1 < data["energies"].std() * _KCAL < 0.4
  assert 0.8 < data["forces"].std() * _KCAL < 1.8
  for split in range(1, 6):
    train, test = (
      np.loadtxt(_RAW / f"rmd17/splits/index_{part}_{split:02d}.csv", dtype=int)
      for part in ("train", "test")
    )
    assert len(train) == 1000 and not set(train) & set(test)
    assert max(train.max(), test.max()) < frames


def test_qm9_files_parse_and_their_properties_are_consistent():
  notation = 0
  with tarfile.open(_RAW / "qm9" / "dsgdb9nsd.xyz.tar.bz2") as archive:
    members = archive.getmembers()
    assert len(members) >= 300
    for index, member in enumerate(members, 1):
      assert member.name == f"dsgdb9nsd_{index:06d}.xyz"
      text = archive.extractfile(member).read().decode()
      notation += "*^" in text
      _check_qm9(text.replace("*^", "e"), index)
  assert notation > 0
  listed = (_RAW / "qm9" / "uncharacterized.txt").read_text()
  failed = [int(n) for n in re.findall(r"^\s*(\d+)\s", listed, re.MULTILINE)]
  assert failed and max(failed) <= len(members)


def _check_qm9(text: str, index: int) -> None:
  lines = text.split("\n")
  count = int(lines[0])
  assert lines[1].startswith(f"gdb {index}\t") and lines[1].endswith("\t")
  values = np.array(lines[1].split()[2:], float)
  assert len(values) == 15
  homo, lumo, gap, _, zpve, lowest, inner, enthalpy, free, heat = values[5:]
  assert gap == pytest.approx(lumo - homo, abs=2e-4)
  # k T at 298.15 K is 0.000944 hartree.
  assert enthalpy - inner == pytest.approx(0.000944, abs=2e-6)
  assert free < lowest < inner < enthalpy and zpve > 0 and heat > 2.9
  assert all(len(line.split("\t")) == 5 for line in lines[2 : 2 + count])
  modes = lines[2 + count].split()
  assert len(modes) in (3 * count - 6, 3 * count - 5)
  # The zero-point energy is half the sum of the quanta: pins 1/cm and hartree.
  quanta = sum(map(float, modes)) * units.invcm / units.Hartree
  assert zpve == pytest.approx(0.5 * quanta, abs=2e-6)


def test_matbench_targets_are_formation_energies_of_emt():
  path = _RAW / "matbench" / "matbench_mp_e_form.json.gz"
  table = json.loads(gzip.decompress(path.read_bytes()))
  assert table["columns"] == ["structure", "e_form"]
  assert table["index"] == list(range(len(table["data"]))) and len(table["data"]) > 350
  crystals = [(_atoms(structure), target) for structure, target in table["data"]]
  # The undistorted fcc elements are the references: the lowest of their element.
  reference = {}
  for atoms, _ in crystals:
    if len(set(atoms.symbols)) == 1 and len(atoms) == 4:
      symbol = atoms.symbols[0]
      reference[symbol] = min(reference.get(symbol, np.inf), _emt(atoms) / 4)
  assert len(reference) == 7
  for atoms, target in crystals[::30]:
    formed = _emt(atoms) - sum(reference[symbol] for symbol in atoms.symbols)
    assert formed / len(atoms) == pytest.approx(target, abs=1e-5)


def _atoms(structure: dict) -> ase.Atoms:
  sites = structure["sites"]
  return ase.Atoms(
    [site["species"][0]["element"] for site in sites],
    scaled_positions=[site["abc"] for site in sites],
    cell=structure["lattice"]["matrix"],
    pbc=True,
  )


def _emt(atoms: ase.Atoms) -> float:
  atoms.calc = ase.calculators.emt.EMT()
  return float(atoms.get_potential_energy())
