"""Damaged, incomplete and mixed-up checkpoints are refused by name, or are the same."""

import json
import logging
import pathlib
import shutil
import tempfile

import chex
import hypothesis
from hypothesis import strategies
import pytest

import jmp_hk
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.checkpoints import damaged as damaged_lib
from jmp_hk.checkpoints import manifest as manifest_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.checkpoints import model_writer
from jmp_hk.models import parameters
from tests.jmp_hk.checkpoints import runs

CheckpointError = model_directory.CheckpointError


@pytest.fixture(name="state", scope="module")
def _state():
  return runs.fresh_state()


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory, state):
  """Directory of a run, which no test changes."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  runs.make(workdir, state)
  return workdir


@pytest.fixture(name="run")
def _run(whole, tmp_path):
  """A copy to damage."""
  shutil.copytree(whole, tmp_path / "run")
  return tmp_path / "run"


def _step(run: pathlib.Path, step: int) -> pathlib.Path:
  return run / model_directory.CHECKPOINTS / str(step)


def _flip(path: pathlib.Path, bit: int) -> None:
  content = bytearray(path.read_bytes())
  content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(content)


def _flip_part(checkpoint: pathlib.Path, item: str) -> None:
  """Flips a bit in the middle of the file that holds the content of an item."""
  if item in manifest_lib.DOCUMENTS:
    path = checkpoint / item / manifest_lib.DOCUMENTS[item]
  else:
    (path,) = (checkpoint / item / "d").iterdir()
  _flip(path, 4 * path.stat().st_size)


def _restore(run: pathlib.Path, state):
  reader = runs.open_checkpoints(run)
  try:
    return reader.restore(state)
  finally:
    reader.close()


def _check_is(restored, host, state, step: int) -> None:
  expected = runs.state_at(state, step)
  chex.assert_trees_all_equal(
    parameters.flatten(restored), parameters.flatten(expected)
  )
  assert host == runs.host_at(step)


def test_any_flipped_bit_is_refused_or_changes_nothing(whole):
  expected = model_directory.load_model_directory(whole)
  files = sorted(path for path in _step(whole, 1).rglob("*") if path.is_file())

  @hypothesis.settings(max_examples=25, deadline=None, database=None)
  @hypothesis.given(data=strategies.data())
  def check(data):
    file = data.draw(strategies.sampled_from(files))
    bit = data.draw(strategies.integers(0, max(8 * file.stat().st_size - 1, 0)))
    with tempfile.TemporaryDirectory() as folder:
      copy = pathlib.Path(folder) / "1"
      shutil.copytree(_step(whole, 1), copy)
      if file.stat().st_size:
        _flip(copy / file.relative_to(_step(whole, 1)), bit)
      try:
        loaded = model_directory.load_model_directory(copy)
      except CheckpointError as error:
        assert "damaged" in str(error) or "format version" in str(error)
        return
      chex.assert_trees_all_equal(loaded.variables, expected.variables)
      assert (loaded.config, loaded.infos) == (expected.config, expected.infos)
      assert loaded.step == expected.step

  check()


def test_jmp_hk_load_refuses_a_damaged_checkpoint_and_names_the_array(run):
  _flip_part(_step(run, runs.BEST), "ema")
  with pytest.raises(CheckpointError) as error:
    jmp_hk.load(run)
  message = str(error.value)
  assert f"{_step(run, runs.BEST)} is damaged" in message
  assert "ema/" in message and "load another step of the run, of [2, 3]" in message
  # The raw weights of the same checkpoint, and other checkpoints, are whole.
  model_directory.load_model_directory(run, ema=False)
  assert model_directory.load_model_directory(run, step=2).step == 2


@pytest.mark.parametrize("item", ["ema", "scales", "model", "manifest"])
def test_a_missing_part_is_named(run, item):
  shutil.rmtree(_step(run, runs.BEST) / item)
  with pytest.raises(CheckpointError, match=f"is damaged: {item}/.* missing"):
    model_directory.load_model_directory(run)
  with pytest.raises(CheckpointError, match=f"is damaged: {item}/.* missing"):
    model_directory.load_model_directory(_step(run, runs.BEST))


def test_a_renamed_part_is_found(run):
  path = _step(run, runs.BEST)
  (path / "ema").rename(path / "average")
  with pytest.raises(CheckpointError, match=r"ema/ is missing; if average/ is that"):
    model_directory.load_model_directory(run)


def test_a_renamed_checkpoint_is_not_taken_for_another_step(run, state):
  _step(run, 1).rename(_step(run, 7))
  with pytest.raises(CheckpointError, match="called 7, but holds step 1: rename"):
    model_directory.load_model_directory(run)
  _check_is(*_restore(run, state), state, 3)


@pytest.mark.parametrize("item", ["ema", "metrics", "manifest"])
def test_parts_of_another_checkpoint_are_refused(run, item):
  part, other = _step(run, 1), _step(run, 3)
  (part / item).rename(part / "swapped")
  (other / item).rename(part / item)
  (part / "swapped").rename(other / item)
  with pytest.raises(CheckpointError, match="damaged"):
    model_directory.load_model_directory(run)


def test_arrays_that_the_run_did_not_keep_are_refused(tmp_path, state):
  saver = runs.open_checkpoints(tmp_path)
  saver.save(runs.state_at(state, 1).replace(ema=None), {})
  saver.close()
  model_directory.load_model_directory(tmp_path)
  shutil.copytree(_step(tmp_path, 1) / "params", _step(tmp_path, 1) / "ema")
  with pytest.raises(CheckpointError, match="ema/ does not belong to it"):
    model_directory.load_model_directory(tmp_path)


def test_damaged_metrics_do_not_choose_another_checkpoint(run, state, caplog):
  file = _step(run, runs.BEST) / "metrics" / "metrics"
  values = json.loads(file.read_text())
  file.write_text(json.dumps(values | {"primary": 0.9}))
  with pytest.raises(CheckpointError, match="the best cannot be said.*metrics/metrics"):
    model_directory.load_model_directory(run)
  assert model_directory.load_model_directory(run, step=runs.BEST).step == runs.BEST
  # A run goes on, and tells what it makes of it.
  _check_is(*_restore(run, state), state, runs.NEWEST)
  assert "How good the checkpoint of step 1 is cannot be said" in caplog.text
  assert model_directory.load_model_directory(run).step == runs.NEWEST
  moved = run / damaged_lib.FOLDER / "1"
  assert model_directory.load_model_directory(moved).step == 1


def test_the_newest_checkpoint_stays_without_its_metrics(run, state, caplog):
  file = _step(run, runs.NEWEST) / "metrics" / "metrics"
  file.write_text("{")
  _check_is(*_restore(run, state), state, runs.NEWEST)
  assert "step 3 is cannot be said" in caplog.text and "as the worst" in caplog.text
  assert json.loads(file.read_text())["primary"] == float("inf")
  assert model_directory.load_model_directory(run).step == runs.BEST


@pytest.mark.parametrize("item", ["params", "optimizer", "host", "model"])
def test_a_run_goes_on_from_the_newest_whole_checkpoint(run, state, caplog, item):
  _flip_part(_step(run, runs.NEWEST), item)
  with caplog.at_level(logging.WARNING):
    restored, host = _restore(run, state)
  _check_is(restored, host, state, 2)
  assert "The checkpoint of step 3 is damaged: " in caplog.text
  assert item in caplog.text and "The run goes on from step 2" in caplog.text
  # The damaged one is out of the way and can be written again.
  assert (run / damaged_lib.FOLDER / "3" / item).exists()
  saver = runs.open_checkpoints(run)
  saver.save(runs.state_at(state, 3), runs.host_at(3))
  saver.close()
  _check_is(*_restore(run, state), state, 3)


def test_without_any_whole_checkpoint_all_are_named(run, state):
  for step in runs.SCORES:
    shutil.rmtree(_step(run, step) / "params")
  with pytest.raises(CheckpointError, match="No checkpoint .* is whole") as error:
    _restore(run, state)
  for step in runs.SCORES:
    assert f"step {step} is damaged: params/ is missing" in str(error.value)


def test_checkpoints_of_earlier_versions_are_read_without_verification(
  run, state, caplog
):
  for step in runs.SCORES:
    shutil.rmtree(_step(run, step) / manifest_lib.ITEM)
    file = _step(run, step) / "model" / checkpointer_lib.MODEL_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 1}))
  with caplog.at_level(logging.INFO):
    loaded = model_directory.load_model_directory(run)
    assert loaded.step == runs.BEST
    assert caplog.text.count("without checksums: it is not verified") == 1
    _check_is(*_restore(run, state), state, runs.NEWEST)
  expected = parameters.flatten(runs.state_at(state, runs.BEST).ema)
  chex.assert_trees_all_equal(parameters.flatten(loaded.variables.params), expected)


def test_exported_directories_are_verified(whole, tmp_path):
  loaded = model_directory.load_model_directory(whole)
  params, scales = map(parameters.flatten, loaded.variables)
  lazy = {
    name: model_writer.LazyArray(value.shape, value.dtype, lambda value=value: value)
    for name, value in params.items()
  }
  model_writer.write(
    tmp_path / "model", loaded.config, loaded.infos, lazy, scales, {"licence": "CC0"}
  )
  again = model_directory.load_model_directory(tmp_path / "model")
  chex.assert_trees_all_equal(again.variables, loaded.variables)
  _flip_part(tmp_path / "model" / "checkpoints" / "0", "params")
  with pytest.raises(CheckpointError, match="params/"):
    model_directory.load_model_directory(tmp_path / "model")
