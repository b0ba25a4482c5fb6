"""Packs GemNet-OC's graphs of several structures: edges, tables, reverse edges."""

from collections.abc import Sequence
from typing import Any

import jax
import jraph
import numpy as np

from jmp_hk import pytrees
from jmp_hk.graphs import layout as layout_lib
from jmp_hk.graphs import neighbors
from jmp_hk.models.gemnet_oc.graphs import budget as budget_lib
from jmp_hk.models.gemnet_oc.graphs import build


@pytrees.dataclass
class GemNetOCGraphs:
  """Edges and tables of a packed batch.

  Sizes: G graphs, N atoms, E main edges, A a2a edges, B a2ee2a edges, Q qint edges, and
  the four table widths of the budget. Arrays that point somewhere hold -1 for "nothing
  there". Edges of every set are sorted by receiver; the k-th edge into an atom is in
  slot k of that atom's table row. The four sets share the atoms of the batch, so their
  `GraphsTuple`s hold no nodes and globals of their own.

  Attributes:
    main: main edges; `edges` is {"cell_offsets": [E, 3] int32}, `n_node` and `n_edge`
      are [G]. The edge vector is
      positions[receiver] - positions[sender] - cell_offsets @ cell.
    a2a: atom-to-atom edges, likewise [A].
    a2ee2a: atom-to-edge and edge-to-atom edges, likewise [B].
    qint: intermediate edges of quadruplets, likewise [Q].
    reverse_edge: [E] int32, index of the main edge with swapped ends and negated
      offset. A padding edge is its own reverse.
    main_table: [N, main_width] int32, ids of the main edges into each atom.
    a2ee2a_table: [N, a2ee2a_width] int32, ids of the a2ee2a edges into each atom.
    qint_table: [N, qint_width] int32, ids of the qint edges into each atom.
    main_slot: [E] int32, slot of each main edge in its receiver's table row, zero for
      padding.
    a2a_senders: [N, a2a_width] int32, distinct sender atoms of the a2a edges into each
      atom.
    a2a_slot: [A] int32, slot of each a2a edge's sender in its receiver's row of
      `a2a_senders`, zero for padding.
    quad_exclusion: [N, main_width, qint_width] int32. For main edge c→a in slot i of
      atom a and qint edge b→a in slot q: the slot in atom b's row of `main_table` of
      the main edge c→b from the same periodic image of c, or -1.
    cutoffs: [N, 4] cutoffs of atoms in Å in the main, a2a, a2ee2a and qint graph, see
      `jmp_hk.graphs.adaptive`; zero for padding and for structures whose truncation is
      not smooth. None where that of no structure is.
    backgrounds: like `cutoffs`, the factors of `adaptive.background`.
  """

  main: jraph.GraphsTuple
  a2a: jraph.GraphsTuple
  a2ee2a: jraph.GraphsTuple
  qint: jraph.GraphsTuple
  reverse_edge: jax.Array
  main_table: jax.Array
  a2ee2a_table: jax.Array
  qint_table: jax.Array
  main_slot: jax.Array
  a2a_senders: jax.Array
  a2a_slot: jax.Array
  quad_exclusion: jax.Array
  cutoffs: jax.Array | None = None
  backgrounds: jax.Array | None = None

  def budget(self, num_graphs: int, num_atoms: int) -> budget_lib.GemNetOCBudget:
    """See `PackedGraphs`."""
    return budget_lib.GemNetOCBudget(
      num_graphs=num_graphs,
      num_atoms=num_atoms,
      num_main=self.reverse_edge.shape[-1],
      num_a2a=self.a2a_slot.shape[-1],
      num_a2ee2a=layout_lib.ends(self.a2ee2a).senders.shape[-1],
      num_qint=layout_lib.ends(self.qint).senders.shape[-1],
      main_width=self.main_table.shape[-1],
      a2a_width=self.a2a_senders.shape[-1],
      a2ee2a_width=self.a2ee2a_table.shape[-1],
      qint_width=self.qint_table.shape[-1],
      num_cutoffs=0 if self.cutoffs is None else self.cutoffs.shape[-1],
    )


def pack(
  graphs: Sequence[build.GemNetOCStructureGraphs], layout: layout_lib.Layout
) -> GemNetOCGraphs:
  """Packs the graphs of several structures.

  Args:
    graphs: graphs of the structures in the order of the batch.
    layout: where their atoms lie; its budget is a `GemNetOCBudget`.

  Returns:
    NumPy arrays padded to the budget.

  Raises:
    TypeError: the budget is that of another backbone.
  """
  if not isinstance(layout.budget, budget_lib.GemNetOCBudget):
    raise TypeError(f"GemNet-OC needs a GemNetOCBudget, not {layout.budget}.")
  budget = layout.budget
  main = layout.edges([entry.main for entry in graphs], budget.num_main)
  a2a = layout.edges([entry.a2a for entry in graphs], budget.num_a2a)
  a2ee2a = layout.edges([entry.a2ee2a for entry in graphs], budget.num_a2ee2a)
  qint = layout.edges([entry.qint for entry in graphs], budget.num_qint)
  num_main = np.asarray(main.n_edge)[: len(graphs)]
  main_slot = layout.slots(main)
  pairs = _concatenate([entry.a2a_pairs for entry in graphs], (0, 2), np.int32)
  pairs += np.repeat(layout.first_atom, [len(e.a2a_pairs) for e in graphs])[:, None]
  reverse_edge = np.arange(budget.num_main, dtype=np.int32)
  reverse = _concatenate([entry.reverse_edge for entry in graphs], (0,), np.int32)
  first_edge = neighbors.first_in_row(num_main)
  reverse_edge[: len(reverse)] = reverse + np.repeat(first_edge, num_main)
  # The fields are NumPy arrays here and jax arrays inside of models.
  make: Any = GemNetOCGraphs
  return make(
    main=main,
    a2a=a2a,
    a2ee2a=a2ee2a,
    qint=qint,
    reverse_edge=reverse_edge,
    main_table=layout.table(main, budget.main_width),
    a2ee2a_table=layout.table(a2ee2a, budget.a2ee2a_width),
    qint_table=layout.table(qint, budget.qint_width),
    main_slot=main_slot,
    a2a_senders=layout_lib.ragged_table(
      pairs[:, 1], pairs[:, 0], (budget.num_atoms, budget.a2a_width)
    ),
    a2a_slot=layout.pad([entry.a2a_slot for entry in graphs], budget.num_a2a, np.int32),
    quad_exclusion=_pack_exclusion(graphs, main, main_slot, budget),
    cutoffs=_pack_cutoffs(graphs, "cutoffs", layout),
    backgrounds=_pack_cutoffs(graphs, "backgrounds", layout),
  )


def _pack_cutoffs(
  graphs: Sequence[build.GemNetOCStructureGraphs], name: str, layout: layout_lib.Layout
) -> np.ndarray | None:
  """[N, num_cutoffs], zero where a structure has none; None where none is wanted."""
  budget = layout.budget
  assert isinstance(budget, budget_lib.GemNetOCBudget)
  if not budget.num_cutoffs:
    return None
  shape = (budget.num_cutoffs,)
  parts = []
  for entry in graphs:
    part = getattr(entry, name)
    if part is None:
      part = np.zeros((entry.structure.num_atoms, *shape))
    parts.append(part)
  return layout.atoms(parts, layout.dtype, shape)


def _pack_exclusion(
  graphs: Sequence[build.GemNetOCStructureGraphs],
  main: jraph.GraphsTuple,
  main_slot: np.ndarray,
  budget: budget_lib.GemNetOCBudget,
) -> np.ndarray:
  """Moves each edge's row to (receiver, slot)."""
  shape = (budget.num_atoms * budget.main_width, budget.qint_width)
  result = np.full(shape, -1, np.int32)
  row = np.asarray(main.receivers) * budget.main_width + main_slot
  first = 0
  for entry in graphs:
    length, width = entry.quad_exclusion.shape
    if width:
      result[row[first : first + length], :width] = entry.quad_exclusion
    first += length
  return result.reshape(budget.num_atoms, budget.main_width, budget.qint_width)


def _concatenate(
  parts: Sequence[np.ndarray], empty_shape: tuple[int, ...], dtype: type[np.generic]
) -> np.ndarray:
  if not parts:
    return np.zeros(empty_shape, dtype)
  return np.concatenate(parts).astype(dtype)
