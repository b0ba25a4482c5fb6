"""Which dataset each draw of the training stream comes from.

The t-th draw is a function of the seed and t alone (a counter-based generator), so any
process can look at any part of the stream without the rest.
"""

from collections.abc import Sequence
import math

import numpy as np

from jmp_hk.pipeline import datasets as datasets_lib
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

  def __init__(self, seed: int, chances: np.ndarray):
    """Fixes the stream.

    Args:
      seed: seed of the run.
      chances: [datasets] probabilities.
    """
    self._seed = seed
    self._bounds = np.cumsum(chances)[:-1]
    self._num_datasets = len(chances)
    self._cached = (-1, np.zeros(0, np.int64))

  def dataset_of(self, draw: int) -> int:
    """Index of the dataset that a draw comes from."""
    block, position = divmod(draw, _BLOCK)
    if self._cached[0] != block:
      self._cached = (block, self._block(block))
    return int(self._cached[1][position])

  def counts_before(self, draw: int) -> np.ndarray:
    """Number of earlier draws from each dataset, [datasets]."""
    counts = np.zeros(self._num_datasets, np.int64)
    whole, rest = divmod(draw, _BLOCK)
    for block in range(whole):
      counts += np.bincount(self._block(block), minlength=self._num_datasets)
    if rest:
      head = self._block(whole)[:rest]
      counts += np.bincount(head, minlength=self._num_datasets)
    return counts

  def _block(self, block: int) -> np.ndarray:
    uniform = random_streams.generator(
      self._seed, random_streams.MIXTURE, block
    ).random(_BLOCK)
    return np.searchsorted(self._bounds, uniform, side="right")
