"""Cutoffs of single atoms that bound the number of neighbors smoothly.

A cap on the number of neighbors makes energies jump when one neighbor passes another.
Here each atom has its own cutoff r instead, the root of

    Σ_j g(d_j / r) + M (r / R)^8 = M

with the distances d_j of its neighbors and the largest cutoff R. The switch g is one up
to `PLATEAU` and falls to zero at one with three vanishing derivatives at both ends. The
left side rises strictly with r, so there is one root, 0 < r <= R, and it is a three
times differentiable function of the positions. Where neighbors are few, r is nearly R;
where they are many, the weights g of those inside r add up to nearly M. At a uniform
density they weigh `MEAN_WEIGHT` each, so for N neighbors M is that times N.

The adaptive cutoffs of the PET models in metatrain serve the same purpose.
"""

from collections.abc import Sequence
import math

import numpy as np

from jmp_hk.graphs import neighbors

PLATEAU = 0.75  # Part of a cutoff within which the weight of a neighbor is one.
MEAN_WEIGHT = 2 / 3  # Of the neighbors inside a cutoff: the mean of g over a ball.
BACKGROUND_POWER = 8
_MAX_ITERATIONS = 200


def switch(x: np.ndarray) -> np.ndarray:
  """The weight g of a neighbor at a distance of x cutoffs."""
  u = np.clip((1 - x) / (1 - PLATEAU), 0, 1)
  return u**4 * (35 + u * (-84 + u * (70 - 20 * u)))


def switch_slope(x: np.ndarray) -> np.ndarray:
  """The derivative of `switch`."""
  u = np.clip((1 - x) / (1 - PLATEAU), 0, 1)
  return -140 / (1 - PLATEAU) * (u * (1 - u)) ** 3


def total_weight(limit: int) -> float:
  """The sum M of weights with which about `limit` neighbors lie inside a cutoff."""
  return MEAN_WEIGHT * limit


def background(limit: int, cutoff: float) -> float:
  """The factor of r^8 in the equation: M / R^8."""
  return total_weight(limit) / cutoff**BACKGROUND_POWER


def adaptive_cutoffs(
  edges: neighbors.EdgeSet, num_atoms: int, limits: Sequence[int], cutoff: float
) -> np.ndarray:
  """Solves the equation for every atom.

  Args:
    edges: all edges within the largest cutoff, with distances, sorted by receiver.
    num_atoms: number of atoms of the structure.
    limits: wanted numbers of neighbors N, not negative.
    cutoff: the largest cutoff R in Å, positive.

  Returns:
    [num_atoms, limits] cutoffs in Å to float64's precision; zero for a limit of zero,
    which leaves no neighbors.
  """
  table = neighbors.distance_table(edges, num_atoms)
  cutoffs = np.zeros((num_atoms, len(limits)))
  for column, limit in enumerate(limits):
    if limit:
      cutoffs[:, column] = _solve(table, limit, cutoff)
  return cutoffs


def _solve(distances: np.ndarray, limit: int, cutoff: float) -> np.ndarray:
  """The root for every row of ascending distances that inf fills up, [rows]."""
  high = np.full(len(distances), cutoff)
  total = total_weight(limit)
  enough = math.ceil(total)  # Where so many weigh one, the sum is too large.
  if distances.shape[1] >= enough:
    high = np.minimum(high, distances[:, enough - 1] / PLATEAU)
  low = np.zeros_like(high)
  distances = distances[
    :, : int((distances < high[:, None]).sum(axis=1).max(initial=0))
  ]
  factor = background(limit, cutoff)
  r = _guess(distances, total, factor, high)
  active = np.arange(len(r))
  for _ in range(_MAX_ITERATIONS):
    if not len(active):
      break
    now = r[active]
    excess, slope = _excess(distances[active], now, total, factor)
    low[active] = np.where(excess < 0, now, low[active])
    high[active] = np.where(excess > 0, now, high[active])
    step = now - excess / slope  # The background's slope is positive.
    # The sum is known to rounding only, and so is r.
    done = (np.abs(excess) <= 1e-15 * total) | (np.abs(step - now) <= 1e-15 * now)
    inside = (step > low[active]) & (step < high[active])
    step = np.where(inside, step, (low[active] + high[active]) / 2)
    r[active] = np.where(done, now, step)
    active = active[~done]
  return r


def _guess(
  distances: np.ndarray, total: float, factor: float, high: np.ndarray
) -> np.ndarray:
  """The root if neighbors were counted up to the middle of the switch."""
  middle = (1 + PLATEAU) / 2
  candidates = distances / middle
  count = np.arange(1, distances.shape[1] + 1)
  few = count + factor * np.minimum(candidates, 1e9) ** BACKGROUND_POWER < total
  few &= candidates < high[:, None]
  inside = few.sum(axis=1)
  # Between two neighbors the background alone decides.
  alone = (np.maximum(total - inside, 0) / factor) ** (1 / BACKGROUND_POWER)
  padded = np.column_stack([candidates, np.full(len(distances), np.inf)])
  return np.minimum(np.minimum(alone, padded[np.arange(len(padded)), inside]), high)


def _excess(
  distances: np.ndarray, r: np.ndarray, total: float, factor: float
) -> tuple[np.ndarray, np.ndarray]:
  """Left side of the equation less M, and its derivative by r."""
  # What weighs one in every row is counted; the rows ascend.
  first = int((distances <= PLATEAU * r[:, None]).sum(axis=1).min(initial=0))
  x = distances[:, first:] / r[:, None]
  weights, slopes = switch(x), switch_slope(x)
  np.copyto(x, 0, where=weights == 0)  # inf, where a row has no more neighbors
  power = factor * r**BACKGROUND_POWER
  return (
    first + weights.sum(axis=1) + power - total,
    (BACKGROUND_POWER * power - np.einsum("rc,rc->r", slopes, x)) / r,
  )
