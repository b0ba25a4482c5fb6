"""Chooses the static sizes of packed batches and checks that structures fit them."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import build
from jmp_hk.graphs import config as graph_config

Budget = batch_lib.Budget

FIELDS = tuple(field.name for field in dataclasses.fields(Budget))
WIDTH_FIELDS = tuple(name for name in FIELDS if name.endswith("_width"))
COUNT_FIELDS = tuple(name for name in FIELDS if name.startswith("num_"))

# Structures and atoms of which one each must be padding.
_PADDED_FIELDS = ("num_graphs", "num_atoms")
_ROUND_TO = {
  "num_graphs": 1,
  "num_atoms": 8,
  "num_main": 16,
  "num_a2a": 64,
  "num_a2ee2a": 16,
  "num_qint": 16,
  "main_width": 4,
  "a2a_width": 4,
  "a2ee2a_width": 1,
  "qint_width": 1,
}


class BudgetError(ValueError):
  """A structure needs more than the budget of a batch offers."""


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What one structure's graphs, or several together, need; no padding included.

  The fields are those of `Budget`. Of several structures, counts are sums and widths
  are maxima.
  """

  num_graphs: int
  num_atoms: int
  num_main: int
  num_a2a: int
  num_a2ee2a: int
  num_qint: int
  main_width: int
  a2a_width: int
  a2ee2a_width: int
  qint_width: int

  def as_array(self) -> np.ndarray:
    """The fields in the order of `FIELDS`, [10] int64."""
    return np.array([getattr(self, name) for name in FIELDS], np.int64)


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
  """How a budget is chosen from a sample of structures.

  Attributes:
    structures: wanted number of structures in a batch, on average.
    headroom: factor of the counts other than main edges. Main edges cost by far the
      most, so the others should rarely be what fills up first.
    graph_headroom: the same for the number of structures, which costs nothing; large
      because batches of small structures only hold many.
    width_headroom: factor of the largest width seen, for structures not in the
      sample.
    single_headroom: factor of the largest single structure seen, likewise.
    overrides: sizes by field name, used as they are.
  """

  structures: float
  headroom: float = 1.2
  graph_headroom: float = 3.0
  width_headroom: float = 1.15
  single_headroom: float = 1.1
  overrides: Mapping[str, int] = dataclasses.field(default_factory=dict)


def sizes_of(graphs: build.StructureGraphs) -> Sizes:
  """Sizes of one structure's graphs."""
  width = lambda receivers: int(np.bincount(receivers).max()) if len(receivers) else 0
  return Sizes(
    num_graphs=1,
    num_atoms=graphs.structure.num_atoms,
    num_main=len(graphs.main),
    num_a2a=len(graphs.a2a),
    num_a2ee2a=len(graphs.a2ee2a),
    num_qint=len(graphs.qint),
    main_width=width(graphs.main.receivers),
    a2a_width=width(graphs.a2a_pairs[:, 1]),
    a2ee2a_width=width(graphs.a2ee2a.receivers),
    qint_width=width(graphs.qint.receivers),
  )


def total(sizes: Sequence[Sizes]) -> Sizes:
  """Sizes of several structures together."""
  if not sizes:
    return Sizes(*[0] * len(FIELDS))
  table = np.stack([entry.as_array() for entry in sizes])
  widths = np.array([name in WIDTH_FIELDS for name in FIELDS])
  return Sizes(*map(int, np.where(widths, table.max(axis=0), table.sum(axis=0))))


def capacity(budget: Budget) -> Sizes:
  """What a budget offers to real structures, i.e. without its padding."""
  return Sizes(*[getattr(budget, name) - (name in _PADDED_FIELDS) for name in FIELDS])


def check_fits(sizes: Sizes, budget: Budget, record_id: str) -> None:
  """Checks that one structure (or a whole batch) fits into a batch.

  Args:
    sizes: what is needed.
    budget: what there is.
    record_id: names the structure in the message.

  Raises:
    BudgetError: it does not fit; says which field to raise to what.
  """
  offer = capacity(budget)
  for name in FIELDS:
    needed, available = getattr(sizes, name), getattr(offer, name)
    if needed <= available:
      continue
    padding = getattr(budget, name) - available
    raise BudgetError(
      f"{record_id or 'A structure'} ({sizes.num_atoms} atoms) needs {name}={needed}"
      f" but a batch has room for {available}. Raise the budget's {name} from"
      f" {getattr(budget, name)} to at least {needed + padding}, e.g. with"
      f" --budget={name}={needed + padding}."
    )


def choose_budget(
  sample: Sequence[Sizes],
  config: BudgetConfig,
  weights: Sequence[float] | None = None,
  limits: Mapping[str, int] | None = None,
) -> Budget:
  """Chooses a budget for batches of a wanted number of structures.

  Main edges get what that many average structures need, so a batch holds about as
  many as wanted; the other counts get headroom. Every structure of the sample fits.

  Args:
    sample: sizes of single structures.
    config: wanted number of structures and headroom.
    weights: how often each structure of the sample is drawn; equal if None.
    limits: sizes by field name that no structure can exceed, see `width_limits`;
      headroom above them would be wasted.

  Returns:
    The budget.

  Raises:
    ValueError: the sample is empty, or an override names no field or is not positive.
  """
  if not sample:
    raise ValueError("A budget cannot be chosen from an empty sample of structures.")
  if config.structures <= 0:
    raise ValueError(f"Wanted structures must be positive, got {config.structures}.")
  table = np.stack([sizes.as_array() for sizes in sample])
  mean = np.average(table, axis=0, weights=weights)
  largest = table.max(axis=0)
  limits = limits or {}
  # One structure may need more main edges than that many average ones.
  main = FIELDS.index("num_main")
  structures = config.structures
  if mean[main] > 0:
    structures = max(structures, largest[main] * config.single_headroom / mean[main])
  factors = {
    "num_main": 1.0,
    "num_graphs": config.graph_headroom,
    # Few and cheap; short where many molecules come in a row.
    "num_qint": config.headroom * 1.25,
  }
  chosen = {}
  for name, average, most in zip(FIELDS, mean, largest):
    if name in WIDTH_FIELDS:
      size = min(most * config.width_headroom, limits.get(name, math.inf))
    else:
      size = average * structures * factors.get(name, config.headroom)
      size = max(size, 1 if name == "num_graphs" else most * config.single_headroom)
    step = _ROUND_TO[name]
    padding = name in _PADDED_FIELDS
    chosen[name] = max(math.ceil((size + padding) / step), 1) * step
  return override(Budget(**chosen), config.overrides)


def width_limits(
  configs: Sequence[graph_config.GraphConfig], most_atoms: int
) -> dict[str, int]:
  """Widths that the neighbor caps bound (the main graph's degree has no bound).

  Args:
    configs: graph settings of all datasets.
    most_atoms: number of atoms of the largest structure.

  Returns:
    Largest possible widths by field name of the budget.
  """
  caps = [
    build.neighbor_limits(config, size)
    for config in configs
    for size in (1, *(n + 1 for n, _ in config.max_neighbors_by_size))
  ]
  return {
    "a2ee2a_width": max(cap.a2ee2a for cap in caps),
    "qint_width": max(cap.qint for cap in caps),
    "a2a_width": most_atoms,
  }


def override(budget: Budget, overrides: Mapping[str, int]) -> Budget:
  """Replaces single fields of a budget.

  Args:
    budget: the budget.
    overrides: sizes by field name.

  Returns:
    The changed budget.

  Raises:
    ValueError: an unknown field or a size that is not positive.
  """
  unknown = sorted(set(overrides) - set(FIELDS))
  if unknown:
    raise ValueError(f"A budget has no fields {unknown}; it has {list(FIELDS)}.")
  for name, size in overrides.items():
    least = 2 if name in _PADDED_FIELDS else 1
    if size < least:
      raise ValueError(f"The budget's {name} must be at least {least}, got {size}.")
  return dataclasses.replace(budget, **overrides)


def utilisation(sizes: Sequence[Sizes], budget: Budget) -> dict[str, float]:
  """Part of each field of a budget that the structures of a batch use."""
  used = total(sizes)
  return {name: getattr(used, name) / getattr(budget, name) for name in FIELDS}
