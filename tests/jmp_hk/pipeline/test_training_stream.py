import dataclasses
import itertools
import json

import chex
import jax
import numpy as np
import pytest

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import config as config_lib
from jmp_hk.pipeline import training_stream
from jmp_hk.targets import labels as labels_lib
from tests import gemnet_graphs
from tests.jmp_hk.pipeline import corpus

CONFIG = config_lib.PipelineConfig(
  pool_size=9, streams_per_microbatch=2, prefetch_batches=0
)
SPEC = dataclasses.replace(corpus.SPEC, num_microbatches=2)
_WITHOUT_DROPOUT = dataclasses.replace(SPEC, builder=gemnet_graphs.BUILDER)


def _stream(datasets, config=CONFIG, spec=SPEC, *, seed=3, **kwargs):
  return training_stream.TrainingStream(datasets, spec, config, seed=seed, **kwargs)


def _take(stream, count):
  with stream:
    return list(itertools.islice(stream, count))


def _assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    assert a.info == b.info
    chex.assert_trees_all_equal(a.batch, b.batch)


@pytest.fixture(scope="module")
def batches(datasets):
  return _take(_stream(datasets), 12)


def test_batches_are_stacked_and_described(datasets, batches):
  for entry in batches:
    chex.assert_shape(entry.batch.positions, (2, 64, 3))
    assert entry.batch.budget == corpus.BUDGET
    assert entry.info.num_structures == entry.batch.graph_mask.sum()
    assert entry.info.num_atoms == entry.batch.atom_mask.sum()
    assert entry.info.utilisation["num_atoms"] == entry.info.num_atoms / 128
    for microbatch in range(2):
      names = entry.info.record_ids[microbatch]
      assert all(draw % 2 == microbatch for draw in entry.info.draws[microbatch])
      tasks = entry.batch.task[microbatch]
      for graph, name in enumerate(names):
        kind, index = name.split(":")
        structure = getattr(corpus, kind[:-1])(0, int(index))
        dataset = datasets[tasks[graph]]
        assert dataset.name == kind
        mine = entry.batch.node_graph[microbatch] == graph
        chex.assert_trees_all_equal(
          entry.batch.positions[microbatch][mine], structure.positions
        )
        labels = labels_lib.normalise_labels(
          structure, dataset.info, corpus.TASKS[dataset.task]
        )
        packed = entry.batch.targets
        assert packed["energy"][microbatch, graph] == np.float32(labels["energy"])
        chex.assert_trees_all_equal(
          packed["forces"][microbatch][mine], labels["forces"].astype(np.float32)
        )
  filled = [entry.info.utilisation["num_atoms"] for entry in batches]
  assert np.mean(filled) > 0.85


def test_stream_is_deterministic_and_follows_the_seed(datasets, batches):
  _assert_equal(batches, _take(_stream(datasets), 12))
  other = _take(_stream(datasets, seed=4), 1)
  assert other[0].info.draws != batches[0].info.draws or (
    other[0].info.record_ids != batches[0].info.record_ids
  )


def test_no_draw_is_lost_or_taken_twice(batches):
  draws = [
    d for entry in batches for microbatch in entry.info.draws for d in microbatch
  ]
  assert len(set(draws)) == len(draws)
  stored = batches[-1].info.state["microbatches"]
  # Lane (i, s) has the draws i + 2 s, i + 2 s + 4, …
  lanes = {i + 2 * s: stored[str(i)][s] for i in range(2) for s in range(2)}
  waiting = [draw for lane in lanes.values() for draw in lane["pool"]]
  for first, lane in lanes.items():
    assert sorted(d for d in draws + waiting if d % 4 == first) == list(
      range(first, lane["next"], 4)
    )


@pytest.mark.parametrize("stop", [0, 6])
def test_resumed_stream_equals_the_uninterrupted_one(datasets, batches, stop):
  state = json.loads(json.dumps(batches[stop].info.state))
  rest = batches[stop + 1 :]
  _assert_equal(rest, _take(_stream(datasets, state=state), len(rest)))


def test_workers_and_threads_change_nothing(datasets, batches):
  config = dataclasses.replace(CONFIG, num_workers=2, prefetch_batches=2)
  _assert_equal(batches, _take(_stream(datasets, config), 12))


def test_microbatches_do_not_depend_on_who_serves_them(datasets, batches):
  states = []
  for microbatch in range(2):
    alone = _take(_stream(datasets, local_microbatches=[microbatch]), 12)
    for mine, both in zip(alone, batches):
      assert mine.info.record_ids == (both.info.record_ids[microbatch],)
      chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x[0], mine.batch),
        jax.tree.map(lambda x, i=microbatch: x[i], both.batch),
      )
    states.append(alone[3].info.state)
  assert training_stream.merge_states(states) == batches[3].info.state
  resumed = _take(_stream(datasets, state=training_stream.merge_states(states)), 2)
  _assert_equal(batches[4:6], resumed)


def _edges_by_draw(batches):
  """Senders of the main and a2a edges of every structure, from its first atom."""
  result = {}
  for entry in batches:
    for microbatch, draws in enumerate(entry.info.draws):
      for graph, draw in enumerate(draws):
        nodes = entry.batch.node_graph[microbatch]
        mine = np.flatnonzero(nodes == graph)
        result[draw] = []
        for edges in (entry.batch.graphs.main, entry.batch.graphs.a2a):
          inside = np.isin(edges.receivers[microbatch], mine)
          result[draw].append((edges.senders[microbatch][inside] - mine[0]).tolist())
  return result


def test_padding_does_not_change_the_dropout(datasets, batches):
  roomy = gemnet_graphs.Budget(20, 128, 1500, 3000, 999, 400, 48, 24, 8, 5)
  first = _edges_by_draw(batches)
  second = _edges_by_draw(
    _take(_stream(datasets, spec=dataclasses.replace(SPEC, budget=roomy)), 4)
  )
  shared = set(first) & set(second)
  assert len(shared) > 40
  assert all(first[draw] == second[draw] for draw in shared)


def test_one_dataset_gives_each_record_once_per_epoch(datasets):
  config = dataclasses.replace(CONFIG, pool_size=4)
  seen = {}
  with _stream(datasets[1:], config, corpus.SPEC) as stream:
    assert stream.epoch_length == 45
    for entry in stream:
      for draw, name in zip(entry.info.draws[0], entry.info.record_ids[0]):
        seen[draw] = name
      if entry.info.epoch > 2.2:
        break
  for epoch in range(2):
    names = {seen[draw] for draw in range(45 * epoch, 45 * (epoch + 1))}
    assert len(names) == 45


def test_mixture_follows_the_weights(corpus_directory):
  weighted = corpus.open_all(corpus_directory, weights=(1.0, 4.0))
  names = [
    name
    for entry in _take(_stream(weighted, spec=_WITHOUT_DROPOUT), 60)
    for microbatch in entry.info.record_ids
    for name in microbatch
  ]
  share = np.mean([name.startswith("slabs") for name in names])
  assert abs(share - 0.2) < 4 * np.sqrt(0.16 / len(names))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_too_large_structure_names_the_budget_to_raise(datasets, prefetch):
  config = dataclasses.replace(CONFIG, prefetch_batches=prefetch)
  budget = dataclasses.replace(corpus.BUDGET, num_atoms=10)
  small = dataclasses.replace(SPEC, budget=budget)
  with pytest.raises(budget_lib.BudgetError, match=r"slabs:\d+ .*num_atoms=1[0-2]"):
    _take(_stream(datasets, config, small), 3)


def test_foreign_states_and_microbatches_are_refused(datasets, batches):
  state = batches[0].info.state
  with pytest.raises(training_stream.StateError, match="another data stream"):
    _stream(datasets, seed=9, state=state)
  with pytest.raises(training_stream.StateError, match=r"lacks.*\[1\]"):
    _stream(
      datasets, state={**state, "microbatches": {"0": state["microbatches"]["0"]}}
    )
  with pytest.raises(ValueError, match="microbatches"):
    _stream(datasets, local_microbatches=[2])
