"""The conversion engine: restart, parallel processes, merging of splits, bad input."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from data import convert
from data.conversion import base
from data.conversion import jobs
from data.conversion import registry
from data.conversion import runner
from data.converters import oc20
from data.records import schema
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.runtime import workers
from tests.data import raw_files
from tests.data.converters import converted

_ROOT = pathlib.Path(__file__).resolve().parents[3]


def _convert(source, output, split="train", dataset="oc20", options=None, **kwargs):
  converter = registry.make(dataset, source, split, options)
  return runner.convert(converter, output, progress=False, **kwargs)


def _shards(folder, split="train"):
  return {p.name: p.read_bytes() for p in shards.list_shards(folder, split)}


def _structures(folder, split="train"):
  return [
    schema.decode(record)
    for path in shards.list_shards(folder, split)
    for record in shards.read_shard(path)
  ]


def _command(*arguments):
  environment = os.environ | {"OMP_NUM_THREADS": "1"}
  return subprocess.Popen(
    [sys.executable, "-m", "data.convert", *map(str, arguments)],
    cwd=_ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_shards_do_not_depend_on_the_number_of_processes(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=5)
  infos = [_convert(source, tmp_path / str(n), num_workers=n) for n in (1, 3)]
  assert _shards(tmp_path / "1") == _shards(tmp_path / "3")
  assert len(_shards(tmp_path / "1")) == 5
  assert infos[0] == infos[1]
  assert dataset_info.load(tmp_path / "1") == infos[0]


def test_dataset_info(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=2, frames=3)
  info = _convert(source, tmp_path / "out", command="the command")
  structures = _structures(tmp_path / "out")
  assert info.num_structures == {"train": 6}
  assert info.size_histogram == {3: 2, 4: 2, 5: 2}
  assert info.average_atoms == 4.0
  assert set(info.elements) == {int(z) for s in structures for z in s.atomic_numbers}
  # Published scales are stored, the fitted ones kept beside them.
  assert info.energy_scale == 24.901469505465872
  fitted = info.provenance["fitted_on_train"]
  forces = np.concatenate([s.forces for s in structures])
  assert fitted["force_scale"] == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-6)
  facts = info.provenance["splits"]["train"]
  assert facts["command"] == "the command"
  sources = converted.sources(tmp_path / "out", "train")
  assert [s["name"] for s in sources] == sorted(
    f"{k}.{end}.xz" for k in range(2) for end in ("extxyz", "txt")
  )
  assert all(re.fullmatch("[0-9a-f]{64}", s["sha256"]) for s in sources)
  # The list itself lies beside the shards; it is long for large datasets.
  assert facts["sources"]["files"] == 4 and "list" in facts["sources"]
  assert info.units["forces"] == "eV/Å" and info.evaluate_free_atoms_only
  # What other code asks about OC20 is declared, not known by its name.
  assert info.periodic_in_3d and info.force_coefficient == 73.0


def test_fitted_scales_by_request(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw")
  _convert(source, tmp_path / "out")
  # A second run with other scales converts nothing and rewrites the summary only.
  before = _shards(tmp_path / "out")
  info = _convert(source, tmp_path / "out", scales="fitted")
  assert info.energy_scale == info.provenance["fitted_on_train"]["energy_scale"]
  assert _shards(tmp_path / "out") == before


def test_a_finished_conversion_is_left_alone(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw")
  _convert(source, tmp_path / "out")
  files = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir() if p.is_file()}
  _convert(source, tmp_path / "out", num_workers=2)
  assert files == {p: p.stat().st_mtime_ns for p in files}


def test_splits_add_up_and_references_come_from_train_alone(tmp_path):
  train = raw_files.oc20_folder(tmp_path / "train", files=2)
  val = raw_files.write_oc20(
    tmp_path / "held", {0: [raw_files.oc20_frame(99, energy=1e4)]}
  )
  alone = _convert(train, tmp_path / "alone")
  # The order of the invocations does not matter.
  first = _convert(val, tmp_path / "out", split="val_id")
  assert first.energy_references == {} and first.num_structures == {"val_id": 1}
  both = _convert(train, tmp_path / "out")
  assert both.num_structures == {"train": 8, "val_id": 1}
  assert both.energy_references == alone.energy_references
  assert both.provenance["fitted_on_train"] == alone.provenance["fitted_on_train"]
  assert set(alone.elements) <= set(both.elements)


def test_another_input_or_plan_is_refused_unless_overwritten(tmp_path):
  output = tmp_path / "out"
  first = raw_files.oc20_folder(tmp_path / "a", files=2)
  second = raw_files.oc20_folder(tmp_path / "b", files=3)
  _convert(first, output)
  with pytest.raises(base.PlanError, match="raw files was 4, is 6.*--overwrite"):
    _convert(second, output)
  # Same names and sizes, other content.
  third = raw_files.write_oc20(
    tmp_path / "c",
    {k: [raw_files.oc20_frame(7 * k + i, 3 + i) for i in range(4)] for k in range(2)},
  )
  with pytest.raises(base.PlanError, match="content of the raw files"):
    _convert(third, output)
  # Another dataset does not fit into the same directory at all.
  h5 = raw_files.write_transition1x(tmp_path / "Transition1x.h5")
  with pytest.raises(base.PlanError, match="another conversion.*dataset"):
    _convert(h5, output, split="val", dataset="transition1x")
  info = _convert(second, output, overwrite=True)
  assert info.num_structures == {"train": 12} and len(_shards(output)) == 3


def test_a_failed_plan_binds_nothing(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=1)
  path = source / "0.extxyz.xz"
  content = path.read_bytes()
  path.write_bytes(content[:-40])
  with pytest.raises(base.RawDataError):
    _convert(source, tmp_path / "out")
  path.write_bytes(content)
  assert not list((tmp_path / "out").glob("*.tfrecord"))
  assert not (tmp_path / "out" / "dataset_info.json").exists()
  assert _convert(source, tmp_path / "out").num_structures == {"train": 4}


def test_killed_conversion_resumes_to_the_same_bytes(tmp_path):
  frames = [raw_files.oc20_frame(i, 30) for i in range(60)]
  source = raw_files.write_oc20(tmp_path / "raw", {0: frames})
  for k in range(1, 20):
    for end in ("extxyz", "txt"):
      shutil.copy(source / f"0.{end}.xz", source / f"{k}.{end}.xz")
  _convert(source, tmp_path / "whole")
  output = tmp_path / "killed"
  arguments = (
    "--dataset=oc20",
    f"--input={source}",
    f"--output={output}",
    "--split=train",
    "--num_workers=2",
  )
  process = _command(*arguments)
  deadline = time.monotonic() + 60
  while not list(output.glob("*.tfrecord")) and time.monotonic() < deadline:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  done = [p.name for p in output.glob("*.tfrecord")]
  assert 0 < len(done) < 20 and not (output / "dataset_info.json").exists()
  # What is there under its name is whole, and readers refuse the rest.
  for name in done:
    assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
  with pytest.raises(shards.RecordFileError, match="lacks"):
    shards.list_shards(output, "train")
  with pytest.raises(dataset_info.DatasetInfoError, match="unfinished"):
    dataset_info.load(output)
  process = _command(*arguments)
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert _shards(output) == _shards(tmp_path / "whole")
  assert not list(output.glob(".*.tmp"))
  assert "1200 train" in out


def test_command_fails_with_a_sentence(tmp_path, capsys):
  source = raw_files.oc20_folder(tmp_path / "raw", files=1)
  for arguments, expected in (
    ((), "--dataset is required"),
    (("--dataset=oc20", "--input=nowhere"), "--output is required"),
    (("--dataset=oc20", "--input=nowhere", "--output=x"), "nowhere does not exist"),
    (
      ("--dataset=oc20", f"--input={source}", f"--output={tmp_path / 'x'}"),
      "--split=train",
    ),
    (
      (
        "--dataset=oc20",
        f"--input={source}",
        f"--output={tmp_path / 'x'}",
        "--split=train",
        "--energy_key=e",
      ),
      "no option --energy_key",
    ),
  ):
    assert convert.PROGRAM.execute(arguments) == 1
    error = capsys.readouterr().err
    assert expected in error and len(error.strip().splitlines()) == 2, error


def _bad_frames():
  good = raw_files.oc20_frame(1)
  first_atom = good.splitlines()[2]
  return {
    "finite energy": raw_files.oc20_frame(1, energy=float("nan")),
    "finite forces": good.replace(
      first_atom, first_atom.rsplit(maxsplit=1)[0] + " nan"
    ),
    "finite positions": good.replace(
      first_atom, first_atom.replace(first_atom.split()[1], "inf", 1)
    ),
    "atomic numbers from 1 to 118": good.replace(first_atom.split()[0], "X", 1),
    "column 'species'": good.replace(first_atom.split()[0], "Qq", 1),
    "zero volume": raw_files.oc20_frame(1, lattice="5 0 0 10 0 0 0 0 20"),
    "nine|expected 9": raw_files.oc20_frame(1, lattice="5 0 0 10"),
    "column 'forces'": good.replace(":forces:", ":force:"),
    "entries for each": good.replace(first_atom, first_atom + " 1.0"),
    "key 'energy'": good.replace(" energy=", " Energy="),
  }


@pytest.mark.parametrize("reason", list(_bad_frames()))
def test_bad_record_is_named_and_may_be_skipped(tmp_path, reason):
  source = raw_files.write_oc20(
    tmp_path / "raw",
    {4: [raw_files.oc20_frame(0), _bad_frames()[reason], raw_files.oc20_frame(2)]},
  )
  with pytest.raises(structure_lib.InvalidStructureError, match=reason) as caught:
    _convert(source, tmp_path / "out")
  assert "4.extxyz.xz:1:random4,frame1: expected" in str(caught.value)
  assert "found" in str(caught.value) or "column" in str(caught.value)
  info = _convert(source, tmp_path / "out", skip_invalid=True)
  facts = info.provenance["splits"]["train"]
  assert info.num_structures == {"train": 2} and facts["num_skipped_invalid"] == 1
  assert re.search(reason, facts["skipped_invalid"][0]["reason"])
  assert facts["skipped_invalid"][0]["record_id"] == "4.extxyz.xz:1:random4,frame1"


def test_truncated_file_is_named_and_may_be_skipped(tmp_path):
  frames = [raw_files.oc20_frame(i, 40) for i in range(300)]
  source = raw_files.write_oc20(tmp_path / "raw", {0: frames, 1: frames[:2]})
  path = source / "0.extxyz.xz"
  path.write_bytes(path.read_bytes()[:-2000])
  with pytest.raises(base.RawDataError, match=r"0\.extxyz\.xz: after \d+ frames"):
    _convert(source, tmp_path / "out", num_workers=2)
  info = _convert(source, tmp_path / "out", skip_invalid=True)
  assert 2 < info.num_structures["train"] < 302
  (skipped,) = info.provenance["splits"]["train"]["skipped_invalid"]
  assert skipped["record_id"] == "0.extxyz.xz" and "unreadable" in skipped["reason"]


def test_memory_does_not_grow_with_the_file(tmp_path):
  peaks = []
  for count in (300, 1500):
    frames = [raw_files.oc20_frame(k % 50, 20) for k in range(count)]
    source = raw_files.write_oc20(tmp_path / f"raw{count}", {0: frames})
    converter = registry.make("oc20", source, "train")
    (unit,) = converter.units()
    (tmp_path / str(count) / ".conversion").mkdir(parents=True)
    shard = tmp_path / str(count) / shards.shard_name("train", 0, 1)
    del frames
    tracemalloc.start()
    assert jobs.run(jobs.Job(converter, unit, shard)).structures == count
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
  # The first run includes tables that are made once; identifiers (30 bytes a frame)
  # are the only thing kept for a whole file.
  assert peaks[1] < 1.2 * peaks[0] + 1500 * 100, peaks


def test_a_killed_process_is_reported(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=3)
  killer = Killer(source, "train")
  with pytest.raises(workers.WorkerError, match="killed.*--num_workers"):
    runner.convert(killer, tmp_path / "out", num_workers=2, progress=False)
  # The same plan goes on where it stopped.
  assert _convert(source, tmp_path / "out").num_structures == {"train": 12}


class Killer(oc20.OC20):
  """A converter whose processes die as if out of memory."""

  def read(self, unit):
    os._exit(9)


def test_two_conversions_of_a_split_do_not_run_at_once(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=1)
  (tmp_path / "out" / ".conversion").mkdir(parents=True)
  with (
    runner._lock(tmp_path / "out" / ".conversion" / "train.lock"),
    pytest.raises(base.PlanError, match="Another process"),
  ):
    _convert(source, tmp_path / "out")
