"""The packed, padded batch that the model reads, and its static budget.

A batch holds several structures one after another, then padding. Following
jraph's convention the first padding structure owns every padding atom and edge,
and there is always at least one padding structure with one padding atom.
"""

from collections.abc import Mapping
import dataclasses

import chex
import jraph


@dataclasses.dataclass(frozen=True)
class Budget:
  """Static sizes of a packed batch. Each includes its padding.

  Attributes:
    num_graphs: structures, at least one of them padding.
    num_atoms: atoms, at least one of them padding.
    num_main: directed main edges after symmetrisation.
    num_a2a: atom-to-atom edges.
    num_a2ee2a: atom-to-edge / edge-to-atom edges.
    num_qint: intermediate edges of quadruplets.
    main_width: largest number of main edges into one atom.
    a2a_width: largest number of distinct sender atoms of the a2a edges into one
      atom (periodic images of a sender count once).
    a2ee2a_width: largest number of a2ee2a edges into one atom.
    qint_width: largest number of qint edges into one atom.
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


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Batch:
  """Structures packed to a `Budget`; a pytree of arrays.

  Sizes: G graphs, N atoms, E main edges, A a2a edges, B a2ee2a edges, Q qint
  edges, and the four table widths of the budget. Arrays that point somewhere hold
  -1 for "nothing there". Structures are ordered by `task`. Edges of every set are
  sorted by receiver; the k-th edge into an atom is in slot k of that atom's table
  row.

  Attributes:
    positions: [N, 3] Å, zero for padding.
    atomic_numbers: [N] int32, zero for padding.
    tags: [N] int32.
    fixed: [N] bool.
    atom_mask: [N] bool, true for real atoms.
    node_graph: [N] int32, the structure that an atom belongs to.
    cell: [G, 3, 3] Å, rows are lattice vectors.
    graph_mask: [G] bool, true for real structures.
    task: [G] int32, index of the dataset whose heads a structure uses; padding
      repeats the last real structure's task.
    main: main edges; `edges` is {"cell_offsets": [E, 3] int32}, `nodes` and
      `globals` are None, `n_node` and `n_edge` are [G]. The edge vector is
      positions[receiver] - positions[sender] - cell_offsets @ cell.
    a2a: atom-to-atom edges, likewise [A].
    a2ee2a: atom-to-edge and edge-to-atom edges, likewise [B].
    qint: intermediate edges of quadruplets, likewise [Q].
    reverse_edge: [E] int32, index of the main edge with swapped ends and negated
      offset. A padding edge is its own reverse.
    main_table: [N, main_width] int32, ids of the main edges into each atom.
    a2ee2a_table: [N, a2ee2a_width] int32, ids of the a2ee2a edges into each atom.
    qint_table: [N, qint_width] int32, ids of the qint edges into each atom.
    main_slot: [E] int32, slot of each main edge in its receiver's table row, zero
      for padding.
    a2a_senders: [N, a2a_width] int32, distinct sender atoms of the a2a edges into
      each atom.
    a2a_slot: [A] int32, slot of each a2a edge's sender in its receiver's row of
      `a2a_senders`, zero for padding.
    quad_exclusion: [N, main_width, qint_width] int32. For main edge c→a in slot i of
      atom a and qint edge b→a in slot q: the slot in atom b's row of `main_table`
      of the main edge c→b from the same periodic image of c, or -1.
    targets: labels by name, normalised: "energy" [G], "forces" [N, 3], others.
      Only those that the pipeline was asked for.
  """

  positions: chex.Array
  atomic_numbers: chex.Array
  tags: chex.Array
  fixed: chex.Array
  atom_mask: chex.Array
  node_graph: chex.Array
  cell: chex.Array
  graph_mask: chex.Array
  task: chex.Array
  main: jraph.GraphsTuple
  a2a: jraph.GraphsTuple
  a2ee2a: jraph.GraphsTuple
  qint: jraph.GraphsTuple
  reverse_edge: chex.Array
  main_table: chex.Array
  a2ee2a_table: chex.Array
  qint_table: chex.Array
  main_slot: chex.Array
  a2a_senders: chex.Array
  a2a_slot: chex.Array
  quad_exclusion: chex.Array
  targets: Mapping[str, chex.Array]

  @property
  def budget(self) -> Budget:
    """The budget that this batch was packed to, read off its shapes."""
    return Budget(
      num_graphs=self.cell.shape[-3],
      num_atoms=self.positions.shape[-2],
      num_main=self.main.senders.shape[-1],
      num_a2a=self.a2a.senders.shape[-1],
      num_a2ee2a=self.a2ee2a.senders.shape[-1],
      num_qint=self.qint.senders.shape[-1],
      main_width=self.main_table.shape[-1],
      a2a_width=self.a2a_senders.shape[-1],
      a2ee2a_width=self.a2ee2a_table.shape[-1],
      qint_width=self.qint_table.shape[-1],
    )
