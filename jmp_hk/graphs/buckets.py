"""Few static budgets for structures of many sizes, for prediction.

Training knows its data before it starts and packs everything to one budget. Prediction
meets any structures: here they are put into few buckets by size, each with a budget,
and budgets of earlier calls are used again where they fit, since each one costs a
compilation.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config

_BUCKET_FACTOR = 4.0  # Sizes within one bucket differ by at most this.
_MAX_BUCKETS = 4
_OWN_BATCHES = 4  # Batches that a bucket needs to get a budget of its own.
_WASTE = 4.0  # A known budget is used again if it is at most this much too large.
_SMALL_COUNT = 256  # Below this many edges waste costs nothing.
_SMALL_WIDTH = 8  # Likewise.
_HEADROOM = 1.1  # Of everything, for atoms that move.
_MORE_HEADROOM = 1.4  # Where that was not enough.

Budget = budget_lib.Budget


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Structures that are packed to one budget.

  Attributes:
    budget: static sizes.
    members: indices of the structures.
  """

  budget: Budget
  members: tuple[int, ...]


def make_buckets(
  sizes: Sequence[Budget],
  builder: builder_lib.GraphBuilder,
  config: graph_config.GraphConfig,
  batch_size: int,
  known: Sequence[Budget] = (),
) -> list[Bucket]:
  """Puts structures into at most four buckets by size, fewer if there are few.

  Args:
    sizes: sizes of every structure.
    builder: builder of their graphs, which knows limits of some widths.
    config: graph settings of their dataset.
    batch_size: how much of the main field (edges) a batch should hold; a larger
      structure is alone.
    known: budgets that are compiled already.

  Returns:
    The buckets, largest structures first; every structure is in one and fits.
  """
  if not sizes:
    return []
  limits = builder.width_limits([config], max(entry.num_atoms for entry in sizes))
  buckets = []
  for members in _groups(sizes, _OWN_BATCHES * batch_size):
    wanted = _batch_budget([sizes[i] for i in members], batch_size, limits)
    needed = budget_lib.largest([sizes[i] for i in members])
    budget = _reuse(needed, wanted.num_main_items, known) or wanted
    buckets.append(Bucket(budget, tuple(members)))
  return buckets


def _groups(sizes: Sequence[Budget], least: int) -> list[list[int]]:
  """Groups of similar sizes, each with enough edges to pay for its compilation."""
  main = np.array([max(entry.num_main_items, 1) for entry in sizes])
  level = np.floor(np.log(main.max() / main) / math.log(_BUCKET_FACTOR)).astype(int)
  level = np.minimum(level, _MAX_BUCKETS - 1)
  groups: list[list[int]] = []
  for value in np.unique(level):
    members = np.flatnonzero(level == value).tolist()
    too_few = groups and main[groups[-1]].sum() < least
    if groups and (too_few or main[level >= value].sum() < least):
      groups[-1] = sorted(groups[-1] + members)
    else:
      groups.append(members)
  return groups


class MovingBudget:
  """The budget of one structure whose atoms move.

  It leaves room, and grows by a good step when that is used up, so that few budgets
  are ever needed.
  """

  def __init__(
    self, builder: builder_lib.GraphBuilder, config: graph_config.GraphConfig
  ) -> None:
    """Starts without a budget.

    Args:
      builder: builder of the structure's graphs.
      config: graph settings.
    """
    self._builder = builder
    self._config = config
    self._budgets: list[Budget] = []

  def fit(self, sizes: Budget, structure: structure_lib.Structure) -> Budget:
    """A budget that the structure fits into, the last one if possible."""
    return self.fit_all(sizes, [structure])

  def fit_all(
    self, sizes: Budget, structures: Sequence[structure_lib.Structure]
  ) -> Budget:
    """A budget for a batch of structures, the last one if possible.

    Args:
      sizes: what they need together.
      structures: the structures.
    """
    limits = self._limits(structures, type(sizes))
    wanted = _roomy(sizes, limits, _HEADROOM)
    budget = _reuse(sizes, wanted.num_main_items, self._budgets[::-1])
    if budget is not None:
      return budget
    last = self._budgets[-1] if self._budgets else None
    if last is not None and last.num_atoms == wanted.num_atoms:
      wanted = budget_lib.largest([last, _roomy(sizes, limits, _MORE_HEADROOM)])
    self._budgets.append(wanted)
    return wanted

  def _limits(
    self, structures: Sequence[structure_lib.Structure], kind: type[Budget]
  ) -> dict[str, int]:
    """Sizes that no arrangement of the atoms exceeds, by field name."""
    found = [self._builder.limits(x, self._config) for x in structures]
    widths = budget_lib.width_names(kind)
    return {
      name: (max if name in widths else sum)(limits[name] for limits in found)
      for name in set.intersection(*map(set, found))
    }


def _batch_budget(
  sizes: Sequence[Budget], batch_size: int, limits: Mapping[str, int]
) -> Budget:
  """A budget for the batches of a bucket."""
  together = sum(max(entry.num_main_items, 1) for entry in sizes)
  if together <= batch_size:  # All fit into one batch: round up, to be of use later.
    return _rounded(budget_lib.total(sizes, type(sizes[0])), limits)
  structures = max(1.0, batch_size / (together / len(sizes)))
  config = budget_lib.BudgetConfig(
    structures=structures, width_headroom=1.0, single_headroom=1.0
  )
  return budget_lib.choose_budget(sizes, config, limits=limits)


def _rounded(sizes: Budget, limits: Mapping[str, int]) -> Budget:
  """Sizes with their padding rounded up to 8, 12, 16, 24, 32 and so on."""
  result = {}
  kind = type(sizes)
  for name in budget_lib.names(kind):
    if name in budget_lib.exact_names(kind):
      result[name] = getattr(sizes, name)
      continue
    value = getattr(sizes, name) + (name in ("num_graphs", "num_atoms"))
    step = 2.0 ** math.floor(math.log2(max(value, 8)))
    rounded = next(int(step * f) for f in (1, 1.5, 2) if step * f >= value)
    if name in limits:
      rounded = max(min(rounded, limits[name]), 1)
    result[name] = rounded
  return kind(**result)


def _roomy(sizes: Budget, limits: Mapping[str, int], headroom: float) -> Budget:
  """Sizes of one structure with room for moving atoms, but not above the limits."""
  result = {}
  kind = type(sizes)
  for name in budget_lib.names(kind):
    value = getattr(sizes, name)
    if name in budget_lib.exact_names(kind):
      result[name] = value
      continue
    if name in budget_lib.width_names(kind):
      room = max(math.ceil(value * headroom) + 1, _SMALL_WIDTH)
    else:
      room = max(32 * math.ceil(value * headroom / 32), _SMALL_COUNT)
    result[name] = max(min(room, limits.get(name, room)), value, 1)
  result["num_graphs"], result["num_atoms"] = sizes.num_graphs + 1, sizes.num_atoms + 1
  return kind(**result)


def _reuse(needed: Budget, wanted: int, known: Sequence[Budget]) -> Budget | None:
  """A known budget that is large enough and not wastefully so."""
  most = _WASTE * max(wanted, _SMALL_COUNT)
  for budget in known:
    offer = budget_lib.capacity(budget)
    fits = np.all(needed.as_array() <= offer.as_array())
    if fits and budget.num_main_items <= most:
      return budget
  return None
