"""The order of an epoch: a permutation that is computed place by place.

A Feistel network over two digits permutes the places of an epoch. It needs no memory,
and the place of any position is found at once, so that a stream can be entered
anywhere, by many processes, whatever the number of structures.
"""

import numpy as np
import numpy.typing as npt

# Each round changes both digits by a function of the other.
_ROUNDS = 6

# Constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
_GAMMA = 0x9E3779B97F4A7C15
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class Order:
  """In which order the structures of a split are drawn, epoch after epoch.

  Every epoch has each structure once. Orders of different epochs and seeds have
  nothing to do with each other.
  """

  def __init__(self, seed: int, count: int):
    """Fixes the order.

    Args:
      seed: seed of all epochs.
      count: number of structures.

    Raises:
      ValueError: there are no structures.
    """
    if count < 1:
      raise ValueError(f"An order needs at least one structure, got {count}.")
    self._count = count
    # Digits of a place: a pair (high, low) below (rows, columns), just enough of them.
    self._rows = int(np.ceil(np.sqrt(count)))
    self._columns = -(-count // self._rows)
    self._seed = _mix(np.array([seed % 2**64], np.uint64))

  def index(self, position: int) -> int:
    """The structure that is drawn at one position."""
    return int(self.indices([position])[0])

  def indices(self, positions: npt.ArrayLike) -> np.ndarray:
    """The structures that are drawn at some positions.

    Args:
      positions: [n] numbers of draws, epoch · count + place in the epoch.

    Returns:
      [n] int64 from 0 to count - 1.
    """
    epochs, places = np.divmod(np.asarray(positions, np.int64), self._count)
    result = places.astype(np.uint64)
    seeds = _mix(self._seed ^ _mix(epochs.astype(np.uint64)))
    moving = np.arange(len(result))
    # There are a few pairs more than structures; one that stands for none is permuted
    # again until it stands for one, which keeps this a permutation.
    while len(moving):
      result[moving] = self._permute(result[moving], seeds[moving])
      moving = moving[result[moving] >= self._count]
    return result.astype(np.int64)

  def _permute(self, places: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Permutes all pairs of digits."""
    rows, columns = np.uint64(self._rows), np.uint64(self._columns)
    high, low = np.divmod(places, columns)
    for turn in range(_ROUNDS):
      key = _mix(seeds + np.uint64((turn + 1) * _GAMMA % 2**64))
      high = (high + _mix(low ^ key) % rows) % rows
      low = (low + _mix(high + key) % columns) % columns
    return high * columns + low


def _mix(values: np.ndarray) -> np.ndarray:
  """Scrambles 64-bit integers, one to one."""
  values = values + np.uint64(_GAMMA)
  values = (values ^ (values >> np.uint64(30))) * _FIRST
  values = (values ^ (values >> np.uint64(27))) * _SECOND
  return values ^ (values >> np.uint64(31))
