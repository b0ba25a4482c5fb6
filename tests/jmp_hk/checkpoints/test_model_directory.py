"""A checkpoint is enough to rebuild the model, without data or optimiser."""

import json
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters
from jmp_hk.training import config as config_lib
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from tests.jmp_hk.training import small


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
  """A run's directory with checkpoints of steps 1 (best), 2, 3, and its variables."""
  workdir = tmp_path_factory.mktemp("run")
  model = model_lib.build_model(small.MODEL)
  shapes = jax.eval_shape(
    model.init, jax.random.PRNGKey(0), small.microbatch(small.batch(0))
  )
  rng = np.random.default_rng(0)
  params, scales = jax.tree.map(
    lambda s: (0.1 * rng.normal(size=s.shape)).astype(s.dtype), tuple(shapes)
  )
  optimizer = optimizer_lib.make_optimizer(config_lib.OptimizerConfig(), params)
  state = state_lib.create_on_mesh(
    params,
    scales,
    optimizer,
    jax.random.PRNGKey(0),
    sharding.make_mesh(),
    use_ema=True,
  )
  description = model_directory.describe(small.MODEL, small.INFOS, small.budget())
  saver = checkpointer_lib.Checkpointer(
    workdir / model_directory.CHECKPOINTS, description, keep_last=2
  )
  for step, score in [(1, 0.5), (2, None), (3, 0.7)]:
    changed = state.replace(
      step=np.int32(step), ema=jax.tree.map(lambda x: x + step, state.ema)
    )
    saver.save(changed, {}, primary=score)
  saver.close()
  return workdir, params, scales


def test_best_average_weights_by_default(run):
  workdir, params, scales = run
  loaded = model_directory.load_model_directory(workdir)
  assert loaded.step == 1
  assert loaded.config == small.MODEL and loaded.infos == small.INFOS
  averages = jax.tree.map(lambda x: x + 1, params)
  chex.assert_trees_all_close(loaded.variables.params, averages, rtol=1e-6)
  chex.assert_trees_all_equal(loaded.variables.scales, scales)


def test_loaded_model_predicts(run):
  workdir, params, scales = run
  loaded = model_directory.load_model_directory(workdir, ema=False)
  batch = small.microbatch(small.batch(1))
  model = model_lib.build_model(loaded.config)
  apply = jax.jit(lambda variables, batch: model.apply(variables, None, batch))
  expected = apply(model_lib.Variables(params, scales), batch)
  chex.assert_trees_all_equal(apply(loaded.variables, batch), expected)


def test_other_ways_to_name_a_checkpoint(run):
  workdir, _, _ = run
  root = workdir / model_directory.CHECKPOINTS
  for directory, step, expected in [
    (root, None, 1),
    (root / "3", None, 3),
    (str(workdir), 2, 2),
  ]:
    assert model_directory.load_model_directory(directory, step=step).step == expected
  with pytest.raises(model_directory.CheckpointError, match=r"no checkpoint of step 9"):
    model_directory.load_model_directory(workdir, step=9)
  # One checkpoint can be copied elsewhere, under its own name.
  shutil.copytree(root / "2", workdir / "copy" / "2")
  assert model_directory.load_model_directory(workdir / "copy").step == 2


def test_without_a_checkpoint_it_says_what_to_give(tmp_path):
  with pytest.raises(model_directory.CheckpointError, match="give a model directory"):
    model_directory.load_model_directory(tmp_path)


def test_newer_and_foreign_formats_are_refused(run, tmp_path):
  workdir, _, _ = run
  copy = tmp_path / "1"
  shutil.copytree(workdir / model_directory.CHECKPOINTS / "1", copy)
  file = copy / "model" / checkpointer_lib.MODEL_FILE
  good = json.loads(file.read_text())
  file.write_text(json.dumps(good | {"format_version": 99}))
  with pytest.raises(model_directory.CheckpointError, match="version 99.*update"):
    model_directory.load_model_directory(tmp_path)
  # The first version of the format had no checksums.
  shutil.rmtree(copy / "manifest")
  changed = good["model"] | {"hue": 3}
  file.write_text(json.dumps(good | {"format_version": 1, "model": changed}))
  with pytest.raises(model_directory.CheckpointError, match="model has no 'hue'"):
    model_directory.load_model_directory(tmp_path)


def test_loading_needs_neither_tensorflow_nor_data(run):
  workdir, params, _ = run
  code = f"""
import sys
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import parameters
loaded = model_directory.load_model_directory({str(workdir)!r})
print(parameters.count(loaded.variables.params))
wrong = [m for m in sys.modules if m.split(".")[0] in ("tensorflow", "data", "torch")]
assert not wrong, wrong
"""
  output = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert int(output.stdout) == parameters.count(params)
