import numpy as np
import pytest

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import budget_search
from jmp_hk.graphs import pool as pool_lib
from tests import gemnet_graphs

SMALL = gemnet_graphs.Budget(6, 60, 600, 600, 600, 600, 50, 50, 20, 8)


def _sizes(n: int, main: int) -> gemnet_graphs.Budget:
  return gemnet_graphs.Budget(1, n, main, 8 * main, 20 * n, 3 * n, 40, 40, 20, 8)


def _stream(length: int, slabs: float, seed: int = 0) -> list[gemnet_graphs.Budget]:
  """74-atom slabs (here with a spread) and 15-atom molecules."""
  rng = np.random.default_rng(seed)
  result = []
  for _ in range(length):
    if rng.random() < slabs:
      n = int(np.clip(rng.normal(74, 25), 20, 160))
      result.append(_sizes(n, int(n * rng.uniform(29, 31))))
    else:
      n = int(np.clip(rng.normal(15, 3), 4, 23))
      result.append(_sizes(n, n * (n - 1)))
  return result


def _batches(stream, budget, size=64, start=0, pool_draws=()):
  """Packs a whole stream; yields draws and the state after each batch."""
  pool = pool_lib.Pool(budget, size)
  for draw in pool_draws:
    pool.add(draw, draw, stream[draw])
  position = start
  while True:
    while not pool.is_full and position < len(stream):
      pool.add(position, position, stream[position])
      position += 1
    draws, items = pool.take()
    assert draws == items
    if not draws:
      return
    yield draws, (position, pool.draws)


@pytest.mark.parametrize("slabs", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("structures", [2, 4, 16])
def test_batches_are_full_and_nothing_is_lost(slabs, structures):
  stream = _stream(1500, slabs)
  budget = budget_lib.choose_budget(stream, budget_lib.BudgetConfig(structures))
  batches = [draws for draws, _ in _batches(stream, budget)]
  assert sorted(sum(batches, [])) == list(range(len(stream)))
  used = [
    budget_lib.utilisation([stream[d] for d in draws], budget) for draws in batches
  ]
  assert all(max(u.values()) <= 1 for u in used)
  steady = used[: -70 // structures - 1]
  assert np.mean([u["num_main"] for u in steady]) > 0.92


def test_the_oldest_is_always_taken():
  stream = _stream(400, 0.5)
  budget = budget_lib.choose_budget(stream, budget_lib.BudgetConfig(3))
  waiting = 0
  for draws, (position, left) in _batches(stream, budget):
    assert not left or min(draws) < min(left)
    assert len(left) < 64 and position - len(left) >= waiting
    waiting += len(draws)


@pytest.mark.parametrize("stop", [0, 1, 17])
def test_resuming_gives_the_same_batches(stop):
  stream = _stream(500, 0.6, seed=1)
  budget = budget_lib.choose_budget(stream, budget_lib.BudgetConfig(4))
  whole = list(_batches(stream, budget))
  _, (position, draws) = whole[stop]
  resumed = list(_batches(stream, budget, start=position, pool_draws=draws))
  assert resumed == whole[stop + 1 :]


def test_structure_that_never_fits_is_named():
  pool = pool_lib.Pool(SMALL)
  with pytest.raises(budget_lib.BudgetError, match="file:3 .*num_atoms=60.*61"):
    pool.add(0, None, _sizes(60, 10), "file:3")
  with pytest.raises(ValueError, match="at least one"):
    pool_lib.Pool(SMALL, 0)


def test_every_count_limits_a_batch():
  pool = pool_lib.Pool(SMALL)
  for draw in range(9):
    pool.add(draw, None, _sizes(2, 2))
  assert pool.take()[0] == [0, 1, 2, 3, 4]  # five graphs and one of padding
  pool = pool_lib.Pool(SMALL)
  for draw, main in enumerate([70, 30, 2, 2]):
    pool.add(draw, None, _sizes(2, main))
  assert pool.take()[0] == [0, 2, 3]  # 8 a2a edges per main edge, 600 in all


@pytest.mark.parametrize("slabs", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("structures", [2, 8])
def test_tuned_budgets_are_filled_even_by_equal_structures(slabs, structures):
  # Structures of one size each combine badly: 1.5 slabs waste a third of a batch.
  sample = [_sizes(74, 2234), _sizes(15, 210)]
  chances = np.array([slabs, 1 - slabs])
  config = budget_lib.BudgetConfig(structures)
  if slabs in (0.0, 1.0):
    sample, chances = [sample[int(slabs == 0.0)]], np.ones(1)
  budget = budget_search.search_budget(sample, config, chances)
  assert budget == budget_search.search_budget(sample, config, chances)
  assert budget_search.mean_use(sample, chances, budget) > 0.92
  mean = sum(chance * sizes.num_main for chance, sizes in zip(chances, sample))
  single = max(sizes.num_main for sizes in sample) * config.single_headroom
  assert budget.num_main <= max(1.5 * structures * mean, single) + 32


def test_overrides_are_kept_by_tuning():
  config = budget_lib.BudgetConfig(4, overrides={"num_main": 9000})
  assert budget_search.search_budget(_stream(50, 0.5), config).num_main == 9000
