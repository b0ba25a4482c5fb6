"""Batches of exactly as many structures as wanted, read and packed."""

import dataclasses
import itertools
import json

import chex
import numpy as np
import pytest

from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import exact
from jmp_hk.pipeline import exact_lane
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.pipeline import mixture
from jmp_hk.pipeline import sizes
from jmp_hk.pipeline import training_stream
from tests import gemnet_graphs
from tests.jmp_hk.pipeline import corpus

CONFIG = config_lib.PipelineConfig(streams_per_microbatch=2, prefetch_batches=0)


def _plan(datasets, batch_size, num_microbatches, seed=3) -> exact.ExactPlan:
  chances = mixture.probabilities(datasets, 1.0)
  draws = exact_lane.draws(mixture.Mixture(tuple(datasets), tuple(chances), seed))
  table = np.concatenate(
    [sizes.measure(dataset, gemnet_graphs.BUILDER).values for dataset in datasets]
  )
  args = table, draws, batch_size, num_microbatches
  buckets = exact.choose_buckets(*args, gemnet_graphs.Budget, 10_000)
  return exact.ExactPlan(*args, buckets)


def _stream(datasets, plan, config=CONFIG, dropout=0.1, seed=3, **kwargs):
  spec = microbatches_lib.BatchSpec(
    corpus.TASKS,
    dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=dropout),
    plan.buckets[-1],
    plan.identity[1],
    smaller_budgets=plan.buckets[:-1],
  )
  return training_stream.TrainingStream(
    datasets, spec, config, seed=seed, plan=plan, **kwargs
  )


def _take(stream, count):
  with stream:
    return list(itertools.islice(stream, count))


def _assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert a.info == b.info
    chex.assert_trees_all_equal(a.batch, b.batch)


@pytest.fixture(scope="module")
def molecules(datasets):
  return datasets[1:]  # 45 structures.


@pytest.fixture(scope="module")
def plan(molecules):
  return _plan(molecules, 4, 2)


@pytest.fixture(scope="module")
def batches(molecules, plan):
  return _take(_stream(molecules, plan), 25)  # Two epochs and a step.


def test_every_step_holds_the_wanted_number_of_structures(batches, plan):
  counts = [entry.info.num_structures for entry in batches]
  assert counts == ([4] * 11 + [1]) * 2 + [4]
  for entry, count in zip(batches, counts, strict=True):
    assert entry.batch.graph_mask.sum() == count
    each = [len(names) for names in entry.info.record_ids]
    assert max(each) - min(each) <= 1
    assert entry.batch.budget == plan.buckets[entry.info.bucket]
  # The second microbatch of a step with one structure is padding.
  assert not batches[11].batch.atom_mask[1].any()
  used = {entry.info.bucket for entry in batches}
  assert len(used) > 1


def test_an_epoch_is_a_pass_over_the_data(batches):
  for first in (0, 12):
    names = [
      name
      for entry in batches[first : first + 12]
      for microbatch in entry.info.record_ids
      for name in microbatch
    ]
    assert sorted(names) == sorted(f"molecules:{i}" for i in range(45))
  epochs = [entry.info.epoch for entry in batches]
  assert epochs[11] == 1.0 and epochs[23] == 2.0
  assert epochs[0] == pytest.approx(4 / 45)


def test_workers_and_processes_change_nothing(molecules, plan, batches):
  config = dataclasses.replace(CONFIG, num_workers=2, prefetch_batches=2)
  _assert_equal(_take(_stream(molecules, plan, config), 13), batches[:13])
  for local in (0, 1):
    mine = _take(_stream(molecules, plan, local_microbatches=[local]), 13)
    for part, whole in zip(mine, batches):
      chex.assert_trees_all_equal(part.batch.cell[0], whole.batch.cell[local])
      assert part.info.record_ids == whole.info.record_ids[local : local + 1]
      assert part.info.epoch == whole.info.epoch


def test_a_stream_goes_on_where_it_was_stopped(molecules, plan, batches):
  state = json.loads(json.dumps(batches[9].info.state))
  _assert_equal(_take(_stream(molecules, plan, state=state), 5), batches[10:15])
  with pytest.raises(training_stream.StateError, match="size of batches"):
    _stream(molecules, _plan(molecules, 6, 2), state=state)


def test_a_mixture_has_the_share_of_each_dataset_in_every_epoch(datasets):
  plan = _plan(datasets, 10, 1)  # 20 slabs, 45 molecules.
  batches = _take(_stream(datasets, plan), 7)
  assert [entry.info.num_structures for entry in batches] == [10] * 6 + [5]
  names = [name for entry in batches for name in entry.info.record_ids[0]]
  assert len(set(names)) == 65
  for entry in batches:
    assert (np.diff(entry.batch.task[0]) >= 0).all()


def test_edges_that_dropout_adds_never_end_a_run(molecules):
  plan = _plan(molecules, 2, 1)
  # With half of the edges dropped, widths exceed those of some full graphs.
  batches = _take(_stream(molecules, plan, dropout=0.5), 46)
  assert [entry.info.num_structures for entry in batches] == ([2] * 22 + [1]) * 2
  edges = lambda stream: np.mean([e.info.utilisation["num_main"] for e in stream])
  assert edges(batches) < 0.8 * edges(_take(_stream(molecules, plan, dropout=0), 46))


def test_the_sample_has_one_shape_and_all_edges(molecules, plan):
  spec = dataclasses.replace(
    corpus.SPEC,
    builder=gemnet_graphs.BUILDER,
    budget=plan.buckets[-1],
    smaller_budgets=plan.buckets[:-1],
    num_microbatches=plan.identity[1],
  )
  sample = exact_lane.sample(molecules, spec, plan, 8)
  assert len(sample) == 8 * spec.num_microbatches
  assert len({batch.budget for batch in sample}) == 1
  stream = _take(_stream(molecules, plan, dropout=0), 8)
  for position, batch in enumerate(sample):
    step, index = divmod(position, spec.num_microbatches)
    entry = stream[step].batch
    count = entry.graph_mask[index].sum()
    assert batch.graph_mask.sum() == count
    chex.assert_trees_all_equal(batch.n_node[:count], entry.n_node[index, :count])
