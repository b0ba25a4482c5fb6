import pytest

from data.records import datasets as datasets_lib
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk.targets import config as tasks
from tests.jmp_hk.pipeline import corpus


def test_dataset_flags_are_read():
  parsed = datasets_lib.parse_datasets(["oc20=some/dir:0.5", "mine=a:b/c:2", "x=d"])
  assert [(d.name, d.directory, d.weight) for d in parsed] == [
    ("oc20", "some/dir", 0.5),
    ("mine", "a:b/c", 2.0),
    ("x", "d", None),
  ]
  assert datasets_lib.parse_datasets(["x=a:b/c"])[0].directory == "a:b/c"


@pytest.mark.parametrize(
  "entries, message",
  [
    ([], "at least one"),
    (["dir"], "NAME=DIRECTORY"),
    (["=dir"], "NAME=DIRECTORY"),
    (["a=d:-1"], "positive"),
    (["a=d", "a=e"], "more than once"),
  ],
)
def test_bad_dataset_flags(entries, message):
  with pytest.raises(ValueError, match=message):
    datasets_lib.parse_datasets(entries)


def test_opening_reports_what_is_wrong(corpus_directory, tmp_path):
  def open_one(
    name="slabs",
    directory=corpus_directory / "slabs",
    split="train",
    model=corpus.TASKS,
  ):
    config = datasets_lib.DatasetConfig(name, str(directory), None, split)
    return datasets_lib.open_datasets([config], model)[0]

  assert open_one().num_structures == 20 and open_one().task == 0
  with pytest.raises(ValueError, match="no task.*slabs.*molecules"):
    open_one(name="oc20")
  with pytest.raises(ValueError, match="does not exist.*data.convert"):
    open_one(directory=corpus_directory / "nowhere")
  with pytest.raises(dataset_info.DatasetInfoError, match="data.convert"):
    open_one(directory=tmp_path)
  with pytest.raises(shards.RecordFileError, match="'val'"):
    open_one(split="val")
  scalar = tasks.TargetConfig("hardness", "scalar")
  with pytest.raises(ValueError, match="no label 'hardness'.*gap"):
    open_one(model=(tasks.TaskConfig("slabs", (scalar,)),))
