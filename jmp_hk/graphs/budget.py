"""Static sizes of packed batches: what structures need, and what a batch offers.

Only NumPy is imported, so that worker processes start fast.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any
from typing import ClassVar
from typing import TypeVar

import numpy as np

BudgetT = TypeVar("BudgetT", bound="Budget")


def count(*, round_to: int, headroom: float = 1.0, padding: int = 0) -> Any:
  """Declares a field that adds up over structures, e.g. a number of edges.

  Args:
    round_to: budgets are multiples of this.
    headroom: factor on `BudgetConfig.headroom`, which leaves room in this field.
    padding: how many of a batch must be padding.
  """
  return dataclasses.field(
    metadata={
      "width": False,
      "round_to": round_to,
      "headroom": headroom,
      "padding": padding,
    }
  )


def width(*, round_to: int) -> Any:
  """Declares a field whose largest value over structures counts, e.g. a table's width.

  Args:
    round_to: budgets are multiples of this.
  """
  return dataclasses.field(
    metadata={"width": True, "round_to": round_to, "headroom": 1.0, "padding": 0}
  )


def exact() -> Any:
  """Declares a field that budgets take over as it is: its largest value, or zero."""
  return dataclasses.field(
    default=0,
    metadata={"width": True, "round_to": 0, "headroom": 1.0, "padding": 0},
  )


class BudgetError(ValueError):
  """A structure needs more than the budget of a batch offers."""


@dataclasses.dataclass(frozen=True)
class Budget:
  """Static sizes of a packed batch; backbones add fields for their edges and tables.

  The same class also says what one structure or several together need: then counts are
  sums and widths are maxima over the structures, without any padding.

  Attributes:
    num_graphs: structures, of which at least one is padding.
    num_atoms: atoms, of which at least one is padding.
  """

  # The count that costs most: batches are filled by it.
  main_field: ClassVar[str] = "num_atoms"
  store_checksum: ClassVar[bool] = True  # See `jmp_hk.serialization`.

  num_graphs: int = count(round_to=1, padding=1)
  num_atoms: int = count(round_to=8, padding=1)

  @property
  def num_main_items(self) -> int:
    """Value of the count that costs most."""
    return getattr(self, self.main_field)

  def as_array(self) -> np.ndarray:
    """The fields in the order of `names`, int64."""
    return np.array([getattr(self, name) for name in names(type(self))], np.int64)


@functools.cache
def names(kind: type[Budget]) -> tuple[str, ...]:
  """Names of all fields."""
  return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def width_names(kind: type[Budget]) -> tuple[str, ...]:
  """Names of the fields of which the maximum over structures counts."""
  fields = dataclasses.fields(kind)
  return tuple(field.name for field in fields if field.metadata["width"])


@functools.cache
def exact_names(kind: type[Budget]) -> tuple[str, ...]:
  """Names of the fields that have no headroom and no padding."""
  fields = dataclasses.fields(kind)
  return tuple(field.name for field in fields if not field.metadata["round_to"])


def padded_names(kind: type[Budget]) -> tuple[str, ...]:
  """Names of the fields that may be larger than what structures need."""
  exact = exact_names(kind)
  return tuple(name for name in names(kind) if name not in exact)


def count_names(kind: type[Budget]) -> tuple[str, ...]:
  """Names of the fields that add up over structures."""
  widths = width_names(kind)
  return tuple(name for name in names(kind) if name not in widths)


def main_column(kind: type[Budget]) -> int:
  """Place of the count that costs most among `names`."""
  return names(kind).index(kind.main_field)


def _padding(kind: type[Budget]) -> dict[str, int]:
  """How many of each field must be padding."""
  return {field.name: field.metadata["padding"] for field in dataclasses.fields(kind)}


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
  """How a budget is chosen from a sample of structures.

  Attributes:
    structures: wanted number of structures in a batch, on average. None in the
      configuration of a training run, where `batch_size` and `num_microbatches` say it.
    headroom: factor of the counts other than the main one. That costs by far the most,
      so the others should rarely be what fills up first.
    graph_headroom: the same for the number of structures, which costs nothing; large
      because batches of small structures only hold many.
    width_headroom: factor of the largest width seen, for structures not in the
      sample and for edge dropout, which may widen.
    single_headroom: factor of the largest single structure seen, likewise.
    overrides: sizes by field name, used as they are.
  """

  structures: float | None = None
  headroom: float = 1.2
  graph_headroom: float = 3.0
  width_headroom: float = 1.15
  single_headroom: float = 1.1
  overrides: Mapping[str, int] = dataclasses.field(default_factory=dict)


def total(sizes: Sequence[BudgetT], kind: type[BudgetT]) -> BudgetT:
  """What several structures need together; zeros if there are none."""
  if not sizes:
    return kind(*[0] * len(names(kind)))
  table = np.stack([entry.as_array() for entry in sizes])
  widths = np.array([name in width_names(kind) for name in names(kind)])
  return kind(*map(int, np.where(widths, table.max(axis=0), table.sum(axis=0))))


def largest(sizes: Sequence[BudgetT]) -> BudgetT:
  """Field by field the largest of several sizes; at least one is given."""
  return type(sizes[0])(
    *map(int, np.stack([entry.as_array() for entry in sizes]).max(axis=0))
  )


@functools.lru_cache(maxsize=64)
def capacity(budget: BudgetT) -> BudgetT:
  """What a budget offers to real structures, that is without its padding."""
  kind = type(budget)
  padding = _padding(kind)
  return kind(*(getattr(budget, name) - padding[name] for name in names(kind)))


def fits(sizes: Budget, budget: Budget) -> bool:
  """Whether one structure (or a whole batch) fits into a batch."""
  return not _short(sizes, budget)


def _short(sizes: Budget, budget: Budget) -> list[str]:
  """Names of the fields in which a budget is too small."""
  offer = capacity(budget)
  return [
    name for name in names(type(budget)) if getattr(sizes, name) > getattr(offer, name)
  ]


def check_fits(sizes: Budget, budget: Budget, record_id: str) -> None:
  """Checks that one structure (or a whole batch) fits into a batch.

  Args:
    sizes: what is needed.
    budget: what there is.
    record_id: names the structure in the message.

  Raises:
    BudgetError: it does not fit; says which field to raise to what.
  """
  short = _short(sizes, budget)
  if not short:
    return
  offer = capacity(budget)
  needed = ", ".join(f"{name}={getattr(sizes, name)}" for name in short)
  room = ", ".join(str(getattr(offer, name)) for name in short)
  padding = _padding(type(budget))
  raised = ",".join(f"{name}={getattr(sizes, name) + padding[name]}" for name in short)
  raise BudgetError(
    f"{record_id or 'A structure'} ({sizes.num_atoms} atoms) needs {needed} but a "
    f"batch has room for {room}. Raise the budget with --budget={raised} (in Python "
    f"budget=dict({raised})); a run that is started again with it goes on."
  )


def choose_budget(
  sample: Sequence[BudgetT],
  config: BudgetConfig,
  weights: Sequence[float] | None = None,
  limits: Mapping[str, int] | None = None,
) -> BudgetT:
  """Chooses a budget for batches of a wanted number of structures.

  The main field gets what that many average structures need, so a batch holds about as
  many as wanted; the other counts get headroom. Every structure of the sample fits.

  Args:
    sample: sizes of single structures.
    config: wanted number of structures and headroom.
    weights: how often each structure of the sample is drawn; equal if None.
    limits: sizes by field name that no structure can exceed, see
      `GraphBuilder.width_limits`; headroom above them would be wasted.

  Returns:
    The budget.

  Raises:
    ValueError: the sample is empty, or an override names no field or is not positive.
  """
  if not sample:
    raise ValueError("A budget cannot be chosen from an empty sample of structures.")
  structures = config.structures
  if structures is None or structures <= 0:
    raise ValueError(f"Wanted structures must be positive, got {structures}.")
  kind = type(sample[0])
  table = np.stack([sizes.as_array() for sizes in sample])
  mean = np.average(table, axis=0, weights=weights)
  most = table.max(axis=0)
  # One structure may need more of the main field than that many average ones.
  main = main_column(kind)
  if mean[main] > 0:
    structures = max(structures, most[main] * config.single_headroom / mean[main])
  chosen = {
    field.name: _round_up(
      _size(field, kind, config, average * structures, largest_one, limits or {}),
      field,
    )
    for field, average, largest_one in zip(
      dataclasses.fields(kind), mean, most, strict=True
    )
  }
  return override(kind(**chosen), config.overrides)


def _size(
  field: dataclasses.Field[Any],
  kind: type[Budget],
  config: BudgetConfig,
  wanted: float,
  most: float,
  limits: Mapping[str, int],
) -> float:
  """Size of one field before padding and rounding."""
  if not field.metadata["round_to"]:
    return most
  if field.metadata["width"]:
    return min(most * config.width_headroom, limits.get(field.name, math.inf))
  if field.name == kind.main_field:
    factor = 1.0
  elif field.name == "num_graphs":
    return max(wanted * config.graph_headroom, 1)
  else:
    factor = config.headroom * field.metadata["headroom"]
  return max(wanted * factor, most * config.single_headroom)


def with_padding(sizes: BudgetT) -> BudgetT:
  """The smallest budget that offers these sizes to real structures."""
  fields = dataclasses.fields(sizes)
  return type(sizes)(
    **{field.name: _round_up(getattr(sizes, field.name), field) for field in fields}
  )


def _round_up(size: float, field: dataclasses.Field[Any]) -> int:
  step = field.metadata["round_to"]
  if not step:
    return int(size)
  return max(math.ceil((size + field.metadata["padding"]) / step), 1) * step


def override(budget: BudgetT, overrides: Mapping[str, int]) -> BudgetT:
  """Replaces single fields of a budget.

  Args:
    budget: the budget.
    overrides: sizes by field name.

  Returns:
    The changed budget.

  Raises:
    ValueError: an unknown field or a size that is not positive.
  """
  known = names(type(budget))
  unknown = sorted(set(overrides) - set(known))
  if unknown:
    raise ValueError(f"A budget has no fields {unknown}; it has {list(known)}.")
  padding = _padding(type(budget))
  for name, size in overrides.items():
    least = padding[name] + (name not in exact_names(type(budget)))
    if size < least:
      raise ValueError(f"The budget's {name} must be at least {least}, got {size}.")
  return dataclasses.replace(budget, **overrides)


def utilisation(sizes: Sequence[BudgetT], budget: BudgetT) -> dict[str, float]:
  """Part of each field of a budget that the structures of a batch use; 1 of nothing."""
  return used_parts([total(sizes, type(budget))], budget)


def used_parts(used: Sequence[BudgetT], budget: BudgetT) -> dict[str, float]:
  """Part of each field of a budget that several batches use on average; 1 of nothing.

  Args:
    used: what each batch uses, at least one.
    budget: what there is in each.
  """
  # Without arrays, which would take longer than these few numbers.
  parts = {}
  for name in names(type(budget)):
    offered = len(used) * getattr(budget, name)
    needed = sum([getattr(entry, name) for entry in used])
    parts[name] = needed / offered if offered else 1.0
  return parts
