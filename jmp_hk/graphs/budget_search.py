"""Tries budgets out on a sample before one is chosen.

Whether batches come out full depends on how sizes combine: where all slabs have the
same size, say, a budget of one and a half of them wastes a third.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import pool as pool_lib

_GOOD_ENOUGH = 0.945  # Mean part of the main field that is used.
_DRAWS = 768
_MIN_BATCHES = 24
# Tried in this order: wanted structures as they are, then slightly more or fewer.
_STRUCTURES = (1.0, 0.95, 1.05, 0.9, 1.1, 1.2, 1.3, 1.4, 1.5)
_HEADROOM = (1.0, 1.2)


def search_budget(
  sample: Sequence[budget_lib.BudgetT],
  config: budget_lib.BudgetConfig,
  weights: Sequence[float] | None = None,
  limits: Mapping[str, int] | None = None,
) -> budget_lib.BudgetT:
  """Chooses a budget that batches of such structures fill.

  Packs random draws from the sample with budgets for the wanted number of structures
  and for numbers near it, and takes the first that is used well, or else the best.
  The same arguments give the same budget. Nothing is tried where the main field
  is given.

  Args:
    sample: sizes of single structures.
    config: wanted number of structures and headroom.
    weights: how often each structure of the sample is drawn; equal if None.
    limits: sizes by field name that no structure can exceed.

  Returns:
    The budget.

  Raises:
    ValueError: see `budget.choose_budget`.
  """
  if not sample or type(sample[0]).main_field in config.overrides:
    return budget_lib.choose_budget(sample, config, weights, limits)
  best, most = budget_lib.choose_budget(sample, config, weights, limits), -1.0
  wanted = config.structures or 1.0  # It has just been checked.
  pool_size = pool_lib.least_size(wanted)
  chance = np.ones(len(sample)) if weights is None else np.asarray(weights, float)
  for structures in _STRUCTURES:
    for headroom in _HEADROOM:
      trial = dataclasses.replace(
        config,
        structures=wanted * structures,
        headroom=config.headroom * headroom,
      )
      budget = budget_lib.choose_budget(sample, trial, weights, limits)
      used = mean_use(sample, chance / chance.sum(), budget, pool_size)
      if used > most + 1e-3:
        best, most = budget, used
      if most >= _GOOD_ENOUGH:
        return best
  return best


def mean_use(
  sample: Sequence[budget_lib.Budget],
  chances: np.ndarray,
  budget: budget_lib.Budget,
  pool_size: int = 24,
) -> float:
  """Mean part of the main field that batches of random draws use.

  Args:
    sample: sizes of single structures.
    chances: [sample] probabilities of the draws.
    budget: to pack to; a structure that does not fit raises `BudgetError`.
    pool_size: structures that wait.
  """
  rng = np.random.default_rng(0)
  pool = pool_lib.Pool(budget, pool_size)
  draws = iter(rng.choice(len(sample), 8 * _DRAWS, p=chances))
  used, taken = [], 0
  while taken < _DRAWS or len(used) < _MIN_BATCHES:
    while not pool.is_full and (draw := next(draws, None)) is not None:
      pool.add(0, int(draw), sample[draw])
    if not pool.is_full:
      break  # The draws are used up; what is left does not fill batches.
    _, items = pool.take()
    taken += len(items)
    used.append(sum(sample[i].num_main_items for i in items) / budget.num_main_items)
  return float(np.mean(used)) if used else 0.0
