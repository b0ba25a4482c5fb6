"""Packs the graphs of several structures into one padded batch."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import jraph
import numpy as np

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import build
from jmp_hk.graphs import layout as layout_lib
from jmp_hk.graphs import neighbors as neighbors


@dataclasses.dataclass(frozen=True)
class PackItem:
  """One structure to pack.

  Attributes:
    graphs: its graphs.
    task: index of the dataset whose heads it uses.
    targets: normalised labels by name: a scalar or [k] array of the structure or an
      [n, 3] array of its atoms; integers are class labels.
  """

  graphs: build.StructureGraphs
  task: int = 0
  targets: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TargetSpec:
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
  def of(cls, value: np.ndarray) -> "TargetSpec":
    """Spec of one label of one structure: two axes mean one row per atom."""
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
  budget: batch_lib.Budget,
  dtype: np.dtype = np.float32,
  targets: Mapping[str, TargetSpec] | None = None,
) -> batch_lib.Batch:
  """Packs structures into one batch, padded to the budget.

  Args:
    items: structures, placed in `task_order`; none at all gives a batch of padding.
    budget: static sizes.
    dtype: of positions, cells and labels.
    targets: labels to pack; those that a structure lacks are zero. If None, the
      labels that any of the items has.

  Returns:
    The batch, of NumPy arrays.

  Raises:
    BudgetError: the structures do not fit; names the first one that does not.
    ValueError: a label's shape does not match its spec.
  """
  items = [items[i] for i in task_order([item.task for item in items])]
  _check(items, budget)
  if targets is None:
    targets = _infer_targets(items)
  layout = layout_lib.Layout(
    [item.graphs.structure.num_atoms for item in items], budget
  )
  packed_targets = {
    name: _pack_target(name, spec, items, layout, dtype)
    for name, spec in targets.items()
  }
  return batch_lib.Batch(
    targets=packed_targets,
    **_structure_fields(items, layout, dtype),
    **_edge_fields([item.graphs for item in items], layout),
  )


def _structure_fields(
  items: Sequence[PackItem], layout: layout_lib.Layout, dtype: np.dtype
) -> dict[str, np.ndarray]:
  """Everything in a batch that is about atoms and structures."""
  budget, atoms = layout.budget, layout.atoms
  structures = [item.graphs.structure for item in items]
  cell = np.zeros((budget.num_graphs, 3, 3), dtype)
  task = np.zeros(budget.num_graphs, np.int32)
  if items:
    cell[: len(items)] = np.stack([s.cell for s in structures])
    task[: len(items)] = [item.task for item in items]
    task[len(items) :] = items[-1].task
  graphs = np.arange(budget.num_graphs, dtype=np.int32)
  return {
    "positions": atoms([s.positions for s in structures], dtype, (3,)),
    "atomic_numbers": atoms([s.atomic_numbers for s in structures], np.int32),
    "tags": atoms([s.tags for s in structures], np.int32),
    "fixed": atoms([s.fixed for s in structures], bool),
    "atom_mask": np.arange(budget.num_atoms) < layout.num_atoms,
    "node_graph": np.repeat(graphs, layout.n_node),
    "cell": cell,
    "graph_mask": graphs < len(items),
    "task": task,
  }


def _edge_fields(
  graphs: Sequence[build.StructureGraphs], layout: layout_lib.Layout
) -> dict[str, jraph.GraphsTuple | np.ndarray]:
  """Everything in a batch that is about edges."""
  budget = layout.budget
  main = layout.edges([entry.main for entry in graphs], budget.num_main)
  a2a = layout.edges([entry.a2a for entry in graphs], budget.num_a2a)
  a2ee2a = layout.edges([entry.a2ee2a for entry in graphs], budget.num_a2ee2a)
  qint = layout.edges([entry.qint for entry in graphs], budget.num_qint)
  num_main = main.n_edge[: len(graphs)]
  main_slot = layout.slots(main)
  pairs = _concatenate([entry.a2a_pairs for entry in graphs], (0, 2), np.int32)
  pairs += np.repeat(layout.first_atom, [len(e.a2a_pairs) for e in graphs])[:, None]
  a2a_senders = np.full((budget.num_atoms, budget.a2a_width), -1, np.int32)
  pair_slot = layout_lib.ragged_index(pairs[:, 1], budget.num_atoms)
  a2a_senders[pairs[:, 1], pair_slot] = pairs[:, 0]
  reverse_edge = np.arange(budget.num_main, dtype=np.int32)
  reverse = _concatenate([entry.reverse_edge for entry in graphs], (0,), np.int32)
  first_edge = neighbors.first_in_row(num_main)
  reverse_edge[: len(reverse)] = reverse + np.repeat(first_edge, num_main)
  return {
    "main": main,
    "a2a": a2a,
    "a2ee2a": a2ee2a,
    "qint": qint,
    "reverse_edge": reverse_edge,
    "main_table": layout.table(main, budget.main_width),
    "a2ee2a_table": layout.table(a2ee2a, budget.a2ee2a_width),
    "qint_table": layout.table(qint, budget.qint_width),
    "main_slot": main_slot,
    "a2a_senders": a2a_senders,
    "a2a_slot": layout.pad(
      [entry.a2a_slot for entry in graphs], budget.num_a2a, np.int32
    ),
    "quad_exclusion": _pack_exclusion(graphs, main, main_slot, budget),
  }


def _pack_exclusion(
  graphs: Sequence[build.StructureGraphs],
  main: jraph.GraphsTuple,
  main_slot: np.ndarray,
  budget: batch_lib.Budget,
) -> np.ndarray:
  """Moves each edge's row to (receiver, slot)."""
  shape = (budget.num_atoms * budget.main_width, budget.qint_width)
  result = np.full(shape, -1, np.int32)
  row = main.receivers * budget.main_width + main_slot
  first = 0
  for entry in graphs:
    length, width = entry.quad_exclusion.shape
    if width:
      result[row[first : first + length], :width] = entry.quad_exclusion
    first += length
  return result.reshape(budget.num_atoms, budget.main_width, budget.qint_width)


def _pack_target(
  name: str,
  spec: TargetSpec,
  items: Sequence[PackItem],
  layout: layout_lib.Layout,
  dtype: np.dtype,
) -> np.ndarray:
  """One label of all structures, zero for padding and where there is none."""
  size = layout.budget.num_atoms if spec.per_atom else layout.budget.num_graphs
  result = np.zeros((size, *spec.shape), np.int32 if spec.integer else dtype)
  for index, (item, first) in enumerate(zip(items, layout.first_atom)):
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


def _infer_targets(items: Sequence[PackItem]) -> dict[str, TargetSpec]:
  specs = {}
  for item in items:
    for name, value in item.targets.items():
      specs.setdefault(name, TargetSpec.of(value))
  return specs


def _check(items: Sequence[PackItem], budget: batch_lib.Budget) -> None:
  """Raises where the structures do not fit, naming the first that does not."""
  sizes = [budget_lib.sizes_of(item.graphs) for item in items]
  for item, entry in zip(items, sizes):
    budget_lib.check_fits(entry, budget, item.graphs.structure.record_id)
  names = ", ".join(item.graphs.structure.record_id or "?" for item in items)
  together = budget_lib.total(sizes)
  budget_lib.check_fits(together, budget, f"The batch of {len(items)} [{names}]")


def _concatenate(
  parts: Sequence[np.ndarray], empty_shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
  if not parts:
    return np.zeros(empty_shape, dtype)
  return np.concatenate(parts).astype(dtype)
