"""--train_data: files as they are, converted behind the scenes."""

import dataclasses
import shutil

import ase.build
from ase.calculators import emt
from ase.calculators import singlepoint
import ase.io
import numpy as np
import pytest

from data.records import datasets as datasets_lib
from experiments import finetune
from experiments.command_line import command
from experiments.command_line import config as config_lib
from jmp_hk import dataset_info
from jmp_hk.graphs import config as graph_config
from tests.experiments import finetune_data

_ENERGY = "--target=energy=energy"
_FORCES = "--target=forces=conservative_forces"


@pytest.fixture(name="raw", scope="module")
def _raw(tmp_path_factory):
  """Files of the same structures with labels under several names."""
  folder = tmp_path_factory.mktemp("raw")
  frames = finetune_data.molecules(20)
  ase.io.write(folder / "mine.traj", frames)
  ase.io.write(folder / "arrays.extxyz", frames)
  for atoms in frames:
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = None
    atoms.info |= {"REF_energy": energy}
    atoms.arrays["REF_forces"] = forces
  ase.io.write(folder / "mace.extxyz", frames)
  del frames[3].info["REF_energy"]
  frames[4].info["Spin"] = 1
  ase.io.write(folder / "gaps.extxyz", frames)
  return folder


def _prepare(workdir, *arguments: str):
  """Converts, and makes the configuration, without training."""
  values = finetune_data.parse(*finetune_data.FLAGS, f"--workdir={workdir}", *arguments)
  _, data = finetune.check_flags(values)
  data.convert("experiments.finetune")
  return finetune.make_config(values, data), dataset_info.load(data.directory)


def test_one_file_is_divided_the_same_way_each_time(raw, tmp_path):
  arguments = (_ENERGY, _FORCES, f"--train_data={raw}/mine.traj", "--cutoff=5")
  config, info = _prepare(
    tmp_path / "a", *arguments, "--val_fraction=0.2", "--test_fraction=0.1"
  )
  assert dict(info.num_structures) == {"train": 14, "val": 4, "test": 2}
  assert info.graph.cutoff == 5.0 and info.graph.max_neighbors == 30
  assert info.graph.truncation is graph_config.Truncation.SMOOTH
  assert config.datasets[0].truncation is None  # That of the data, which follows.
  assert config.datasets[0].directory == str(tmp_path / "a" / "data")
  assert config.trainer.train.primary_metric == "own_data/score"
  files = {p.name: p.read_bytes() for p in (tmp_path / "a/data").glob("*.tfrecord")}
  _prepare(tmp_path / "b", *arguments, "--val_fraction=0.2", "--test_fraction=0.1")
  again = {p.name: p.read_bytes() for p in (tmp_path / "b/data").glob("*.tfrecord")}
  assert files == again and len(files) == 3
  # Converted once: the same command does nothing more.
  stamps = [p.stat().st_mtime_ns for p in (tmp_path / "b/data").glob("*.tfrecord")]
  _prepare(tmp_path / "b", *arguments, "--val_fraction=0.2", "--test_fraction=0.1")
  assert stamps == [
    p.stat().st_mtime_ns for p in (tmp_path / "b/data").glob("*.tfrecord")
  ]


@pytest.mark.parametrize(
  ("forces", "flag", "expected"),
  [
    ("conservative_forces", (), "smooth"),
    ("conservative_forces", ("--truncation=published",), "published"),
    ("conservative_forces", ("--truncation=shells",), "shells"),
    ("direct_forces", (), "published"),
    ("direct_forces", ("--truncation=smooth",), "smooth"),
  ],
)
def test_graphs_of_new_models_suit_their_forces(raw, tmp_path, forces, flag, expected):
  values = finetune_data.parse(
    *finetune_data.FLAGS,
    f"--workdir={tmp_path}",
    _ENERGY,
    f"--target=forces={forces}",
    f"--train_data={raw}/mine.traj",
    *flag,
  )
  _, data = finetune.check_flags(values)
  assert {c.options["truncation"] for c in data.conversions} == {expected}


def test_files_for_each_split_share_their_keys(raw, tmp_path):
  mace = f"{raw}/mace.extxyz"
  config, info = _prepare(
    tmp_path,
    _ENERGY,
    f"--train_data={mace}",
    f"--val_data={mace}",
    f"--test_data={mace}",
    "--name=mine",
  )
  assert dict(info.num_structures) == {"train": 20, "val": 20, "test": 20}
  # It is no validation, and the run does not start.
  tasks = config.trainer.model.tasks
  opened = [
    datasets_lib.open_datasets(
      [dataclasses.replace(config.datasets[0], split=s)], tasks
    )
    for s in ("train", "val")
  ]
  with pytest.raises(command.FlagError, match="20 records .* 'train' and in 'val'"):
    config_lib.check_disjoint(*opened)
  assert info.name == "mine"
  for split in info.provenance["splits"].values():
    assert split["options"]["energy_key"] == "REF_energy"
  # Forces, which are not learned, are read since all structures have them.
  assert info.units["forces"] == "eV/Å"


def test_labels_of_other_names_units_and_kinds(raw, tmp_path):
  config, info = _prepare(
    tmp_path,
    "--target=dipole=scalar,key=mu,unit=D,reduction=mean",
    "--target=kind=multiclass",
    "--target=shift=vector,unit=Ang",
    f"--train_data={raw}/arrays.extxyz",
  )
  assert info.targets["dipole"].unit == "D" and info.targets["kind"].num_classes == 3
  assert info.units["shift"] == "Ang"
  assert config.trainer.model.tasks[0].targets[1].num_classes == 3


def test_missing_labels_are_allowed_and_counted(raw, tmp_path):
  path = f"--train_data={raw}/gaps.extxyz"
  with pytest.raises(
    command.FlagError,
    match=r"gaps.extxyz:3: expected the label 'REF_energy'.*missing=allowed",
  ):
    _prepare(tmp_path / "refused", _ENERGY, path)
  config, info = _prepare(tmp_path / "allowed", f"{_ENERGY},missing=allowed", path)
  assert sum(facts.missing["energy"] for facts in info.splits.values()) == 1
  assert config.trainer.model.tasks[0].targets[0].allow_missing


def test_stress_is_learned_where_it_is(tmp_path):
  rng, frames = np.random.default_rng(0), []
  for index in range(10):
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.rattle(0.1, rng=rng)
    atoms.calc = emt.EMT()
    atoms.get_stress()
    atoms.calc = singlepoint.SinglePointCalculator(atoms, **atoms.calc.results)
    if index % 5 == 0:
      del atoms.calc.results["stress"]
    frames.append(atoms)
  ase.io.write(tmp_path / "mine.extxyz", frames)
  stress = "--target=stress=conservative_stress,coefficient=2"
  path = f"--train_data={tmp_path}/mine.extxyz"
  config, info = _prepare(tmp_path / "run", _ENERGY, _FORCES, stress, path)
  assert sum(facts.missing["stress"] for facts in info.splits.values()) == 2
  model = config.trainer.model
  target = model.tasks[0].targets[-1]
  assert (target.loss_coefficient, target.allow_missing) == (2.0, True)
  assert model.predicts_stress and info.units["stress"] == "eV/Å³"
  with pytest.raises(command.FlagError, match="expected the label 'stress'"):
    _prepare(tmp_path / "all", f"{stress},missing=refused", path)
  # Where it is not learned it is not read.
  _, info = _prepare(tmp_path / "without", _ENERGY, path)
  assert "stress" not in info.units


def test_molecules_have_no_stress(raw, tmp_path):
  with pytest.raises(command.FlagError, match="no label 'stress'"):
    _prepare(
      tmp_path,
      "--target=stress=conservative_stress",
      f"--train_data={raw}/mine.traj",
    )


def test_other_data_in_the_same_directory_are_refused(raw, tmp_path):
  path = tmp_path / "mine.traj"
  shutil.copy(raw / "mine.traj", path)
  arguments = (_ENERGY, f"--train_data={path}")
  _prepare(tmp_path / "run", *arguments)
  with pytest.raises(command.FlagError, match="other settings.*another --workdir"):
    _prepare(tmp_path / "run", *arguments, "--val_fraction=0.5")
  ase.io.write(path, ase.io.read(path, ":10"))
  refusal = "converted from other files.*another --workdir"
  with pytest.raises(command.FlagError, match=refusal):
    _prepare(tmp_path / "run", *arguments)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--train_data={raw}/no.xyz"], "--train_data: .*no.xyz does not exist"),
    (["--train_data={raw}/*.cif"], r"holds no file called \*.cif"),
    (["--val_data={raw}/mine.traj"], "--val_data needs --train_data"),
    (["--train_data={raw}/mine.traj", "--data=x"], "leave out --data"),
    (
      [
        "--train_data={raw}/mine.traj",
        "--val_data={raw}/mine.traj",
        "--val_fraction=0.1",
      ],
      "--val_data and --val_fraction exclude",
    ),
    (["--train_data={raw}/mine.traj", "--val_fraction=1"], "nothing to train on"),
    (
      ["--train_data={raw}/mine.traj", "--energy_unit=cal"],
      "cal is unknown",
    ),
    (
      ["--train_data={raw}/mine.traj", "--energy_key=E"],
      r"20 of 20 records|of \d+ records: expected the label 'E', found",
    ),
    (
      ["--train_data={raw}/mine.traj", "--target=gap=scalar"],
      "no label 'gap'.*Say which with --target=gap=scalar,key=KEY",
    ),
    (
      ["--train_data={raw}/mine.traj", "--val_data={raw}/mace.extxyz"],
      "--val_data=.*the same entries as those of --train_data",
    ),
    (
      ["--train_data={raw}/mine.traj", "--validation_splits=dev"],
      "the split 'dev'",
    ),
    (["--train_data={raw}/mine.traj", "--test_split=held"], "--test_split: the data"),
    (
      ["--train_data={raw}/mine.traj", "--target=mu=scalar,missing=maybe"],
      r"\[,missing=allowed\]",
    ),
  ],
)
def test_what_cannot_be_used_is_said(arguments, message, raw, tmp_path):
  with pytest.raises(command.FlagError, match=message):
    _prepare(tmp_path, _ENERGY, *(a.format(raw=raw) for a in arguments))


def test_flag_files_count_as_chosen_by_their_values(raw, tmp_path):
  chosen = [_ENERGY, f"--train_data={raw}/mine.traj", f"--val_data={raw}/mine.traj"]
  path = tmp_path / "mine.flags"
  path.write_text("--val_fraction=0.2\n")
  with pytest.raises(command.FlagError, match="--val_data and --val_fraction exclude"):
    _prepare(tmp_path / "a", *chosen, f"--flagfile={path}")
  # A run's own flag file names --val_fraction too, as it was left.
  config, info = _prepare(tmp_path / "b", *chosen)
  values = finetune_data.parse(
    *finetune_data.FLAGS, *chosen, f"--workdir={tmp_path / 'b'}"
  )
  stored = command.save_flags(tmp_path / "b", values)
  again = finetune_data.parse(f"--flagfile={stored}")
  _, data = finetune.check_flags(again)
  assert finetune.make_config(again, data) == config
  assert dict(info.num_structures) == {"train": 20, "val": 20}


def test_tables_and_folders(tmp_path):
  folder = tmp_path / "crystals"
  folder.mkdir()
  rows = []
  for index, atoms in enumerate(finetune_data.molecules(8)):
    ase.io.write(folder / f"m{index}.xyz", atoms)
    rows.append(f"m{index},{index / 3}")
  (folder / "id_prop.csv").write_text("\n".join(rows))
  for source in (folder, folder / "id_prop.csv"):
    _, info = _prepare(
      tmp_path / source.name, "--target=gap=scalar", f"--train_data={source}"
    )
    assert dict(info.num_structures) == {"train": 7, "val": 1}
    assert info.size_histogram == {3: 3, 5: 3, 6: 2} and "gap" in info.targets
