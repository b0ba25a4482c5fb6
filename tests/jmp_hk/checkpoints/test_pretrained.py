"""Fine-tuning starts from the backbone of a checkpoint, with fresh heads."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jmp_hk.checkpoints import pretrained
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters
from jmp_hk.targets import config as tasks_lib
from tests.jmp_hk.training import small

Status = pretrained.Status

_GAP = tasks_lib.TaskConfig("gap", (tasks_lib.TargetConfig("gap", "scalar"),))


def _variables(seed: int, tasks=small.TASKS, **sizes) -> model_lib.Variables:
  """Variables with distinct random values everywhere, without running the model."""
  backbone = dataclasses.replace(small.BACKBONE, **sizes)
  model = model_lib.build_model(model_lib.ModelConfig(backbone, tasks))
  batch = small.microbatch(small.batch(0))
  shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture(name="source", scope="module")
def _source():
  return _variables(0)


@pytest.fixture(name="fresh", scope="module")
def _fresh():
  return _variables(1, (_GAP,), direct_vectors=False)


def test_backbone_and_scales_are_loaded_and_heads_are_fresh(source, fresh):
  loaded, entries = pretrained.load(source, fresh)
  old, new, result = (
    parameters.flatten(v.params) | parameters.flatten(v.scales)
    for v in (source, fresh, loaded)
  )
  assert set(result) == set(new)
  by_path = {e.path: e.status for e in entries if e.status is not Status.IGNORED}
  assert set(by_path) == set(new)
  for path, value in result.items():
    is_head = path.startswith("out_gap/")
    assert by_path[path] is (Status.FRESH if is_head else Status.LOADED)
    chex.assert_trees_all_equal(value, new[path] if is_head else old[path])


def test_the_branch_for_direct_forces_is_drawn_where_the_source_has_none(fresh):
  wanted = _variables(3)
  # The backbone of `fresh` has no such branch.
  with pytest.raises(pretrained.PretrainedError, match="out_mlp_F.* is missing"):
    pretrained.load(fresh, wanted)
  loaded, entries = pretrained.load(fresh, wanted, draw_missing=True)
  statuses = {e.path: e.status for e in entries if pretrained.is_backbone(e.path)}
  drawn = {path for path, status in statuses.items() if status is Status.FRESH}
  assert {"backbone/out_mlp_F/out_mlp_0/w"} <= drawn
  assert "backbone/out_blocks_0/scale_rbf_F/scale_factor" in drawn
  assert not any("int_blocks" in path for path in drawn)
  old, new, result = (
    parameters.flatten(v.params) | parameters.flatten(v.scales)
    for v in (fresh, wanted, loaded)
  )
  for path in statuses:
    chex.assert_trees_all_equal(result[path], (new if path in drawn else old)[path])
  wrong = _variables(4, (_GAP,), direct_vectors=False, atom_channels=24)
  with pytest.raises(pretrained.PretrainedError, match="has shape"):
    pretrained.load(wrong, wanted, draw_missing=True)


def test_every_parameter_of_both_models_is_in_the_table(source, fresh):
  _, entries = pretrained.load(source, fresh)
  ignored = {entry.path for entry in entries if entry.status is Status.IGNORED}
  sources = set(
    parameters.path_names(source.params) + parameters.path_names(source.scales)
  )
  news = set(parameters.path_names(fresh.params) + parameters.path_names(fresh.scales))
  assert ignored == sources - news
  # The pre-training heads, and the branch for direct forces that nobody needs here.
  assert {"out_energy/linear_0/w", "backbone/out_mlp_F/out_mlp_0/w"} <= ignored
  assert len(entries) == len(sources | news)


def test_a_head_of_the_same_name_is_drawn_anew(source):
  fresh = _variables(2)
  loaded, entries = pretrained.load(source, fresh)
  head = "out_energy/linear_0"
  chex.assert_trees_all_equal(loaded.params[head], fresh.params[head])
  statuses = [e.status for e in entries if e.path == "out_energy/linear_0/w"]
  assert statuses == [Status.FRESH, Status.IGNORED]


def _match(old, new, **constants):
  """Heads that a model with the tasks `new` takes from one with the tasks `old`."""
  infos = [
    {
      task.name: dataclasses.replace(small.INFOS["slabs"], name=task.name, **changes)
      for task in tasks
    }
    for tasks, changes in ((old, {}), (new, constants))
  ]
  configs = [model_lib.ModelConfig(small.BACKBONE, tasks) for tasks in (old, new)]
  return pretrained.match_heads(configs[0], infos[0], configs[1], infos[1])


def test_heads_of_the_same_targets_go_on_in_the_units_of_the_new_data(source):
  # Of two heads, that of the task with the same name; the other one is drawn.
  tasks = (tasks_lib.pretraining_task("crystals"), small.TASKS[1])
  heads = _match(small.TASKS, tasks, energy_scale=1.25, force_scale=0.4)
  assert [(h.target, h.task, h.old, h.new, h.factor) for h in heads] == [
    ("energy", "molecules", 1, 1, 2.0),
    ("forces", "molecules", 1, 1, 1.0),
  ]
  fresh = _variables(2, tasks)
  loaded, entries = pretrained.load(source, fresh, heads)
  for layer, factor in (("linear_0", 1.0), ("linear_4", 2.0)):
    name = f"out_energy/{layer}"
    new, old = loaded.params[name]["w"], source.params[name]["w"]
    chex.assert_trees_all_equal(new[1], factor * old[1])
    chex.assert_trees_all_equal(new[0], fresh.params[name]["w"][0])
  assert {e.status for e in entries if e.path.startswith("out_")} == {Status.PARTLY}
  assert "partly loaded" in pretrained.overview(entries)


def test_the_only_task_of_a_model_gives_its_heads_whatever_it_is_called(source):
  old, new = (
    tasks_lib.pretraining_task(name, *w) for name, w in (("a", ()), ("b", (9,)))
  )
  heads = _match((old,), (new,))
  assert [(h.source, h.task) for h in heads] == [("a", "b")] * 2
  one, fresh = _variables(0, (old,)), _variables(1, (new,))
  loaded, entries = pretrained.load(one, fresh, heads)
  chex.assert_trees_all_equal(loaded, one)
  assert {entry.status for entry in entries} == {Status.LOADED}


def test_other_heads_are_drawn():
  energy = tasks_lib.TargetConfig("energy", "energy")
  forces = tasks_lib.TargetConfig("forces", "conservative_forces")
  conservative = (dataclasses.replace(energy, head_bias=False), forces)
  task = tasks_lib.TaskConfig("mine", conservative)
  # Two tasks, none of this name; one without biases; another kind of the same label.
  assert not _match(small.TASKS, (task,))
  assert not _match((tasks_lib.pretraining_task("mine"),), (task,))
  [kept] = _match((task,), (dataclasses.replace(task, name="yours"),))
  assert (kept.target, kept.factor) == ("energy", 1.0)
  # A conservative energy is divided by the force scale.
  [scaled] = _match((task,), (task,), force_scale=0.1)
  assert scaled.factor == pytest.approx(4.0)


def test_missing_parameters_are_named(source, fresh):
  # A model for conservative forces has no branch for direct forces.
  with pytest.raises(
    pretrained.PretrainedError, match="backbone/out_mlp_F/out_mlp_0/w is missing"
  ):
    pretrained.load(fresh, source)


def test_wrong_shapes_are_named(source):
  wider = _variables(3, atom_channels=12)
  with pytest.raises(pretrained.PretrainedError) as error:
    pretrained.load(source, wider)
  assert (
    "atom_embedding/embeddings has shape (120, 8) in the checkpoint, the model needs "
    "(120, 12)"
  ) in str(error.value)


def test_missing_scale_factors_are_named(source, fresh):
  bare = source._replace(scales={})
  with pytest.raises(pretrained.PretrainedError, match="scale_factor is missing"):
    pretrained.load(bare, fresh)


def test_table_and_overview(source, fresh, tmp_path):
  _, entries = pretrained.load(source, fresh)
  path = tmp_path / "parameters.csv"
  pretrained.write_table(entries, path)
  lines = path.read_text(encoding="utf-8").splitlines()
  assert lines[0] == "parameter,shape,status"
  assert "atom_embedding/embeddings,120×8,loaded" in lines
  assert len(lines) == 1 + len(entries)
  overview = pretrained.overview(entries)
  assert "atom_embedding" in overview and "1 (960 values)" in overview
