"""Few static budgets for structures of many sizes, for prediction.

Training knows its data before it starts and packs everything to one budget. Prediction
meets any structures: here they are put into few classes by size, each with a budget, and
budgets of earlier calls are used again where they fit, since each one costs a
compilation.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import build
from jmp_hk.graphs import config as graph_config

_CLASS_FACTOR = 4.0  # Sizes within one class differ by at most this.
_MAX_CLASSES = 4
_OWN_BATCHES = 4  # Batches that a class needs to get a budget of its own.
_WASTE = 4.0  # A known budget is used again if it is at most this much too large.
_SMALL_EDGES = 256  # Below this many edges waste costs nothing.
_SMALL_WIDTH = 8  # Likewise.
_HEADROOM = 1.1  # Of everything, for atoms that move.
_MORE_HEADROOM = 1.4  # Where that was not enough.

Budget = batch_lib.Budget
Sizes = budget_lib.Sizes


@dataclasses.dataclass(frozen=True)
class SizeClass:
  """Structures that are packed to one budget.

  Attributes:
    budget: static sizes.
    members: indices of the structures.
  """

  budget: Budget
  members: tuple[int, ...]


def classify(
  sizes: Sequence[Sizes],
  config: graph_config.GraphConfig,
  batch_edges: int,
  known: Sequence[Budget] = (),
) -> list[SizeClass]:
  """Puts structures into at most four classes by size, fewer if there are few.

  Args:
    sizes: of every structure.
    config: graph settings, which limit some widths.
    batch_edges: main edges that a batch should hold; a larger structure is alone.
    known: budgets that are compiled already.

  Returns:
    The classes, largest structures first; every structure is in one and fits.
  """
  if not sizes:
    return []
  limits = budget_lib.width_limits([config], max(entry.num_atoms for entry in sizes))
  classes = []
  for members in _groups(sizes, _OWN_BATCHES * batch_edges):
    wanted = _batch_budget([sizes[i] for i in members], batch_edges, limits)
    needed = _largest([sizes[i] for i in members])
    budget = _reuse(needed, wanted.num_main, known) or wanted
    classes.append(SizeClass(budget, tuple(members)))
  return classes


def _groups(sizes: Sequence[Sizes], least_edges: int) -> list[list[int]]:
  """Groups of similar sizes, each with enough edges to pay for its compilation."""
  main = np.array([max(entry.num_main, 1) for entry in sizes])
  level = np.floor(np.log(main.max() / main) / math.log(_CLASS_FACTOR)).astype(int)
  level = np.minimum(level, _MAX_CLASSES - 1)
  groups: list[list[int]] = []
  for value in np.unique(level):
    members = np.flatnonzero(level == value).tolist()
    too_few = groups and main[groups[-1]].sum() < least_edges
    if groups and (too_few or main[level >= value].sum() < least_edges):
      groups[-1] = sorted(groups[-1] + members)
    else:
      groups.append(members)
  return groups


class MovingBudget:
  """The budget of one structure whose atoms move.

  It leaves room, and grows by a good step when that is used up, so that few budgets
  are ever needed.
  """

  def __init__(self, config: graph_config.GraphConfig) -> None:
    self._config = config
    self._budgets: list[Budget] = []

  def fit(self, sizes: Sizes, structure: structure_lib.Structure) -> Budget:
    """A budget that the structure fits into, the last one if possible."""
    limits = _hard_limits(structure, self._config)
    wanted = _roomy(sizes, limits, _HEADROOM)
    budget = _reuse(sizes, wanted.num_main, self._budgets[::-1])
    if budget is not None:
      return budget
    last = self._budgets[-1] if self._budgets else None
    if last is not None and last.num_atoms == wanted.num_atoms:
      wanted = _larger(last, _roomy(sizes, limits, _MORE_HEADROOM))
    self._budgets.append(wanted)
    return wanted


def _batch_budget(
  sizes: Sequence[Sizes], batch_edges: int, limits: Mapping[str, int]
) -> Budget:
  """A budget for batches of a class."""
  edges = sum(max(entry.num_main, 1) for entry in sizes)
  if edges <= batch_edges:  # All fit into one batch: round up, to be of use later.
    return _rounded(budget_lib.total(sizes), limits)
  structures = max(1.0, batch_edges / (edges / len(sizes)))
  config = budget_lib.BudgetConfig(
    structures=structures, width_headroom=1.0, single_headroom=1.0
  )
  return budget_lib.choose_budget(sizes, config, limits=limits)


def _rounded(sizes: Sizes, limits: Mapping[str, int]) -> Budget:
  """Sizes rounded up to 8, 12, 16, 24, 32, …"""
  result = {}
  for name in budget_lib.FIELDS:
    value = getattr(sizes, name) + (name in ("num_graphs", "num_atoms"))
    step = 2.0 ** math.floor(math.log2(max(value, 8)))
    rounded = next(int(step * f) for f in (1, 1.5, 2) if step * f >= value)
    if name in limits:
      rounded = max(min(rounded, limits[name]), 1)
    result[name] = rounded
  return Budget(**result)


def _roomy(sizes: Sizes, limits: Mapping[str, int], headroom: float) -> Budget:
  """Sizes of one structure with room for moving atoms, but not above the limits."""
  result = {}
  for name in budget_lib.FIELDS:
    value = getattr(sizes, name)
    if name in budget_lib.WIDTH_FIELDS:
      room = max(math.ceil(value * headroom) + 1, _SMALL_WIDTH)
    else:
      room = max(32 * math.ceil(value * headroom / 32), _SMALL_EDGES)
    result[name] = max(min(room, limits.get(name, room)), value, 1)
  result["num_graphs"], result["num_atoms"] = 2, sizes.num_atoms + 1
  return Budget(**result)


def _larger(one: Budget, other: Budget) -> Budget:
  """Field by field the larger."""
  names = budget_lib.FIELDS
  return Budget(
    **{name: max(getattr(one, name), getattr(other, name)) for name in names}
  )


def _hard_limits(
  structure: structure_lib.Structure, config: graph_config.GraphConfig
) -> dict[str, int]:
  """Sizes that no arrangement of these atoms exceeds."""
  atoms = structure.num_atoms
  caps = build.neighbor_limits(config, atoms)
  limits = {
    **budget_lib.width_limits([config], atoms),
    "num_a2ee2a": atoms * caps.a2ee2a,
    "num_qint": atoms * caps.qint,
    "num_main": 2 * atoms * caps.main,  # An edge and its reverse.
    "num_a2a": atoms * caps.a2a,
  }
  if not np.any(structure.pbc):
    others = max(atoms - 1, 1)
    for name in ("main_width", "a2a_width", "a2ee2a_width", "qint_width"):
      limits[name] = min(limits.get(name, others), others)
    for name in ("num_main", "num_a2a", "num_a2ee2a", "num_qint"):
      limits[name] = min(limits[name], atoms * others)
  return {name: max(limit, 1) for name, limit in limits.items()}


def _reuse(needed: Sizes, wanted_main: int, known: Sequence[Budget]) -> Budget | None:
  """A known budget that is large enough and not wastefully so."""
  most = _WASTE * max(wanted_main, _SMALL_EDGES)
  for budget in known:
    offer = budget_lib.capacity(budget)
    fits = np.all(needed.as_array() <= offer.as_array())
    if fits and budget.num_main <= most:
      return budget
  return None


def _largest(sizes: Sequence[Sizes]) -> Sizes:
  """Field by field the largest."""
  return Sizes(*map(int, np.stack([entry.as_array() for entry in sizes]).max(axis=0)))
