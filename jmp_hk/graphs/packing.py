"""Packs the graphs of several structures into one padded batch."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import layout as layout_lib


@dataclasses.dataclass(frozen=True)
class PackItem:
  """One structure to pack.

  Attributes:
    graphs: its graphs.
    task: index of the dataset whose heads it uses.
    targets: normalised labels by name: a scalar or [k] array of the structure or an
      [n, 3] array of its atoms; integers are class labels.
  """

  graphs: builder_lib.StructureGraphs
  task: int = 0
  targets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LabelShape:
  """Shape of one label in every batch, so that batches always have one structure.

  Attributes:
    per_atom: the label belongs to atoms instead of structures.
    shape: trailing shape, e.g. (3,) for forces, () for an energy.
    integer: class labels, kept as int32.
  """

  per_atom: bool
  shape: tuple[int, ...] = ()
  integer: bool = False

  @classmethod
  def of(cls, value: np.ndarray) -> "LabelShape":
    """Shape of one label of one structure: two axes mean one row per atom."""
    value = np.asarray(value)
    per_atom = value.ndim == 2
    return cls(
      per_atom=per_atom,
      shape=value.shape[1:] if per_atom else value.shape,
      integer=np.issubdtype(value.dtype, np.integer),
    )


def task_order(tasks: Sequence[int]) -> np.ndarray:
  """Stable order in which `pack` places structures of these tasks."""
  return np.argsort(np.asarray(tasks, np.int64), kind="stable")


def pack(
  items: Sequence[PackItem],
  builder: builder_lib.GraphBuilder,
  budget: budget_lib.Budget,
  dtype: npt.DTypeLike = np.float32,
  targets: Mapping[str, LabelShape] | None = None,
) -> batch_lib.Batch:
  """Packs structures into one batch, padded to the budget.

  Args:
    items: structures, placed in `task_order`; none at all gives a batch of padding.
    builder: the builder of their graphs.
    budget: static sizes.
    dtype: data type of positions, cells and labels.
    targets: labels to pack; those that a structure lacks are zero. If None, the
      labels that any of the items has.

  Returns:
    The batch, of NumPy arrays.

  Raises:
    BudgetError: the structures do not fit; names the first one that does not.
    ValueError: a label's shape does not match its spec.
  """
  items = [items[i] for i in task_order([item.task for item in items])]
  _check(items, builder, budget)
  if targets is None:
    targets = _infer_targets(items)
  layout = layout_lib.Layout(
    [item.graphs.structure.num_atoms for item in items], budget, dtype
  )
  packed_targets = {
    name: _pack_target(name, spec, items, layout, dtype)
    for name, spec in targets.items()
  }
  # The fields are NumPy arrays here and jax arrays inside of models.
  make: Any = batch_lib.Batch
  return make(
    targets=packed_targets,
    **structure_fields(
      [item.graphs.structure for item in items],
      [item.task for item in items],
      layout,
      dtype,
    ),
    graphs=builder.pack([item.graphs for item in items], layout),
  )


def structure_fields(
  structures: Sequence[structure_lib.Structure],
  tasks: Sequence[int],
  layout: layout_lib.Layout,
  dtype: npt.DTypeLike,
) -> dict[str, np.ndarray]:
  """Everything in a batch that is about atoms and structures, by field.

  Args:
    structures: structures in the order of the batch.
    tasks: their tasks.
    layout: where their atoms lie.
    dtype: data type of positions and cells.
  """
  budget, atoms = layout.budget, layout.atoms
  cell = np.zeros((budget.num_graphs, 3, 3), dtype)
  task = np.zeros(budget.num_graphs, np.int32)
  if structures:
    cell[: len(structures)] = np.stack([s.cell for s in structures])
    task[: len(structures)] = tasks
    task[len(structures) :] = tasks[-1]
  graphs = np.arange(budget.num_graphs, dtype=np.int32)
  return {
    "positions": atoms([s.positions for s in structures], dtype, (3,)),
    "atomic_numbers": atoms([s.atomic_numbers for s in structures], np.int32),
    "tags": atoms([s.tags for s in structures], np.int32),
    "fixed": atoms([s.fixed for s in structures], bool),
    "atom_mask": np.arange(budget.num_atoms) < layout.num_atoms,
    "node_graph": np.repeat(graphs, layout.n_node),
    "n_node": layout.n_node,
    "cell": cell,
    "graph_mask": graphs < len(structures),
    "task": task,
  }


def _pack_target(
  name: str,
  spec: LabelShape,
  items: Sequence[PackItem],
  layout: layout_lib.Layout,
  dtype: npt.DTypeLike,
) -> np.ndarray:
  """One label of all structures, zero for padding and where there is none."""
  size = layout.budget.num_atoms if spec.per_atom else layout.budget.num_graphs
  result = np.zeros((size, *spec.shape), np.int32 if spec.integer else dtype)
  for index, (item, first) in enumerate(zip(items, layout.first_atom, strict=True)):
    if name not in item.targets:
      continue
    value = np.asarray(item.targets[name])
    length = item.graphs.structure.num_atoms
    expected = (length, *spec.shape) if spec.per_atom else spec.shape
    if value.shape != expected:
      raise ValueError(
        f"{item.graphs.structure.record_id or 'A structure'}: label {name!r} has "
        f"shape {value.shape}, expected {expected}."
      )
    if spec.per_atom:
      result[first : first + length] = value
    else:
      result[index] = value
  return result


def _infer_targets(items: Sequence[PackItem]) -> dict[str, LabelShape]:
  specs = {}
  for item in items:
    for name, value in item.targets.items():
      specs.setdefault(name, LabelShape.of(value))
  return specs


def _check(
  items: Sequence[PackItem],
  builder: builder_lib.GraphBuilder,
  budget: budget_lib.Budget,
) -> None:
  """Raises where the structures do not fit, naming the first that does not."""
  sizes = [builder.sizes(item.graphs) for item in items]
  for item, entry in zip(items, sizes, strict=True):
    budget_lib.check_fits(entry, budget, item.graphs.structure.record_id)
  together = budget_lib.total(sizes, type(budget))
  record_ids = ", ".join(item.graphs.structure.record_id or "?" for item in items)
  name = f"The batch of {len(items)} [{record_ids}]"
  budget_lib.check_fits(together, budget, name)
