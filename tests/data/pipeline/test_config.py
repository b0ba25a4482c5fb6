import pytest

from data import records
from data.pipeline import config as config_lib
from data.pipeline import datasets as datasets_lib
from jmp_hk import dataset_info
from jmp_hk.pipeline import config as stream_config
from jmp_hk.targets import config as tasks
from tests.jmp_hk.pipeline import corpus


def test_dataset_flags_are_read():
  parsed = config_lib.parse_datasets(["oc20=some/dir:0.5", "mine=a:b/c:2", "x=d"])
  assert [(d.name, d.directory, d.weight) for d in parsed] == [
    ("oc20", "some/dir", 0.5),
    ("mine", "a:b/c", 2.0),
    ("x", "d", None),
  ]
  assert config_lib.parse_datasets(["x=a:b/c"])[0].directory == "a:b/c"


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
    config_lib.parse_datasets(entries)


@pytest.mark.parametrize(
  "field, value",
  [
    ("num_microbatches", 0),
    ("temperature", 0.0),
    ("edge_dropout", 1.0),
    ("num_workers", -1),
  ],
)
def test_bad_settings_are_named(field, value):
  with pytest.raises(ValueError, match=field):
    stream_config.PipelineConfig(**{field: value})


def test_opening_reports_what_is_wrong(corpus_directory, tmp_path):
  def open_one(
    name="slabs",
    directory=corpus_directory / "slabs",
    split="train",
    model=corpus.TASKS,
  ):
    config = config_lib.DatasetConfig(name, str(directory), None, split)
    return datasets_lib.open_datasets([config], model)[0]

  assert open_one().num_structures == 20 and open_one().task == 0
  with pytest.raises(ValueError, match="no task.*slabs.*molecules"):
    open_one(name="oc20")
  with pytest.raises(ValueError, match="does not exist.*data.convert"):
    open_one(directory=corpus_directory / "nowhere")
  with pytest.raises(dataset_info.DatasetInfoError, match="data.convert"):
    open_one(directory=tmp_path)
  with pytest.raises(records.RecordFileError, match="'val'"):
    open_one(split="val")
  scalar = tasks.TargetConfig("hardness", tasks.TargetKind.SCALAR)
  with pytest.raises(ValueError, match="no label 'hardness'.*gap"):
    open_one(model=(tasks.TaskConfig("slabs", (scalar,)),))
