"""Several tasks share a conversion; the last one to finish merges."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from data import convert
from data.conversion import base
from data.conversion import inputs
from data.conversion import registry
from data.conversion import runner
from data.converters import oc20
from data.records import datasets as datasets_lib
from data.records import index_file
from data.records import schema
from data.records import shards
from jmp_hk import serialization
from jmp_hk.models.gemnet_oc.graphs import builder as builder_lib
from jmp_hk.targets import config as tasks_lib
from tests.data import raw_files

_ROOT = pathlib.Path(__file__).resolve().parents[3]
_COMMAND = "the command"


def _convert(source, output, task=(0, 1), split="train", **kwargs):
  return runner.convert(
    registry.make("oc20", source, split),
    output,
    task=runner.Task(*task),
    command=_COMMAND,
    progress=False,
    **kwargs,
  )


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  """Everything that readers of a dataset see."""
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


class Dying(oc20.OC20):
  """A converter that ends the process in one of its files, as if it were killed."""

  def read(self, unit):
    for item in super().read(unit):
      yield item
      if unit.name.startswith("4."):
        raise KeyboardInterrupt


class TasksTest(parameterized.TestCase):
  @pytest.fixture(autouse=True)
  def _folders(self, tmp_path):
    self.folder = tmp_path
    self.source = raw_files.oc20_folder(tmp_path / "raw", files=7)
    self.output = tmp_path / "out"

  def whole(self) -> dict[str, bytes]:
    """What one task makes of the source."""
    _convert(self.source, self.folder / "whole")
    return _files(self.folder / "whole")

  @parameterized.parameters(
    ([0, 1],), ([1, 0],), ([2, 0, 1],), ([7, 3, 5, 1, 0, 2, 4, 6],)
  )
  def test_tasks_in_any_order_make_what_one_makes(self, order):
    for number in order[:-1]:
      with self.assertRaisesRegex(runner.UnfinishedError, f"Task {number} of"):
        _convert(self.source, self.output, (number, len(order)))
      self.assertFalse((self.output / "dataset_info.json").exists())
    info = _convert(self.source, self.output, (order[-1], len(order)))
    self.assertEqual(info.num_structures, {"train": 28})
    self.assertEqual(_files(self.output), self.whole())

  def test_a_killed_task_goes_on(self):
    dying = Dying(self.source, "train")
    with self.assertRaises(KeyboardInterrupt):
      runner.convert(
        dying, self.output, task=runner.Task(0, 2), command=_COMMAND, progress=False
      )
    left = self.output / f".{shards.shard_name('train', 4, 7)}.x.tmp"
    left.write_bytes(b"what a killed process leaves")
    with self.assertRaisesRegex(runner.UnfinishedError, "5 of 7 shards"):
      _convert(self.source, self.output, (1, 2))
    self.assertTrue(left.exists())  # It might belong to a task that is running.
    _convert(self.source, self.output, (0, 2))
    self.assertEqual(_files(self.output), self.whole())

  def test_one_task_can_finish_what_several_began(self):
    for number in (0, 2):
      with self.assertRaises(runner.UnfinishedError):
        _convert(self.source, self.output, (number, 3))
    _convert(self.source, self.output)
    self.assertEqual(_files(self.output), self.whole())

  def test_a_task_whose_merging_was_stopped_merges_again(self):
    with self.assertRaises(runner.UnfinishedError):
      _convert(self.source, self.output, (1, 2))
    _convert(self.source, self.output, (0, 2))
    (self.output / "dataset_info.json").unlink()
    (self.output / ".conversion" / "train.done.json").unlink()
    _convert(self.source, self.output, (1, 2))
    self.assertEqual(_files(self.output), self.whole())

  def test_more_tasks_than_shards(self):
    with self.assertRaisesRegex(runner.UnfinishedError, "0 of 7"):
      _convert(self.source, self.output, (9, 10))

  def test_several_splits_are_shared_too(self):
    raw = self.folder / "both"
    shutil.copytree(self.source, raw / "train")
    shutil.copytree(self.source, raw / "val_id")
    with self.assertRaises(runner.UnfinishedError):
      _convert(raw, self.output, (1, 2), split="")
    info = _convert(raw, self.output, (0, 2), split="")
    self.assertEqual(info.num_structures, {"train": 28, "val_id": 28})

  def test_tasks_that_would_disturb_each_other_are_refused(self):
    with self.assertRaisesRegex(base.PlanError, "--overwrite would delete"):
      _convert(self.source, self.output, (0, 2), overwrite=True)
    state = self.output / ".conversion"
    state.mkdir(parents=True)
    with (
      runner._lock(state / "train.lock", shared=True),
      runner._lock(state / "train.1.lock"),
    ):
      with self.assertRaisesRegex(base.PlanError, "Another process"):
        _convert(self.source, self.output)
      with self.assertRaisesRegex(base.PlanError, "Another process"):
        _convert(self.source, self.output, (1, 2))
      with self.assertRaises(runner.UnfinishedError):
        _convert(self.source, self.output, (0, 2))

  @parameterized.parameters((2, 2), (-1, 2), (1, 1))
  def test_a_task_has_a_number_below_their_count(self, number, count):
    with self.assertRaisesRegex(base.PlanError, "--task_id"):
      runner.Task(number, count)

  def test_commands_that_run_at_once(self):
    commands = [
      [
        sys.executable,
        "-m",
        "data.convert",
        "--dataset=oc20",
        f"--input={self.source}",
        f"--output={self.output}",
        "--split=train",
        "--num_tasks=2",
        "--task_id",
        str(number),
      ]
      for number in range(2)
    ]
    running = [
      subprocess.Popen(c, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
      for c in commands
    ]
    texts = [process.communicate(timeout=300)[0] for process in running]
    self.assertEqual([process.returncode for process in running], [0, 0])
    # One of them, or both, found everything finished.
    self.assertTrue(any("28 train" in text for text in texts), texts)
    files, expected = _files(self.output), self.whole()
    infos = [json.loads(made["dataset_info.json"]) for made in (files, expected)]
    written = infos[0]["provenance"]["splits"]["train"]
    self.assertNotIn("task", written["command"])
    written["command"] = _COMMAND
    for info in infos:
      del info["checksum"]  # It covers the command.
    self.assertEqual(*infos)
    self.assertEqual(
      {k: v for k, v in files.items() if k != "dataset_info.json"},
      {k: v for k, v in expected.items() if k != "dataset_info.json"},
    )


class InputsTest(absltest.TestCase):
  @pytest.fixture(autouse=True)
  def _converted(self, tmp_path):
    self.source = raw_files.oc20_folder(tmp_path / "raw", files=3)
    self.output = tmp_path / "out"
    _convert(self.source, self.output)

  def test_a_copy_of_the_raw_files_is_as_good(self):
    copy = self.source.with_name("copy")
    shutil.copytree(self.source, copy, copy_function=shutil.copyfile)
    before = _files(self.output)
    _convert(copy, self.output)
    self.assertEqual(_files(self.output), before)

  def test_another_content_of_the_same_size_is_not(self):
    path = self.source / "1.extxyz.xz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with self.assertRaisesRegex(
      base.PlanError, r"content of the raw files changed: 1\.extxyz\.xz was"
    ):
      _convert(self.source, self.output)

  def test_another_size_is_not(self):
    path = self.source / "1.txt.xz"
    path.write_bytes(path.read_bytes() + b" ")
    with self.assertRaisesRegex(base.PlanError, r"1\.txt\.xz was .* bytes of"):
      _convert(self.source, self.output)

  def test_a_missing_file_is_named(self):
    with self.assertRaisesRegex(base.RawDataError, "nowhere"):
      inputs.look_at(self.source, ["nowhere"])


class Changing(oc20.OC20):
  """A converter whose raw files are written to while they are read."""

  def read(self, unit):
    yield from super().read(unit)
    path = self.root / unit.files[0]
    path.write_bytes(path.read_bytes() + b"more")


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=1)
  with pytest.raises(base.RawDataError, match="changed while it was read"):
    runner.convert(Changing(source, "train"), tmp_path / "out", progress=False)
  assert not list((tmp_path / "out").glob("*.tfrecord"))


def test_conversion_measures_what_training_packs(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=2)
  info = _convert(source, tmp_path / "out")
  task = tasks_lib.pretraining_task("oc20")
  config = datasets_lib.DatasetConfig("oc20", str(tmp_path / "out"))
  (dataset,) = datasets_lib.open_datasets([config], [task])
  # The backbone's settings of edge dropout do not matter.
  builder = builder_lib.GemNetOCGraphBuilder(edge_dropout=0.1)
  table = dataset.source.measured(builder, info.graph)
  assert table is not None and len(table) == 8
  full = dataclasses.replace(builder, edge_dropout=0.0)
  for i, structure in enumerate(dataset.source.fetch(range(8))):
    assert table.budgets([i]) == [full.sizes(full.build(structure, info.graph))]
  other = dataclasses.replace(info.graph, cutoff=6.0)
  assert dataset.source.measured(builder, other) is None


def test_measuring_can_be_left_out_and_changes_no_shard(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=2)
  _convert(source, tmp_path / "with")
  _convert(source, tmp_path / "without", measure=False)
  for shard in shards.list_shards(tmp_path / "without", "train"):
    assert shard.read_bytes() == (tmp_path / "with" / shard.name).read_bytes()
    found = index_file.load(shard)
    assert not found.sizes
    decoded = [schema.decode(record) for record in shards.read_shard(shard)]
    assert found.num_atoms.tolist() == [s.num_atoms for s in decoded]


def test_sizes_can_be_added_to_what_was_converted_without(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=3)
  info = _convert(source, tmp_path / "whole")
  _convert(source, tmp_path / "out", measure=False)
  shard = tmp_path / "out" / shards.shard_name("train", 1, 3)
  index_file.path_of(shard).unlink()  # As of an earlier version.
  assert _convert(source, tmp_path / "out", num_workers=2) == info
  assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_arguments_of_a_task_are_not_stored():
  kept = convert._without_task(
    ["--task_id", "3", "--input=x", "--num_tasks=4", "-task_id=1", "--split", "train"]
  )
  assert kept == ["--input=x", "--split", "train"]


def test_an_unfinished_conversion_of_an_earlier_version_goes_on(tmp_path):
  source = raw_files.oc20_folder(tmp_path / "raw", files=3)
  whole = _convert(source, tmp_path / "whole")
  output = tmp_path / "out"
  _convert(source, output)
  # Earlier versions had no indices and no checksums, and knew nothing of the files of
  # a shard.
  (output / "dataset_info.json").unlink()
  (output / ".conversion" / "train.done.json").unlink()
  (output / shards.shard_name("train", 1, 3)).unlink()
  for path in output.glob("*.index"):
    path.unlink()
  for path in (output / ".conversion").glob("train-*.json"):
    stored = json.loads(path.read_text())
    del stored["inputs"], stored["checksum"]
    path.write_text(json.dumps(stored))
  plan = output / ".conversion" / "train.plan.json"
  stored = json.loads(plan.read_text()) | {"content of the raw files": "1234"}
  del stored["checksum"]
  plan.write_text(json.dumps(stored))
  assert _convert(source, output) == whole


@pytest.mark.parametrize("name", ["train.plan.json", "train-00000-of-00002.json"])
def test_changed_notes_of_a_conversion_are_noticed(tmp_path, name):
  source = raw_files.oc20_folder(tmp_path / "raw", files=2)
  output = tmp_path / "out"
  _convert(source, output)
  (output / "dataset_info.json").unlink()
  (output / ".conversion" / "train.done.json").unlink()
  path = output / ".conversion" / name
  text = path.read_text()
  assert '"shards": 2' in text or '"structures": 4' in text
  text = text.replace('"shards": 2', '"shards": 3')
  path.write_text(text.replace('"structures": 4', '"structures": 6'))
  with pytest.raises(serialization.SerializationError, match=f"{name}.*checksum"):
    _convert(source, output)
