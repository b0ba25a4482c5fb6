"""Settings of the neighbor graphs of one dataset."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import enum
from typing import ClassVar

from jmp_hk import ranges


class Truncation(enum.Enum):
  """How the neighborhood of an atom ends.

  `PUBLISHED` takes the nearest neighbors up to a number, as the published models were
  trained. Where that number falls among equally distant neighbors it takes some of
  them, and an edge comes and goes with its full weight: energies jump, and symmetric
  sites have forces.

  `SHELLS` takes or leaves neighbors at equal distances together. Crystals keep their
  symmetry and energies per atom do not depend on the cell; energies still jump.

  `SMOOTH` gives every atom cutoffs of its own, which follow the positions smoothly, and
  every edge a weight that vanishes there with three derivatives. Energies are smooth
  functions of the positions, see `jmp_hk.graphs.adaptive`.
  """

  PUBLISHED = "published"
  SHELLS = "shells"
  SMOOTH = "smooth"

  @classmethod
  def of_new_model(cls, *, is_conservative: bool) -> "Truncation":
    """What suits a model that is trained from scratch.

    Args:
      is_conservative: whether its forces are derivatives of its energy, which then has
        to be smooth.
    """
    return cls.SMOOTH if is_conservative else cls.PUBLISHED


# Bounds of what a search takes: it looks through all space within the cutoff. The
# largest cutoff of the published datasets is 19 Å.
MAX_CUTOFF = 100.0
MAX_NEIGHBORS = 10_000
_NUM_NEIGHBORS = ranges.Range(least=1, most=MAX_NEIGHBORS, is_whole=True)


@dataclasses.dataclass(frozen=True)
class GraphConfig:
  """Which neighbors of an atom its graphs hold.

  Attributes:
    cutoff: largest distance of neighbors in Å.
    max_neighbors: largest number of neighbors of an atom in the main graph. Further
      graphs of a backbone scale their own limits with it.
    max_neighbors_by_size: ((n, limit), ...): a structure of more than n atoms uses that
      limit instead; the largest n that applies wins.
    truncation: how a neighborhood ends at the cutoff and at the number of neighbors.
      With `SMOOTH` the number is about that of the neighbors held, not the largest.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "cutoff": ranges.Range(above=0, most=MAX_CUTOFF),
    "max_neighbors": _NUM_NEIGHBORS,
  }

  cutoff: float = 12.0
  max_neighbors: int = 30
  max_neighbors_by_size: tuple[tuple[int, int], ...] = ()
  truncation: Truncation = Truncation.PUBLISHED

  def __post_init__(self) -> None:
    ranges.check(self)
    for size, limit in self.max_neighbors_by_size:
      ranges.check_value("max_neighbors_by_size", size, ranges.COUNT)
      ranges.check_value("max_neighbors_by_size", limit, _NUM_NEIGHBORS)

  def max_neighbors_of(self, num_atoms: int) -> int:
    """Largest number of neighbors of an atom in a structure of this size."""
    limit = self.max_neighbors
    for size, limit_above in sorted(self.max_neighbors_by_size):
      if num_atoms > size:
        limit = limit_above
    return limit


def common(configs: Iterable[GraphConfig]) -> GraphConfig:
  """Settings that several graphs share, and the defaults of those that they do not.

  Args:
    configs: for example of a model's heads.
  """
  found = list(configs)
  values = {
    field.name: {getattr(config, field.name) for config in found}
    for field in dataclasses.fields(GraphConfig)
  }
  shared = {name: each.pop() for name, each in values.items() if len(each) == 1}
  return GraphConfig(**shared)
