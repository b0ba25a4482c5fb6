"""The packed, padded batch that models read.

A batch holds several structures one after another, then padding. Following jraph's
convention the first padding structure owns every padding atom and edge, and there is
always at least one padding structure with one padding atom.
"""

from collections.abc import Mapping
from typing import Generic
from typing import Protocol
from typing import TypeVar

import jax

from jmp_hk import pytrees
from jmp_hk.graphs import budget as budget_lib


class PackedGraphs(Protocol):
  """What a backbone's `GraphBuilder.pack` returns: a pytree of arrays."""

  def budget(self, num_graphs: int, num_atoms: int) -> budget_lib.Budget:
    """The budget that the graphs were packed to, read off the shapes of the arrays."""
    ...


GraphsT = TypeVar("GraphsT", bound=PackedGraphs)


@pytrees.dataclass
class Batch(Generic[GraphsT]):
  """Structures packed to a `Budget`; a pytree of arrays, NumPy on the host.

  Sizes: G structures and N atoms. Structures are ordered by `task`.

  Attributes:
    positions: [N, 3] positions in Å, zero for padding.
    atomic_numbers: [N] int32 atomic numbers, zero for padding.
    tags: [N] int32 tags, see `Structure`.
    fixed: [N] bool, true for atoms that were held in place.
    atom_mask: [N] bool, true for real atoms.
    node_graph: [N] int32, the structure that an atom belongs to.
    n_node: [G] int32, the number of atoms of each structure.
    cell: [G, 3, 3] lattice vectors in Å, one a row.
    graph_mask: [G] bool, true for real structures.
    task: [G] int32, index of the task whose heads a structure uses; padding repeats
      the last real structure's task.
    graphs: edges and tables that the backbone asked for, see `GraphBuilder.pack`.
    targets: labels by name, normalised: "energy" [G], "forces" [N, 3], others. Only
      those that the pipeline was asked for.
  """

  positions: jax.Array
  atomic_numbers: jax.Array
  tags: jax.Array
  fixed: jax.Array
  atom_mask: jax.Array
  node_graph: jax.Array
  n_node: jax.Array
  cell: jax.Array
  graph_mask: jax.Array
  task: jax.Array
  graphs: GraphsT
  targets: Mapping[str, jax.Array]

  @property
  def budget(self) -> budget_lib.Budget:
    """The budget that this batch was packed to, read off its shapes."""
    return self.graphs.budget(
      num_graphs=self.cell.shape[-3], num_atoms=self.positions.shape[-2]
    )
