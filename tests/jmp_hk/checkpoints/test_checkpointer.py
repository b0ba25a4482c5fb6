"""Checkpoints come back bit for bit, are pruned, and refuse what does not fit."""

import json

import chex
import numpy as np
import pytest

from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.models import parameters
from jmp_hk.training import sharding
from tests.jmp_hk.training import toy

_MODEL = {"format_version": 1, "model": {}, "datasets": {}}


def _train(state, step, mesh, count: int, first: int = 0):
  losses = []
  for i in range(first, first + count):
    state, metrics = step(state, sharding.put_batch(toy.batch(i, 2), mesh))
    losses.append(float(metrics["loss"]))
  return state, losses


def _open(path, **kwargs) -> checkpointer_lib.Checkpointer:
  return checkpointer_lib.Checkpointer(path / "checkpoints", _MODEL, **kwargs)


def test_restored_run_continues_exactly(tmp_path):
  mesh, _, state, step = toy.setup(2)
  state, _ = _train(state, step, mesh, 3)
  saver = _open(tmp_path)
  saver.save(state, {"position": {"epoch": 1, "draws": [3, 4]}})
  # The state is donated right away while the checkpoint is still being written.
  expected, losses = _train(state, step, mesh, 4, first=3)
  saver.close()

  mesh, _, fresh, step = toy.setup(2)
  reader = _open(tmp_path)
  assert reader.latest_step == 3
  restored, host = reader.restore(fresh)
  reader.close()
  assert host == {"position": {"epoch": 1, "draws": [3, 4]}}
  restored = sharding.put_replicated(restored, mesh)
  got, again = _train(restored, step, mesh, 4, first=3)
  # Losses, weights, average, moments, key and plateau: all the same bits.
  assert again == losses
  chex.assert_trees_all_equal(got, expected)


def test_last_and_best_are_kept(tmp_path):
  mesh, _, state, step = toy.setup(2)
  saver = _open(tmp_path, keep_last=2, keep_best=1)
  scores = {1: 3.0, 2: 1.0, 4: 2.0, 5: float("nan")}
  for i in range(1, 7):
    state, _ = _train(state, step, mesh, 1, first=i)
    saver.save(state, {}, primary=scores.get(i))
  saver.close()
  assert checkpointer_lib.complete_steps(tmp_path / "checkpoints") == [2, 5, 6]
  # What is best is still known after a restart.
  saver = _open(tmp_path, keep_last=2, keep_best=1)
  state, _ = _train(state, step, mesh, 1)
  saver.save(state, {}, primary=1.5)
  saver.close()
  assert checkpointer_lib.complete_steps(tmp_path / "checkpoints") == [2, 6, 7]


def test_unfinished_checkpoints_are_ignored_and_removed(tmp_path):
  mesh, _, state, step = toy.setup(2)
  state, _ = _train(state, step, mesh, 1)
  saver = _open(tmp_path)
  saver.save(state, {})
  saver.close()
  partial = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
  (partial / "params").mkdir(parents=True)
  reader = _open(tmp_path)
  assert reader.latest_step == 1
  reader.restore(state)
  reader.close()
  assert checkpointer_lib.complete_steps(tmp_path / "checkpoints") == [1]
  assert not partial.exists()


def test_without_average_nothing_is_stored_for_it(tmp_path):
  _, _, state, _ = toy.setup(2)
  state = state.replace(step=np.int32(1), ema=None)
  assert state.evaluation_params is state.params
  saver = _open(tmp_path)
  saver.save(state, {})
  restored, _ = saver.restore(state)
  saver.close()
  assert restored.ema is None
  assert not (tmp_path / "checkpoints" / "1" / "ema").exists()


def test_weights_that_do_not_match_are_all_named(tmp_path):
  mesh, _, state, step = toy.setup(2)
  state, _ = _train(state, step, mesh, 1)
  flat = parameters.flatten(state.params)
  flat["other/w"] = flat.pop("hidden/w")
  flat["out/b"] = np.zeros(3)
  with pytest.raises(ValueError) as error:
    parameters.unflatten(flat, state.params)
  for part in ("hidden/w is missing", "other/w is unknown", "out/b has shape (3,)"):
    assert part in str(error.value)


def test_description_lies_in_every_checkpoint(tmp_path):
  mesh, _, state, step = toy.setup(2)
  state, _ = _train(state, step, mesh, 1)
  saver = _open(tmp_path)
  saver.save(state, {})
  saver.close()
  file = tmp_path / "checkpoints" / "1" / "model" / checkpointer_lib.MODEL_FILE
  assert json.loads(file.read_text()) == _MODEL


def test_restoring_nothing_says_so(tmp_path):
  _, _, state, _ = toy.setup(2)
  reader = _open(tmp_path)
  with pytest.raises(FileNotFoundError, match="no checkpoint in"):
    reader.restore(state)
  reader.close()


def test_haiku_tree_from_flat_names():
  flat = {"net/~/block_0/w": 1, "net/~/block_0/b": 2, "net/w": 3}
  assert parameters.to_haiku(flat) == {
    "net/~/block_0": {"w": 1, "b": 2},
    "net": {"w": 3},
  }
