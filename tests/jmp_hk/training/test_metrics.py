"""Metrics are in the stated units, per dataset, and independent of batching."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmp_hk import dataset_info as info_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import evaluation
from jmp_hk.training import metrics
from jmp_hk.training import sharding
from tests.jmp_hk.training import small


def _predictions(batch, seed=0):
  rng = np.random.default_rng(seed)
  return {
    k: rng.normal(size=v.shape).astype(np.float32) for k, v in batch.targets.items()
  }


def _expected(batches) -> dict[str, float]:
  """The definitions, written out atom by atom."""
  lists: dict[str, list[float]] = {}
  for batch, predictions in batches:
    sizes = np.asarray(batch.n_node)
    for g in np.flatnonzero(batch.graph_mask):
      name = small.TASKS[batch.task[g]].name
      info = small.INFOS[name]
      error = predictions["energy"][g] - batch.targets["energy"][g]
      mev = 1000 * info.energy_scale * abs(float(error))
      lists.setdefault(f"{name}/energy_mae_mev", []).append(mev)
      lists.setdefault(f"{name}/energy_mae_mev_per_atom", []).append(mev / sizes[g])
      for i in np.flatnonzero((batch.node_graph == g) & batch.atom_mask):
        if info.evaluate_free_atoms_only and batch.fixed[i]:
          continue
        ours, theirs = predictions["forces"][i], batch.targets["forces"][i]
        for a, b in zip(ours, theirs, strict=True):
          lists.setdefault(f"{name}/force_mae_mev_per_angstrom", []).append(
            1000 * info.force_scale * abs(float(a) - float(b))
          )
        lists.setdefault(f"{name}/force_cosine", []).append(
          float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
        )
  return {name: float(np.mean(values)) for name, values in lists.items()}


def test_metrics_equal_their_definitions_over_several_batches():
  batches = [small.microbatch(small.batch(seed, 2), seed % 2) for seed in range(3)]
  pairs = [(batch, _predictions(batch, i)) for i, batch in enumerate(batches)]
  sums = jax.device_get(
    [metrics.batch_sums(small.TASKS, small.INFOS, b, p) for b, p in pairs]
  )
  got = metrics.summarise(sums)
  expected = _expected(pairs)
  assert set(expected) <= set(got)
  chex.assert_trees_all_close(
    {name: got[name] for name in expected}, expected, rtol=1e-5
  )
  # The score is the mean over datasets of normalised energy and force errors.
  scores = [
    got[f"{n}/energy_mae_mev"] / small.INFOS[n].energy_scale / 1000
    + got[f"{n}/force_mae_mev_per_angstrom"] / small.INFOS[n].force_scale / 1000
    for n in small.INFOS
  ]
  assert got["slabs/score"] == pytest.approx(scores[0], rel=1e-5)
  assert got["score"] == pytest.approx(np.mean(scores), rel=1e-5)


def test_fixed_atoms_count_where_the_dataset_says_so():
  batch = small.microbatch(small.batch(0))
  predictions = {k: v.copy() for k, v in batch.targets.items()}
  predictions["forces"][np.asarray(batch.fixed)] += 1.0
  free = metrics.summarise(
    [metrics.batch_sums(small.TASKS, small.INFOS, batch, predictions)]
  )
  assert free["slabs/force_mae_mev_per_angstrom"] == 0.0


def test_missing_datasets_are_left_out_and_sums_are_float64():
  batch = small.microbatch(small.batch(1))
  only_slabs = batch.replace(graph_mask=batch.graph_mask & (batch.task == 0))
  sums = metrics.batch_sums(small.TASKS, small.INFOS, only_slabs, _predictions(batch))
  got = metrics.summarise([sums])
  assert "slabs/energy_mae_mev" in got and "molecules/energy_mae_mev" not in got
  # 2^24 + 1 is no float32.
  many = [{"a/x": (2.0**24, 1.0)}, {"a/x": (1.0, 0.0)}]
  assert metrics.summarise(many)["a/x"] == 2.0**24 + 1


def test_other_kinds_of_targets():
  task = tasks_lib.TaskConfig(
    "molecules",
    (
      tasks_lib.TargetConfig("gap", "scalar"),
      tasks_lib.TargetConfig("metal", "binary"),
      tasks_lib.TargetConfig("group", "multiclass", num_classes=3),
      tasks_lib.TargetConfig("dipole", "vector"),
    ),
  )
  info = small.info("molecules")
  statistics = {
    name: info_lib.TargetStatistics("eV", mean=1.0, std=2.0)
    for name in ("gap", "dipole")
  }
  batch = small.microbatch(small.batch(0))
  graphs, atoms = batch.task.shape[0], batch.positions.shape[0]
  batch = batch.replace(
    task=np.zeros_like(batch.task),
    targets={
      "gap": np.zeros(graphs, np.float32),
      "metal": np.ones(graphs, np.int32),
      "group": np.full(graphs, 2, np.int32),
      "dipole": np.zeros((atoms, 3), np.float32),
    },
  )
  predictions = {
    "gap": np.full(graphs, 1.5, np.float32),
    "metal": np.full(graphs, 3.0, np.float32),
    "group": np.tile(np.array([0.0, 1.0, 0.5], np.float32), (graphs, 1)),
    "dipole": np.full((atoms, 3), -0.5, np.float32),
  }
  infos = {"molecules": info_lib.DatasetInfo(**{**vars(info), "targets": statistics})}
  got = metrics.summarise([metrics.batch_sums((task,), infos, batch, predictions)])
  assert got["molecules/gap_mae"] == pytest.approx(3.0)
  assert got["molecules/gap_rmse"] == pytest.approx(3.0)
  assert got["molecules/dipole_mae"] == pytest.approx(1.0)
  assert got["molecules/metal_accuracy"] == 1.0
  assert got["molecules/metal_cross_entropy"] == pytest.approx(np.log1p(np.exp(-3.0)))
  assert got["molecules/group_accuracy"] == 0.0


def test_energies_whose_derivatives_are_forces_have_the_unit_of_forces():
  targets = (
    tasks_lib.TargetConfig("energy", "energy"),
    tasks_lib.TargetConfig("forces", "conservative_forces"),
  )
  tasks = (tasks_lib.TaskConfig("slabs", targets), small.TASKS[1])
  batch = small.microbatch(small.batch(0))
  predictions = _predictions(batch)
  got = metrics.batch_sums(tasks, small.INFOS, batch, predictions)
  direct = metrics.batch_sums(small.TASKS, small.INFOS, batch, predictions)
  info = small.INFOS["slabs"]
  for name in ("slabs/energy_mae_mev", "slabs/energy_mae_mev_per_atom"):
    ratio = got[name][0] / direct[name][0]
    assert ratio == pytest.approx(info.force_scale / info.energy_scale, rel=1e-6)
    assert got.pop(name)[1] == direct.pop(name)[1]
  chex.assert_trees_all_equal(got, direct)


@pytest.mark.parametrize(
  "target, expected",
  [
    (("energy", "energy"), "x/energy_mae_mev"),
    (("forces", "direct_forces"), "x/force_mae_mev_per_angstrom"),
    (("forces", "conservative_forces"), "x/force_mae_mev_per_angstrom"),
    (("U_0", "scalar"), "x/U_0_mae"),
    (("shift", "vector"), "x/shift_mae"),
    (("metal", "binary"), "x/metal_cross_entropy"),
    (("group", "multiclass"), "x/group_cross_entropy"),
  ],
)
def test_primary_metric_of_a_task(target, expected):
  target = tasks_lib.TargetConfig(*target)
  silent = tasks_lib.TargetConfig("gap", "scalar", loss_coefficient=0.0)
  task = tasks_lib.TaskConfig("x", (silent, target))
  assert metrics.primary_metric(task) == expected
  learned = tasks_lib.TargetConfig("gap", "scalar")
  both = tasks_lib.TaskConfig("x", (learned, target))
  assert metrics.primary_metric(both) == "x/score"


def test_zero_predictions_have_the_shapes_of_predictions():
  batch = small.microbatch(small.batch(0))
  graphs, atoms = len(batch.graph_mask), len(batch.atom_mask)
  group = tasks_lib.TargetConfig("group", "multiclass", num_classes=3)
  tasks = (*small.TASKS, tasks_lib.TaskConfig("x", (group,)))
  batch = batch.replace(targets=batch.targets | {"group": np.zeros(graphs, np.int32)})
  zeros = metrics.zero_predictions(tasks, batch)
  chex.assert_trees_all_equal(
    zeros,
    {
      "energy": jnp.zeros(graphs),
      "forces": jnp.zeros((atoms, 3)),
      "group": jnp.zeros((graphs, 3)),
    },
  )


def test_evaluation_over_microbatches_equals_single_batches():
  mesh = sharding.make_mesh(jax.devices()[:1])

  def microbatch_sums(params, scales, microbatch):
    predictions = {k: v * params for k, v in microbatch.targets.items()}
    return metrics.batch_sums(small.TASKS, small.INFOS, microbatch, predictions)

  step = evaluation.make_eval_step(microbatch_sums, mesh)
  info = batches_lib.BatchInfo((), (), 0, 0, {})
  source = [batches_lib.PipelineBatch(small.batch(seed, 2), info) for seed in range(4)]
  variables = model_lib.Variables(np.float32(0.5), {})
  got = evaluation.evaluate(step, variables, source, mesh, lambda: source[0])
  microbatches = [small.microbatch(item.batch, i) for item in source for i in range(2)]
  expected = _expected(
    [(b, {k: 0.5 * v for k, v in b.targets.items()}) for b in microbatches]
  )
  chex.assert_trees_all_close(
    {name: got[name] for name in expected}, expected, rtol=1e-5
  )
  assert step.num_compilations == 1
  # Raw weights have metrics of their own where they differ by more than a tenth.
  compare = lambda raw: evaluation.compare(
    step,
    variables,
    model_lib.Variables(np.float32(raw), {}),
    source * 3,
    mesh,
    lambda: source[0],
  )
  both, other = compare(0.4)
  assert other["score"] == pytest.approx(1.2 * both["score"])
  chex.assert_trees_all_close(both, got)
  assert compare(0.48)[1] is None
  # A signal ends it.
  with pytest.raises(evaluation.StoppedError) as stopped:
    evaluation.compare(
      step, variables, None, source, mesh, lambda: source[0], lambda: 15
    )
  assert stopped.value.number == 15


def test_missing_labels_do_not_count():
  batch = small.microbatch(small.batch(0))
  predictions = _predictions(batch)
  tasks = tuple(
    dataclasses.replace(
      task,
      targets=tuple(dataclasses.replace(t, allow_missing=True) for t in task.targets),
    )
    for task in small.TASKS
  )
  graphs = np.flatnonzero(batch.graph_mask)
  lacking = int(graphs[-1])
  targets = {name: np.array(value) for name, value in batch.targets.items()}
  targets["energy"][lacking] = np.nan
  targets["forces"][np.asarray(batch.node_graph) == lacking] = np.nan
  found = metrics.batch_sums(
    tasks, small.INFOS, batch.replace(targets=targets), predictions
  )
  others = batch.replace(
    graph_mask=np.array(batch.graph_mask) & (np.arange(len(batch.task)) != lacking)
  )
  expected = metrics.batch_sums(small.TASKS, small.INFOS, others, predictions)
  chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_names_are_those_of_a_validation():
  batch = small.microbatch(small.batch(0))
  sums = metrics.batch_sums(small.TASKS, small.INFOS, batch, _predictions(batch))
  names = metrics.names(small.TASKS, small.INFOS, batch)
  assert set(names) == set(metrics.summarise([jax.device_get(sums)]))
