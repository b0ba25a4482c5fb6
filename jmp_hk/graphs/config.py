"""Settings of the neighbor graphs of one dataset."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class GraphConfig:
  """Which neighbors of an atom its graphs hold.

  Attributes:
    cutoff: largest distance of neighbors in Å.
    max_neighbors: largest number of neighbors of an atom in the main graph. Further
      graphs of a backbone scale their own limits with it.
    max_neighbors_by_size: ((n, limit), ...): a structure of more than n atoms uses that
      limit instead; the largest n that applies wins.
  """

  cutoff: float = 12.0
  max_neighbors: int = 30
  max_neighbors_by_size: tuple[tuple[int, int], ...] = ()

  def __post_init__(self) -> None:
    if not (math.isfinite(self.cutoff) and self.cutoff > 0):
      raise ValueError(f"cutoff must be positive and finite, got {self.cutoff}.")

  def max_neighbors_of(self, num_atoms: int) -> int:
    """Largest number of neighbors of an atom in a structure of this size.

    Raises:
      ValueError: it is negative.
    """
    limit = self.max_neighbors
    for size, limit_above in sorted(self.max_neighbors_by_size):
      if num_atoms > size:
        limit = limit_above
    if limit < 0:
      raise ValueError(f"max_neighbors must not be negative, got {limit}.")
    return limit
