"""What --plan says is what a conversion makes, and saying it writes nothing."""

import dataclasses
import pathlib
import subprocess
import sys

import pytest

from data import convert
from data.conversion import base
from data.conversion import estimates
from data.conversion import registry
from data.conversion import runner
from tests.data import raw_files


def _bytes(folder: pathlib.Path) -> int:
  return sum(
    path.stat().st_size
    for path in folder.iterdir()
    if path.suffix in (".tfrecord", ".index")
  )


def test_the_estimate_is_near_the_conversion(tmp_path):
  frames = [raw_files.oc20_frame(i, 12) for i in range(100)]
  source = raw_files.write_oc20(tmp_path / "raw", dict.fromkeys(range(20), frames))
  converter, output = registry.make("oc20", source, "train"), tmp_path / "out"
  (found,) = estimates.estimate(converter, output)
  assert not output.exists()
  assert (found.shards, found.finished, found.raw_files) == (20, 0, 40)
  assert found.structures == 2000 and not found.is_counted  # 16 files were.
  assert found.core_seconds > 0
  runner.convert(converter, output, progress=False, measure=True)
  # Heads of indices come on top; they are large where shards are tiny.
  assert 0.8 * _bytes(output) < found.bytes < _bytes(output)
  (again,) = estimates.estimate(converter, output)
  assert again.finished == 20 and again.core_seconds == 0


def test_plans_that_know_their_structures_are_exact(tmp_path):
  h5 = raw_files.write_transition1x(tmp_path / "Transition1x.h5")
  converter = registry.make("transition1x", h5)
  found = {e.split: e for e in estimates.estimate(converter, tmp_path / "out")}
  info = runner.convert(converter, tmp_path / "out", progress=False)
  assert {split: e.structures for split, e in found.items()} == info.num_structures
  assert all(entry.is_counted for entry in found.values())


def test_unknown_numbers_are_said_to_be_so(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=2)
  for path in source.glob("*.txt.xz"):
    path.unlink()
  found = estimates.estimate(registry.make("oc20", source, "train"), tmp_path / "out")
  assert found[0].structures is None and found[0].bytes is None
  assert "not known" in estimates.describe(found, tmp_path / "out")


def test_time_is_shared_by_processes_up_to_one_for_each_shard(tmp_path):
  entry = estimates.Estimate("train", 4, 0, 4, 10_000, 1_000_000, True, 2500.0, 0.0144)
  alone = estimates.describe([entry], tmp_path)
  assert "about 4:00:00" in alone and "about 2.50 GB" in alone
  assert "about 2:00:00" in estimates.describe([entry], tmp_path, 1, 2)
  assert "about 1:00:00" in estimates.describe([entry], tmp_path, 100, 4)
  half = dataclasses.replace(entry, finished=2)
  assert "about 2:00:00" in estimates.describe([half], tmp_path)
  assert "2 of the 4 shards of train are there." in estimates.describe([half], tmp_path)


def test_the_command_prints_a_table_and_writes_nothing(tmp_path, capsys):
  source = raw_files.oc20_folder(tmp_path / "raw", files=2)
  arguments = ("--dataset=oc20", f"--input={source}", f"--output={tmp_path / 'x/y'}")
  assert convert.PROGRAM.execute((*arguments, "--split=train", "--plan")) == 0
  text = capsys.readouterr().out
  assert "train" in text and "2" in text and "Free where" in text
  assert not (tmp_path / "x").exists()


def test_archives_that_have_to_be_unpacked_are_named(tmp_path):
  (tmp_path / "rmd17.tar.bz2").write_bytes(b"not looked into")
  converter = registry.make(
    "rmd17", tmp_path / "rmd17.tar.bz2", options={"molecule": "ethanol"}
  )
  with pytest.raises(base.PlanError, match=r"rmd17\.tar\.bz2.*is unpacked into"):
    estimates.estimate(converter, tmp_path / "out" / "ethanol")
  assert [path.name for path in tmp_path.iterdir()] == ["rmd17.tar.bz2"]


def test_a_conversion_starts_without_slow_modules():
  program = (
    "import sys; from data import convert; convert._kinds_by_option(); "
    "slow = {'tensorflow', 'jax', 'scipy', 'ase.io', 'ase.db', 'ase.constraints'}; "
    "print(sorted(slow & set(sys.modules)))"
  )
  result = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == "[]"
