"""Models are loaded from directories and PyTorch files alike."""

import dataclasses

import chex
import pytest

from jmp_hk import dataset_info
from jmp_hk.checkpoints import loading
from jmp_hk.checkpoints import model_directory
from jmp_hk.interop import import_checkpoint
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save


@pytest.fixture(name="file", scope="module")
def _file(tmp_path_factory):
  """A file with weights and another moving average."""
  path = tmp_path_factory.mktemp("torch") / "jmp.pt"
  state = checkpoints.state_dict("tinyd")
  average = {name: 2 * state[name] for name in checkpoints.averaged_names(state)}
  torch_save.save(checkpoints.lightning(state, average), path)
  return path


@pytest.mark.parametrize("ema", [True, False])
def test_a_file_is_loaded_as_its_imported_directory(file, tmp_path, ema):
  import_checkpoint.import_checkpoint(file, tmp_path / "model", ema=ema)
  imported = loading.load_model(tmp_path / "model", ema=ema)
  loaded = loading.load_model(file, ema=ema)
  chex.assert_trees_all_equal(loaded.variables, imported.variables)
  chex.assert_trees_all_equal_shapes_and_dtypes(loaded.variables, imported.variables)
  assert loaded.config == imported.config and loaded.infos == imported.infos
  assert list(loaded.infos) == ["oc20", "oc22", "ani1x", "transition1x"]
  assert loaded.origin == imported.origin and "CC BY-NC" in loaded.origin["licence"]
  weights = loaded.origin["provenance"]["weights"]
  assert weights == ("moving average" if ema else "as trained")
  assert loaded.path == file
  for path in (file, tmp_path / "model"):
    assert loading.read_description(path) == (loaded.config, loaded.infos)


def test_a_file_without_an_average_gives_its_weights(tmp_path):
  state = checkpoints.state_dict("tinyd")
  # As people save them: a state dict alone, under another ending.
  root = checkpoints.lightning(state)["state_dict"]
  torch_save.save(root, tmp_path / "weights.bin")
  loaded = loading.load_model(tmp_path / "weights.bin")
  assert loaded.origin["provenance"]["weights"] == "as trained"


def test_heads_can_be_named(file):
  mine = dataclasses.replace(dataset_info.PUBLISHED["oc22"], name="mine")
  loaded = loading.load_model(file, tasks=["ani1x", mine, "oc20", "transition1x"])
  names = [task.name for task in loaded.config.tasks]
  assert names == list(loaded.infos) == ["ani1x", "mine", "oc20", "transition1x"]
  assert loaded.infos["mine"] == mine
  with pytest.raises(ValueError, match="'water' is not one of the published datasets"):
    loading.load_model(file, tasks=["water"])
  with pytest.raises(model_directory.CheckpointError, match="4 datasets.*tasks are 1"):
    loading.load_model(file, tasks=["oc20"])


def test_arguments_that_do_not_go_with_the_kind_of_model_are_refused(file, tmp_path):
  with pytest.raises(ValueError, match="PyTorch file and holds one model: `step`"):
    loading.load_model(file, step=3)
  with pytest.raises(ValueError, match="is a directory.*`tasks`"):
    loading.load_model(tmp_path, tasks=["oc20"])


def test_what_is_no_model_says_so(tmp_path):
  with pytest.raises(model_directory.CheckpointError, match="no file .*missing.pt"):
    loading.load_model(tmp_path / "missing.pt")
  (tmp_path / "notes.pt").write_text("not a zip archive")
  with pytest.raises(model_directory.CheckpointError, match="notes.pt.*zip archive"):
    loading.load_model(tmp_path / "notes.pt")
  with pytest.raises(model_directory.CheckpointError, match="give a model directory"):
    loading.load_model(tmp_path)
