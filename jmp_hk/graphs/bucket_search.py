"""Chooses a few budgets for batches whose needs are known, with little padding."""

import numpy as np

from jmp_hk.graphs import budget as budget_lib

MOST = 4  # Budgets, each of which costs a compilation.
_COMPILATION = 200.0  # Steps that a compilation must save to be worth its time.
_HEADROOM = 1.1  # For the steps that come after those that are looked at.
_NEARLY = 1.15  # The largest possible budget is used itself if it is at most this much.
_BOUNDS = 256  # Candidates for the upper end of a bucket.


def search(
  needs: np.ndarray,
  most: np.ndarray,
  kind: type[budget_lib.BudgetT],
  num_steps: int,
) -> tuple[budget_lib.BudgetT, ...]:
  """Chooses budgets for steps with given needs.

  Each step uses the smallest budget that it fits into. Costs are measured by the main
  field of the budget. More budgets waste less, but a compilation has to save
  more time than it takes.

  Args:
    needs: [steps, fields] what the first steps need, without padding.
    most: [fields] what no step exceeds.
    kind: type of the budget.
    num_steps: steps of the run.

  Returns:
    At most `MOST` budgets, the cheapest first, which have room for the needs. The last
    one has room for `most`; where that is far more than the first steps need, it is
    hardly ever used.
  """
  main = budget_lib.main_column(kind)
  needs = np.maximum.accumulate(needs[np.argsort(needs[:, main], kind="stable")])
  enough = enclose(most, kind)
  headroom = 1.0 if num_steps <= len(needs) else _HEADROOM
  top = enclose(np.minimum(np.ceil(needs[-1] * headroom), most), kind)
  rest = ()
  if enough.num_main_items > _NEARLY * top.num_main_items:
    rest = (enough,)
  else:
    top = enough
  bounds = np.unique(
    np.linspace(0, len(needs), min(_BOUNDS, len(needs)) + 1).astype(int)
  )[1:]
  budgets = [enclose(needs[end - 1], kind) for end in bounds[:-1]] + [top]
  cost = np.array([budget.num_main_items for budget in budgets], float)
  chosen = _partition(bounds, cost, MOST - len(rest), num_steps / len(needs))
  found = [budgets[index] for index in chosen]
  return (*dict.fromkeys(found), *rest)


def _partition(
  bounds: np.ndarray, cost: np.ndarray, most: int, repeats: float
) -> list[int]:
  """Chooses upper ends of buckets with the least cost; the last one is always chosen.

  Args:
    bounds: [n] ascending numbers of steps that each candidate and those before hold.
    cost: [n] cost of a step in a bucket that ends there.
    most: number of buckets.
    repeats: how often the steps are repeated.

  Returns:
    Indices of the chosen candidates, ascending.
  """
  steps = bounds[None, :] - np.concatenate([[0], bounds])[:, None]
  # [i, j]: one bucket from the end of candidate i - 1 (0: the start) to that of j.
  one = np.where(steps > 0, steps * cost[None, :], np.inf)
  total, path = one[0], [[j] for j in range(len(bounds))]
  unit = _COMPILATION * float(np.mean(cost)) / max(repeats, 1e-9)
  best, choice = total[-1] + unit, path[-1]
  for number in range(2, most + 1):
    through = total[:, None] + one[1:]
    previous = through.argmin(axis=0)
    total = through.min(axis=0)
    path = [[*path[i], j] for j, i in enumerate(previous)]
    if total[-1] + number * unit < best:
      best, choice = total[-1] + number * unit, path[-1]
  return choice


def enclose(needs: np.ndarray, kind: type[budget_lib.BudgetT]) -> budget_lib.BudgetT:
  """The smallest budget that offers [fields] needs, with its padding."""
  return budget_lib.with_padding(kind(*map(int, needs)))
