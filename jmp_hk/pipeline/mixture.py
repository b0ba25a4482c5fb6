"""What each draw of the training stream is: a dataset, and a structure of it.

The dataset of the t-th draw is a function of the seed and t alone (a counter-based
generator). Which of its structures is drawn depends on how often the dataset was drawn
before; these numbers are stored with the position, so any process can go on anywhere.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

import numpy as np

from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import microbatches
from jmp_hk.pipeline import order as order_lib
from jmp_hk.pipeline import random_streams

_BLOCK = 8192  # Draws that are made at once.


def probabilities(
  datasets: Sequence[datasets_lib.Dataset], temperature: float
) -> np.ndarray:
  """Probability of a draw from each dataset.

  Args:
    datasets: datasets of the mixture.
    temperature: T in p_i ∝ (n_i/N)^(1/T), used where no weights are given.

  Returns:
    [datasets] float64, adding up to 1.

  Raises:
    ValueError: some datasets have weights and others do not.
  """
  weights = [dataset.weight for dataset in datasets]
  if any(weight is None for weight in weights) != all(w is None for w in weights):
    without = [d.name for d in datasets if d.weight is None]
    raise ValueError(
      f"Give either every dataset a weight or none; {without} have none."
    )
  if weights[0] is None:
    sizes = np.array([d.num_structures for d in datasets], np.float64)
    weights = (sizes / sizes.sum()) ** (1.0 / temperature)
  weights = np.asarray(weights, np.float64)
  return weights / weights.sum()


def epoch_length(datasets: Sequence[datasets_lib.Dataset], chances: np.ndarray) -> int:
  """Smallest number of draws in which (on average) no dataset loses samples."""
  return max(
    math.ceil(d.num_structures / p - 1e-9)
    for d, p in zip(datasets, chances, strict=True)
  )


class Schedule:
  """The dataset of every draw."""

  def __init__(self, seed: int, chances: Sequence[float]):
    """Fixes the stream.

    Args:
      seed: seed of the run.
      chances: [datasets] probabilities.
    """
    self._seed = seed
    self._bounds = np.cumsum(chances)[:-1]

  def block(self, number: int) -> np.ndarray:
    """Indices of the datasets of the draws from number · `_BLOCK` on, [_BLOCK]."""
    if not len(self._bounds):
      return np.zeros(_BLOCK, np.intp)
    rng = random_streams.generator(self._seed, random_streams.MIXTURE, number)
    return np.searchsorted(self._bounds, rng.random(_BLOCK), side="right")


@dataclasses.dataclass(frozen=True)
class Mixture:
  """The datasets of a training stream, and how they are drawn.

  Attributes:
    datasets: the datasets.
    chances: probability of a draw from each.
    seed: seed of the run.
  """

  datasets: tuple[datasets_lib.Dataset, ...]
  chances: tuple[float, ...]
  seed: int

  @functools.cached_property
  def schedule(self) -> Schedule:
    """The dataset of every draw."""
    return Schedule(self.seed, self.chances)

  @functools.cached_property
  def orders(self) -> tuple[order_lib.Order, ...]:
    """The order of each dataset's structures."""
    return tuple(
      order_lib.Order(
        random_streams.stream_seed(self.seed, dataset.name), dataset.num_structures
      )
      for dataset in self.datasets
    )


class Walk:
  """Goes through the draws in ascending order and says what they are.

  It counts what was drawn of each dataset on its way, and so begins where another one
  knew these numbers: at the beginning or at a stored `position`.
  """

  def __init__(self, mixture: Mixture, position: Mapping[str, Any] | None = None):
    """Begins at the first draw, or at a position.

    Args:
      mixture: the datasets.
      position: what `position` gave; draws from there on can be found.
    """
    self._mixture = mixture
    self._number = position["block"] if position else 0
    taken = position["taken"] if position else [0] * len(mixture.datasets)
    # Draws of each dataset before the blocks that may be asked for again.
    self._taken = {self._number: np.array(taken, np.int64)}
    self._datasets = mixture.schedule.block(self._number)

  def find(self, numbers: Sequence[int]) -> list[microbatches.Draw]:
    """What some draws are.

    Args:
      numbers: ascending; none lies before those of an earlier call.
    """
    draws = np.asarray(numbers, np.int64)
    datasets = np.empty(len(draws), np.intp)
    positions = np.empty(len(draws), np.int64)
    blocks = draws // _BLOCK
    for block in np.unique(blocks):
      self._go_to(int(block))
      here = np.flatnonzero(blocks == block)
      datasets[here], positions[here] = self._look_up(draws[here] % _BLOCK)
    indices = np.empty(len(draws), np.int64)
    for dataset in np.unique(datasets):
      here = datasets == dataset
      indices[here] = self._mixture.orders[dataset].indices(positions[here])
    rows = zip(draws.tolist(), datasets.tolist(), indices.tolist(), strict=True)
    return [microbatches.Draw(*row) for row in rows]

  def position(self, draw: int) -> dict[str, Any]:
    """Where another walk has to begin to find a draw and later ones, in JSON values.

    Args:
      draw: not before that of an earlier call; nor after those found.
    """
    block = min(draw // _BLOCK, self._number)
    for passed in [number for number in self._taken if number < block]:
      del self._taken[passed]
    return {"block": block, "taken": self._taken[block].tolist()}

  def _go_to(self, block: int) -> None:
    if len(self._mixture.datasets) == 1 and self._number < block:
      self._taken[block] = np.array([block * _BLOCK])
      self._number = block
    while self._number < block:
      count = np.bincount(self._datasets, minlength=len(self._mixture.datasets))
      self._taken[self._number + 1] = self._taken[self._number] + count
      self._number += 1
      self._datasets = self._mixture.schedule.block(self._number)

  def _look_up(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Datasets of draws of the present block, and how often each came before."""
    datasets = self._datasets.take(places)
    before = self._taken[self._number].take(datasets)
    for dataset in np.unique(datasets):
      here = datasets == dataset
      earlier = np.flatnonzero(self._datasets == dataset)
      before[here] += np.searchsorted(earlier, places[here])
    return datasets, before
