"""Builds the four neighbor graphs of one structure.

One search finds the atom-to-atom edges; the main, atom-to-edge and quadruplet graphs
are the nearest of those. The main graph is then symmetrised. Only NumPy and the
neighbor search are imported, so that worker processes start fast.
"""

import dataclasses
import functools

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors
from jmp_hk.models.gemnet_oc.graphs import budget as budget_lib
from jmp_hk.models.gemnet_oc.graphs import tables

_MAX_ATOMS = 46_000  # Pairs of atoms are numbered in 32 bits.


@dataclasses.dataclass(frozen=True)
class GemNetOCStructureGraphs(builder_lib.StructureGraphs):
  """The graphs of one structure; indices count from its first atom or edge.

  Attributes:
    main: symmetrised main edges, sorted by receiver.
    a2a: atom-to-atom edges, sorted by receiver.
    a2ee2a: edges of the atom-edge interactions, sorted by receiver and distance.
    qint: intermediate edges of quadruplets, sorted by receiver and distance.
    reverse_edge: [main] index of the main edge with swapped ends.
    a2a_pairs: [pairs, 2] distinct (sender, receiver) pairs of the a2a edges, sorted by
      receiver and sender.
    a2a_slot: [a2a] position of an edge's sender among its receiver's pairs.
    quad_exclusion: [main, w], see `GemNetOCGraphs.quad_exclusion`; w is the largest
      number of qint edges into one atom.
  """

  main: neighbors.EdgeSet
  a2a: neighbors.EdgeSet
  a2ee2a: neighbors.EdgeSet
  qint: neighbors.EdgeSet
  reverse_edge: np.ndarray
  a2a_pairs: np.ndarray
  a2a_slot: np.ndarray
  quad_exclusion: np.ndarray

  @functools.cached_property
  def sizes(self) -> budget_lib.GemNetOCBudget:
    """What the graphs need in a batch, without padding; counted once."""
    return budget_lib.GemNetOCBudget(
      num_graphs=1,
      num_atoms=self.structure.num_atoms,
      num_main=len(self.main),
      num_a2a=len(self.a2a),
      num_a2ee2a=len(self.a2ee2a),
      num_qint=len(self.qint),
      main_width=_width(self.main.receivers),
      a2a_width=_width(self.a2a_pairs[:, 1]),
      a2ee2a_width=_width(self.a2ee2a.receivers),
      qint_width=self.quad_exclusion.shape[1],
    )


@dataclasses.dataclass(frozen=True)
class GraphOptions:
  """How the four graphs are chosen, apart from what the dataset decides.

  Attributes:
    symmetrize: "published" keeps an edge s→t with s < t and adds its reverse, which
      depends on the order of atoms where the number of neighbors is limited, and is
      what the published weights expect; "union" keeps an edge if either direction was
      kept.
    qint_tags: edges of quadruplets need at least one end with one of these tags.
  """

  symmetrize: str = "published"
  qint_tags: tuple[int, ...] = (1, 2)

  def __post_init__(self) -> None:
    if self.symmetrize not in ("published", "union"):
      raise ValueError(
        f'symmetrize must be "published" or "union", got {self.symmetrize!r}.'
      )


@dataclasses.dataclass(frozen=True)
class NeighborLimits:
  """Largest number of edges into one atom in each directed graph.

  Attributes:
    main: limit of the main graph, before it is symmetrised.
    a2a: limit of the atom-to-atom graph.
    a2ee2a: limit of the atom-to-edge graph.
    qint: limit of the intermediate edges of quadruplets.
  """

  main: int
  a2a: int
  a2ee2a: int
  qint: int


def neighbor_limits(config: graph_config.GraphConfig, num_atoms: int) -> NeighborLimits:
  """Limits that a structure of this size is built with.

  Args:
    config: graph settings of the dataset.
    num_atoms: number of atoms of the structure.

  Returns:
    The limits. Those of the other graphs follow that of the main graph in the published
    proportion of 30 : 1000 : 20 : 8.

  Raises:
    ValueError: max_neighbors is negative.
  """
  main = config.max_neighbors_of(num_atoms)
  return NeighborLimits(
    main=main, a2a=main * 1000 // 30, a2ee2a=main * 20 // 30, qint=main * 8 // 30
  )


def build_graphs(
  structure: structure_lib.Structure,
  config: graph_config.GraphConfig,
  options: GraphOptions,
  *,
  edge_dropout: float = 0.0,
  rng: np.random.Generator | None = None,
) -> GemNetOCStructureGraphs:
  """Builds the four graphs of a structure.

  Args:
    structure: any number of atoms, with or without neighbors.
    config: cutoff and number of neighbors.
    options: symmetrisation and which edges make quadruplets.
    edge_dropout: probability with which each directed a2a edge is left out before
      the other graphs are selected from those that remain.
    rng: source of the dropout's draws; None leaves all edges in.

  Returns:
    The graphs.

  Raises:
    ValueError: the structure has too many atoms.
    InvalidStructureError: see `find_neighbors`.
  """
  _check(structure)
  num_atoms = structure.num_atoms
  limits = neighbor_limits(config, num_atoms)
  a2a = neighbors.find_neighbors(structure, config.cutoff)
  home = neighbors.home_cells(structure)
  if edge_dropout and rng is not None:
    a2a = a2a.take(rng.random(len(a2a)) >= edge_dropout)
  if len(a2a) > limits.a2a and np.bincount(a2a.receivers).max() > limits.a2a:
    a2a = nearest.nearest(a2a, limits.a2a, home).edges
  near, rank, codes, bound = nearest.nearest(a2a, limits.main, home)
  wanted = _joins_tagged(near, structure.tags, options.qint_tags)
  wanted &= rank < limits.qint
  wanted = wanted.nonzero()[0]
  qint, qint_codes = near.take(wanted), codes.take(wanted)
  main, main_codes, reverse_edge = _symmetrize(
    near, codes, bound, num_atoms, options.symmetrize
  )
  exclusion = tables.find_quad_exclusion(
    main, main_codes, qint, qint_codes, bound, num_atoms
  )
  pairs, a2a_slot = tables.distinct_senders(a2a, num_atoms)
  compact = _Compactor(num_atoms, a2a.offsets)
  return GemNetOCStructureGraphs(
    structure=structure,
    main=compact.edges(main),
    a2a=compact.edges(a2a),
    a2ee2a=compact.edges(near.take(rank < limits.a2ee2a)),
    qint=compact.edges(qint),
    reverse_edge=reverse_edge.astype(np.int32),
    a2a_pairs=pairs,
    a2a_slot=a2a_slot,
    quad_exclusion=exclusion,
  )


def _width(receivers: np.ndarray) -> int:
  """Largest number of edges into one atom."""
  return int(np.bincount(receivers).max()) if len(receivers) else 0


def _check(structure: structure_lib.Structure) -> None:
  """Raises for structures that no graph can be built for."""
  if structure.num_atoms > _MAX_ATOMS:
    raise ValueError(
      f"{structure.record_id or 'structure'}: {structure.num_atoms} atoms are more "
      f"than the {_MAX_ATOMS} that graphs can be built for."
    )


def _joins_tagged(
  edges: neighbors.EdgeSet, tags: np.ndarray, wanted: tuple[int, ...]
) -> np.ndarray:
  """[e] whether at least one end of an edge has one of the wanted tags."""
  tagged = np.zeros(len(tags), bool)
  for tag in wanted:  # Faster than `isin` for a few atoms and tags.
    tagged |= tags == tag
  return tagged.take(edges.senders) | tagged.take(edges.receivers)


def _symmetrize(
  near: neighbors.EdgeSet, codes: np.ndarray, bound: int, num_atoms: int, rule: str
) -> tuple[neighbors.EdgeSet, np.ndarray, np.ndarray]:
  """Makes every edge come with its reverse.

  Of an edge and its reverse, the forward one has s < t or, between images of one
  atom, a negative first non-zero offset component.

  Args:
    near: directed edges.
    codes: [e] their `offset_codes`; a self edge's code has the sign of its first
      non-zero offset component.
    bound: largest absolute value of sums and differences of codes.
    num_atoms: number of atoms of the structure.
    rule: "published" keeps the forward edges and their reverses; "union" keeps an
      edge if either direction is there.

  Returns:
    Edges sorted by receiver, their codes, and the index of each one's reverse.
  """
  senders, receivers, offsets = near.senders, near.receivers, near.offsets
  forward = senders < receivers
  if bound:  # Only between periodic images an atom is its own neighbor.
    forward |= (senders == receivers) & (codes < 0)
  if rule == "published":
    keep = forward.nonzero()[0]
  else:
    sign = np.where(forward, 1, -1)
    low, high = np.minimum(senders, receivers), np.maximum(senders, receivers)
    senders, receivers = low, high
    codes, offsets = codes * sign, offsets * sign[:, None]
    pair = high * (high.max(initial=0) + 1) + low
    keep = np.unique(pair * (2 * bound + 1) + codes, return_index=True)[1]
  senders, receivers = senders.take(keep), receivers.take(keep)
  offsets, codes = offsets.take(keep, axis=0), codes.take(keep)
  half = len(keep)
  all_receivers = np.concatenate([receivers, senders])
  small = all_receivers.astype(tables.index_dtype(num_atoms))
  order = small.argsort(kind="stable")
  position = np.empty(2 * half, np.int32)
  position[order] = np.arange(2 * half, dtype=np.int32)
  edges = neighbors.EdgeSet(
    senders=np.concatenate([senders, receivers]).take(order),
    receivers=all_receivers.take(order),
    offsets=np.concatenate([offsets, -offsets]).take(order, axis=0),
  )
  reverse = np.concatenate([position[half:], position[:half]]).take(order)
  return edges, np.concatenate([codes, -codes]).take(order), reverse


class _Compactor:
  """Stores edges in the smallest sensible integers, for workers to send."""

  def __init__(self, num_atoms: int, offsets: np.ndarray):
    """Looks at the largest edge set's offsets; the others' are among them."""
    self._dtype = tables.index_dtype(num_atoms)
    small = not len(offsets) or max(offsets.max(), -offsets.min()) < 2**15
    self._offset_dtype = np.int16 if small else np.int32

  def edges(self, edges: neighbors.EdgeSet) -> neighbors.EdgeSet:
    return neighbors.EdgeSet(
      edges.senders.astype(self._dtype),
      edges.receivers.astype(self._dtype),
      edges.offsets.astype(self._offset_dtype),
    )
