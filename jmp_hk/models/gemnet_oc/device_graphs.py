"""GemNet-OC's graphs from candidates, in static shapes on the device.

Takes the place of `graphs.build` and `graphs.packing` while atoms move: distances,
edges, tables, reverse edges and exclusions; `selection` says which candidates are the
edges. Distances are in float64, as on the host, so the edges are the same.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import moving as moving_lib
from jmp_hk.graphs import neighbors
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import selection
from jmp_hk.models.gemnet_oc.graphs import budget as gemnet_budget
from jmp_hk.models.gemnet_oc.graphs import build
from jmp_hk.models.gemnet_oc.graphs import choice
from jmp_hk.models.gemnet_oc.graphs import moving as candidates_lib
from jmp_hk.models.gemnet_oc.graphs import packing

Arrays = Mapping[str, jax.Array]

_WASTE = 1.5  # Known widths are used again if they are at most so much too large.


@dataclasses.dataclass(frozen=True)
class GemNetOCMovingGraphs(moving_lib.MovingGraphs):
  """See `MovingGraphs`.

  Attributes:
    config: cutoff, number of neighbors, truncation.
    options: symmetrisation and which edges make quadruplets.
    skin: see `MovingGraphs`.
  """

  config: graph_config.GraphConfig
  options: choice.GraphOptions
  skin: float

  @property
  def reach(self) -> float:
    """See `MovingGraphs`."""
    return self.config.cutoff + self.skin

  def find(
    self, structure: structure_lib.Structure
  ) -> candidates_lib.StructureCandidates:
    """See `MovingGraphs`."""
    return candidates_lib.find_candidates(
      structure, self.config, self.options, self.skin
    )

  def widths(
    self,
    entries: Sequence[candidates_lib.StructureCandidates],
    known: Sequence[candidates_lib.Widths] = (),
  ) -> candidates_lib.Widths:
    """See `MovingGraphs`."""
    needed = candidates_lib.needed_widths(list(entries))
    most_atoms = sum(entry.structure.num_atoms for entry in entries)
    roomy = candidates_lib.roomy_widths(needed, most_atoms)
    for widths in known:
      if widths.holds(needed) and widths.far <= _WASTE * roomy.far:
        return widths
    return roomy

  def fits(self, widths: candidates_lib.Widths, budget: budget_lib.Budget) -> bool:
    """See `MovingGraphs`."""
    assert isinstance(budget, gemnet_budget.GemNetOCBudget)
    return widths.senders <= budget.a2a_width

  def pack(
    self,
    entries: Sequence[candidates_lib.StructureCandidates],
    widths: candidates_lib.Widths,
    num_atoms: int,
  ) -> dict[str, np.ndarray]:
    """See `MovingGraphs`."""
    return candidates_lib.pack_candidates(list(entries), widths, num_atoms)

  def estimate(
    self,
    entries: Sequence[candidates_lib.StructureCandidates],
    widths: candidates_lib.Widths,
  ) -> gemnet_budget.GemNetOCBudget:
    """See `MovingGraphs`; the senders of all far pairs have their place."""
    sizes = [
      build.build_graphs(entry.structure, self.config, self.options).sizes
      for entry in entries
    ]
    total = budget_lib.total(sizes, gemnet_budget.GemNetOCBudget)
    return dataclasses.replace(total, a2a_width=widths.senders)

  def build(
    self,
    arrays: Arrays,
    atoms: moving_lib.Atoms,
    budget: budget_lib.Budget,
    dtype: Any,
  ) -> tuple[packing.GemNetOCGraphs, jax.Array]:
    """See `MovingGraphs`."""
    assert isinstance(budget, gemnet_budget.GemNetOCBudget)
    near = _distances(arrays, "near", atoms)
    far = _distances(arrays, "far", atoms)
    chosen = selection.select(arrays, near, far, self.config, self.options)
    return _pack(arrays, atoms, chosen, budget, dtype)


def _distances(arrays: Arrays, name: str, atoms: moving_lib.Atoms) -> jax.Array:
  """[N, W] distances of candidates in Å, infinity where there are none."""
  senders, offsets = arrays[f"{name}_senders"], arrays[f"{name}_offsets"]
  cell = atoms.cell[0] if len(atoms.cell) <= 2 else atoms.cell[atoms.node_graph]
  squares = jnp.zeros(senders.shape)
  for axis in range(3):  # One direction at a time: XLA vectorises that.
    x = atoms.positions[:, axis]
    shift = jnp.zeros(senders.shape)
    for row in range(3):
      edge = cell[row, axis] if cell.ndim == 2 else cell[:, row, axis, None]
      shift = shift + offsets[row] * edge
    along = x[:, None] - indexing.take_rows(x, senders) - shift
    squares = squares + along * along
  distances = jnp.sqrt(squares)
  real = arrays[f"{name}_mask"] & (distances > neighbors.MIN_DISTANCE)
  return jnp.where(real, distances, jnp.inf)


class _Compact(NamedTuple):
  """The edges of one graph, packed.

  Attributes:
    graph: the edges.
    candidate: [E] index of each edge's candidate in the flat table.
    valid: [E] bool, no padding.
    edge: [N, W] int32 edge of each candidate; anything where it is none.
    slot: [N, W] int32 position of each chosen candidate among those of its row.
    count: [N] int32 edges into each atom.
    start: [N] int32 the first of them.
  """

  graph: jraph.GraphsTuple
  candidate: jax.Array
  valid: jax.Array
  edge: jax.Array
  slot: jax.Array
  count: jax.Array
  start: jax.Array

  def table(self, width: int) -> jax.Array:
    """[N, width] edges into each atom, -1 for "nothing there"."""
    slots = jnp.arange(width, dtype=jnp.int32)
    return jnp.where(slots < self.count[:, None], self.start[:, None] + slots, -1)

  def needs(self) -> tuple[jax.Array, jax.Array]:
    """Number of edges, and the largest number of edges into one atom."""
    return self.count.sum(dtype=jnp.int32), self.count.max()


def _compact(
  arrays: Arrays, name: str, mask: jax.Array, atoms: moving_lib.Atoms, size: int
) -> _Compact:
  """Packs chosen candidates into a list of edges, in the order of their atoms."""
  integer = jnp.int32
  width = mask.shape[1]
  count = mask.sum(axis=1, dtype=integer)
  start = jnp.cumsum(count, dtype=integer) - count
  slot = jnp.cumsum(mask, axis=1, dtype=integer) - 1
  edge = start[:, None] + slot
  place = jnp.where(mask, edge, size).reshape(-1)
  every = jnp.arange(mask.size, dtype=integer)
  candidate = jnp.zeros(size, integer).at[place].set(every, mode="drop")
  total = count.sum(dtype=integer)
  valid = jnp.arange(size, dtype=integer) < total
  pad = atoms.num_real.astype(integer)
  senders = arrays[f"{name}_senders"].reshape(-1)
  offsets = arrays[f"{name}_offsets"].reshape(3, -1)
  take = indexing.take_rows
  offsets = jnp.stack([take(row, candidate) for row in offsets], axis=1)
  groups = len(atoms.n_node)
  n_edge = jnp.zeros(groups, integer).at[atoms.node_graph].add(count)
  spare = atoms.node_graph[pad]
  graph = jraph.GraphsTuple(
    nodes=None,
    edges={"cell_offsets": jnp.where(valid[:, None], offsets, 0).astype(integer)},
    receivers=jnp.where(valid, candidate // width, pad).astype(integer),
    senders=jnp.where(valid, take(senders, candidate), pad).astype(integer),
    globals=None,
    n_node=atoms.n_node,
    n_edge=n_edge.at[spare].add(size - total),
  )
  return _Compact(graph, candidate, valid, edge, slot, count, start)


def _pack(
  arrays: Arrays,
  atoms: moving_lib.Atoms,
  chosen: selection.Selection,
  budget: gemnet_budget.GemNetOCBudget,
  dtype: Any,
) -> tuple[packing.GemNetOCGraphs, jax.Array]:
  """Edges and tables of what was selected, and the sizes that they need."""
  take = indexing.take_rows
  pack = lambda name, mask, size: _compact(arrays, name, mask, atoms, size)
  main = pack("near", chosen.main, budget.num_main)
  a2ee2a = pack("near", chosen.a2ee2a, budget.num_a2ee2a)
  qint = pack("near", chosen.qint, budget.num_qint)
  a2a = pack("far", chosen.a2a, budget.num_a2a)
  of_edges = lambda x, graph: jnp.where(
    graph.valid, take(x.reshape(-1), graph.candidate), 0
  ).astype(jnp.int32)
  own = jnp.arange(budget.num_main, dtype=jnp.int32)
  reverse = take(arrays["reverse"].reshape(-1), main.candidate)
  reverse = jnp.where(main.valid, take(main.edge.reshape(-1), reverse), own)
  main_table = main.table(budget.main_width)
  qint_table = qint.table(budget.qint_width)
  cutoffs = backgrounds = None
  if chosen.cutoffs is not None:
    cutoffs = chosen.cutoffs.astype(dtype)
    backgrounds = arrays["backgrounds"].astype(dtype)
  graphs = packing.GemNetOCGraphs(
    main=main.graph,
    a2a=a2a.graph,
    a2ee2a=a2ee2a.graph,
    qint=qint.graph,
    reverse_edge=reverse.astype(jnp.int32),
    main_table=main_table,
    a2ee2a_table=a2ee2a.table(budget.a2ee2a_width),
    qint_table=qint_table,
    main_slot=of_edges(main.slot, main),
    a2a_senders=_widen(arrays["a2a_senders"], budget.a2a_width),
    a2a_slot=of_edges(arrays["a2a_slot"], a2a),
    quad_exclusion=_exclusion(arrays, chosen.main, main, main_table, qint, qint_table),
    cutoffs=cutoffs,
    backgrounds=backgrounds,
  )
  needs: dict[str, int | jax.Array] = {
    "num_graphs": 0,
    "num_atoms": 0,
    "num_cutoffs": 0,
    "a2a_width": 0,
  }
  needs["num_main"], needs["main_width"] = main.needs()
  needs["num_a2a"], _ = a2a.needs()
  needs["num_a2ee2a"], needs["a2ee2a_width"] = a2ee2a.needs()
  needs["num_qint"], needs["qint_width"] = qint.needs()
  names = budget_lib.names(type(budget))
  return graphs, jnp.stack([jnp.asarray(needs[name], jnp.int32) for name in names])


def _widen(table: jax.Array, width: int) -> jax.Array:
  """Fills the rows of a table up to a larger width."""
  return jnp.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=-1)


def _exclusion(
  arrays: Arrays,
  chosen: jax.Array,
  main: _Compact,
  main_table: jax.Array,
  qint: _Compact,
  qint_table: jax.Array,
) -> jax.Array:
  """See `GemNetOCGraphs.quad_exclusion`.

  The candidates say which pair c→b closes the triangle of c→a and b→a; it counts where
  it is a main edge.
  """
  take = indexing.take_rows
  width = chosen.shape[1]
  columns = arrays["third"].shape[2]
  if not columns:
    return jnp.full((*main_table.shape, qint_table.shape[1]), -1, jnp.int32)
  of_main = take(main.candidate, jnp.maximum(main_table, 0))
  of_qint = take(qint.candidate, jnp.maximum(qint_table, 0))
  column = jnp.maximum(take(arrays["qint_column"].reshape(-1), of_qint), 0)
  middle = take(arrays["near_senders"].reshape(-1), of_qint)
  third = take(
    arrays["third"].reshape(-1), of_main[:, :, None] * columns + column[:, None, :]
  )
  present = (third >= 0) & (main_table >= 0)[:, :, None] & (qint_table >= 0)[:, None]
  slots = jnp.where(chosen, main.slot, -1).reshape(-1)
  closing = jnp.where(present, middle[:, None, :] * width + third, 0)
  return jnp.where(present, take(slots, closing), -1).astype(jnp.int32)
