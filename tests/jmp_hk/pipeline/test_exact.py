"""Exact batches: which structures a step has, and what it is packed to."""

import dataclasses
import itertools
import pickle
from typing import ClassVar

import chex
import numpy as np
import pytest

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import exact
from jmp_hk.pipeline import order


@dataclasses.dataclass(frozen=True)
class Budget(budget_lib.Budget):
  main_field: ClassVar[str] = "num_edges"

  num_edges: int = budget_lib.count(round_to=16)
  width: int = budget_lib.width(round_to=2)


EDGES = budget_lib.names(Budget).index("num_edges")


def table(count: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
  """Sizes of structures whose numbers of atoms are log-normal."""
  rng = np.random.default_rng(seed)
  atoms = np.ceil(10 * np.exp(spread * rng.normal(size=count))).astype(np.int32)
  ones = np.ones(count, np.int32)
  return np.stack([ones, atoms, atoms * rng.integers(5, 12, count), atoms % 7], 1)


def make_draws(*lengths, chances=(1.0,), seed=0) -> exact.Draws:
  orders = [order.Order(seed + i, length) for i, length in enumerate(lengths)]
  return exact.Draws(seed, orders, lengths, chances)


def make_plan(sizes, batch_size, microbatches=1, seed=0, num_steps=10_000):
  draws = make_draws(len(sizes), seed=seed)
  buckets = exact.choose_buckets(
    sizes, draws, batch_size, microbatches, Budget, num_steps
  )
  return exact.ExactPlan(sizes, draws, batch_size, microbatches, buckets)


@pytest.mark.parametrize("count, batch, last", [(10, 3, 1), (9, 3, 3), (2, 5, 2)])
@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_an_epoch_has_every_structure_once_in_batches_of_the_wanted_size(
  count, batch, last, microbatches
):
  plan = make_plan(table(count), batch, microbatches)
  for epoch in range(3):
    first = epoch * plan.steps_per_epoch
    steps = [plan.step(first + i) for i in range(plan.steps_per_epoch)]
    numbers = [step.num_structures for step in steps]
    assert numbers == [min(batch, count)] * (len(steps) - 1) + [last]
    rows = [row for step in steps for part in step.rows for row in part]
    assert sorted(rows) == list(range(count))
    draws = sorted(d for step in steps for part in step.draws for d in part)
    assert draws == list(range(epoch * count, (epoch + 1) * count))
    assert plan.epoch_before(first + len(steps)) == epoch + 1
  # Epochs are ordered differently.
  if count > 2:
    assert plan.step(0).rows != plan.step(plan.steps_per_epoch).rows


def test_any_step_is_found_without_those_before_it_and_by_copies_elsewhere():
  plan = make_plan(table(50), 4, 2)
  far = plan.step(10**9)
  assert far.num_structures in (4, 2)
  assert pickle.loads(pickle.dumps(plan)).step(10**9) == far
  again = make_plan(table(50), 4, 2)
  assert again.step(10**9) == far and again.buckets == plan.buckets


@pytest.mark.parametrize("microbatches", [1, 2, 3, 7])
def test_microbatches_share_number_and_work_evenly_and_fit_their_bucket(microbatches):
  sizes = table(60, spread=0.3)
  plan = make_plan(sizes, 20, microbatches)
  spans = []
  for number in range(30):
    step = plan.step(number)
    counts = [len(rows) for rows in step.rows]
    assert max(counts) - min(counts) <= 1
    room = budget_lib.capacity(plan.buckets[step.bucket]).as_array()
    needs = [_total(sizes[list(rows)]) for rows in step.rows if rows]
    assert all(np.all(need <= room) for need in needs)
    # No smaller bucket would do.
    for smaller in plan.buckets[: step.bucket]:
      offer = budget_lib.capacity(smaller).as_array()
      assert any(np.any(need > offer) for need in needs)
    if len(set(counts)) == 1:
      edges = [need[EDGES] for need in needs]
      spans.append(max(edges) / np.mean(edges))
  assert not spans or np.mean(spans) < 1.15


def _total(rows: np.ndarray) -> np.ndarray:
  return np.append(rows[:, :-1].sum(axis=0), rows[:, -1].max())


def test_the_last_bucket_holds_the_worst_batch_that_there_can_be():
  sizes = table(12, spread=1.5)
  for batch, microbatches in itertools.product((1, 2, 5), (1, 2)):
    plan = make_plan(sizes, batch, microbatches)
    room = budget_lib.capacity(plan.buckets[-1]).as_array()
    each = -(-batch // microbatches)
    for rows in itertools.combinations(range(12), each):
      assert np.all(_total(sizes[list(rows)]) <= room)


def test_few_buckets_waste_little():
  for batch, least in ((1, 0.6), (3, 0.6), (32, 0.8)):
    sizes = table(500, spread=0.8)
    plan = make_plan(sizes, batch, num_steps=100_000)
    assert len(plan.buckets) <= 4
    costs = [budget.num_edges for budget in plan.buckets]
    assert costs == sorted(set(costs))
    steps = [plan.step(i) for i in range(2000)]
    used = sum(sizes[list(step.rows[0])][:, EDGES].sum() for step in steps)
    assert used / sum(costs[step.bucket] for step in steps) > least


def test_a_short_run_compiles_less_often():
  sizes = table(500, spread=0.8)
  short, long = (make_plan(sizes, 3, num_steps=n).buckets for n in (50, 100_000))
  assert len(short) < len(long) == 4
  assert short[-1] == long[-1]


def test_structures_of_one_size_need_one_bucket():
  sizes = np.tile(table(1), (40, 1))
  (bucket,) = make_plan(sizes, 8, num_steps=10**6).buckets
  chex.assert_trees_all_equal(
    bucket, budget_lib.with_padding(Budget(*map(int, _total(sizes[:8]))))
  )


def test_structures_without_edges_are_dealt_too():
  sizes = table(5) * np.array([1, 1, 0, 0], np.int32)
  plan = make_plan(sizes, 4, 2)
  assert [len(rows) for rows in plan.step(0).rows] == [2, 2]
  assert sorted(len(rows) for rows in plan.step(1).rows) == [0, 1]


def test_a_step_that_fits_no_bucket_says_what_to_raise():
  sizes = table(10)
  small = dataclasses.replace(make_plan(sizes, 2).buckets[-1], num_edges=16)
  plan = exact.ExactPlan(sizes, make_draws(10), 2, 1, [small])
  with pytest.raises(budget_lib.BudgetError, match=r"Step 4 .*--budget=num_edges="):
    plan.step(3)


def test_datasets_of_a_mixture_have_their_shares_of_every_epoch():
  draws = make_draws(30, 10, chances=(0.6, 0.4))
  assert draws.epoch_length == 50  # The first has each structure once, the other twice.
  for epoch in range(3):
    rows = draws.rows(np.arange(50 * epoch, 50 * (epoch + 1)))
    found = [draws.find(row) for row in rows.tolist()]
    assert sorted(i for dataset, i in found if not dataset) == list(range(30))
    assert sorted(i for dataset, i in found if dataset) == sorted([*range(10)] * 2)
    datasets = [dataset for dataset, _ in found]
    assert 2 < sum(datasets[:15]) < 13  # They are mixed.


def test_plans_of_nothing_are_refused():
  bucket = Budget(2, 8, 16, 2)
  for args in (
    (table(0), make_draws(1), 2, 1, [bucket]),
    (table(3), make_draws(3), 2, 1, []),
    (table(3), make_draws(3), 0, 1, [bucket]),
    (table(3), make_draws(3), 2, 0, [bucket]),
  ):
    with pytest.raises(ValueError, match="Exact batches need"):
      exact.ExactPlan(*args)
