"""Builds the four neighbor graphs of one structure.

One search finds the atom-to-atom edges; the main, atom-to-edge and quadruplet graphs
are the nearest of those, see `GraphConfig.truncation`. The main graph is then
symmetrised. Only NumPy and the neighbor search are imported, so that worker processes
start fast.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import adaptive
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors
from jmp_hk.models.gemnet_oc.graphs import budget as budget_lib
from jmp_hk.models.gemnet_oc.graphs import tables

Truncation = graph_config.Truncation

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
    cutoffs: [n, 4] cutoff of each atom in Å in the main, a2a, a2ee2a and qint graph
      where truncation is smooth, see `jmp_hk.graphs.adaptive`, else None.
    backgrounds: like `cutoffs`, the factors of `adaptive.background`.
  """

  main: neighbors.EdgeSet
  a2a: neighbors.EdgeSet
  a2ee2a: neighbors.EdgeSet
  qint: neighbors.EdgeSet
  reverse_edge: np.ndarray
  a2a_pairs: np.ndarray
  a2a_slot: np.ndarray
  quad_exclusion: np.ndarray
  cutoffs: np.ndarray | None = None
  backgrounds: np.ndarray | None = None

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
      num_cutoffs=0 if self.cutoffs is None else self.cutoffs.shape[1],
    )


@dataclasses.dataclass(frozen=True)
class GraphOptions:
  """How the four graphs are chosen, apart from what the dataset decides.

  Attributes:
    symmetrize: "published" keeps an edge s→t with s < t and adds its reverse, which
      depends on the order of atoms where the number of neighbors is limited, and is
      what the published weights expect; "union" keeps an edge if either direction was
      kept. Only with the truncation "published"; others always take the union.
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

  def scaled(self, factor: int) -> "NeighborLimits":
    """Every limit times a factor."""
    return NeighborLimits(*(factor * limit for limit in dataclasses.astuple(self)))


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
      the other graphs are selected from those that remain. With a smooth truncation
      an edge is left out together with its reverse.
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
    a2a = _drop(a2a, home, edge_dropout, rng, config.truncation)
  chosen = _SELECTIONS[config.truncation](a2a, limits, home, config, options)
  a2a, near, codes, bound = chosen.a2a, chosen.near, chosen.codes, chosen.bound
  wanted = joins_tagged(near, structure.tags, options.qint_tags)
  wanted &= chosen.in_qint
  wanted = wanted.nonzero()[0]
  qint, qint_codes = near.take(wanted), codes.take(wanted)
  main, main_codes, reverse_edge = _symmetrize(
    near, codes, bound, num_atoms, chosen.symmetrize
  )
  exclusion = tables.find_quad_exclusion(
    main, main_codes, qint, qint_codes, bound, num_atoms
  )
  pairs, a2a_slot = tables.distinct_senders(a2a, num_atoms)
  compact = _Compactor(structure, a2a.offsets)
  return GemNetOCStructureGraphs(
    structure=structure,
    main=compact.edges(main),
    a2a=compact.edges(a2a),
    a2ee2a=compact.edges(near.take(chosen.in_a2ee2a)),
    qint=compact.edges(qint),
    reverse_edge=reverse_edge.astype(np.int32),
    a2a_pairs=pairs,
    a2a_slot=a2a_slot,
    quad_exclusion=exclusion,
    cutoffs=chosen.cutoffs,
    backgrounds=chosen.backgrounds,
  )


class _Selection(NamedTuple):
  """Which of the edges that were found the graphs hold.

  Attributes:
    a2a: the atom-to-atom edges.
    near: edges that the main graph is symmetrised from, sorted by receiver.
    codes: [near] their `offset_codes`.
    bound: largest absolute value of sums and differences of codes.
    in_a2ee2a: [near] whether an edge is in the atom-to-edge graph.
    in_qint: [near] whether it may be in the graph of intermediate edges.
    symmetrize: rule of symmetrisation.
    cutoffs: see `GemNetOCStructureGraphs`.
    backgrounds: likewise.
  """

  a2a: neighbors.EdgeSet
  near: neighbors.EdgeSet
  codes: np.ndarray
  bound: int
  in_a2ee2a: np.ndarray
  in_qint: np.ndarray
  symmetrize: str
  cutoffs: np.ndarray | None = None
  backgrounds: np.ndarray | None = None


def _select_nearest(
  edges: neighbors.EdgeSet,
  limits: NeighborLimits,
  home: np.ndarray,
  config: graph_config.GraphConfig,
  options: GraphOptions,
) -> _Selection:
  """The nearest edges into every atom, as published."""
  del config
  if len(edges) > limits.a2a and np.bincount(edges.receivers).max() > limits.a2a:
    edges = nearest.nearest(edges, limits.a2a, home).edges
  near, rank, codes, bound = nearest.nearest(edges, limits.main, home)
  return _Selection(
    edges,
    near,
    codes,
    bound,
    in_a2ee2a=rank < limits.a2ee2a,
    in_qint=rank < limits.qint,
    symmetrize=options.symmetrize,
  )


def _select_shells(
  edges: neighbors.EdgeSet,
  limits: NeighborLimits,
  home: np.ndarray,
  config: graph_config.GraphConfig,
  options: GraphOptions,
) -> _Selection:
  """Whole shells of equally distant neighbors."""
  del config, options
  edges, rank, codes, bound = nearest.nearest(edges, len(edges), home)
  bounds = nearest.shell_bounds(edges, rank)
  take = lambda limit: nearest.whole_shells(bounds, limit).nonzero()[0]
  main = take(limits.main)
  bounds_of_main = bounds[:, main]
  return _Selection(
    edges.take(take(limits.a2a)),
    edges.take(main),
    codes.take(main),
    bound,
    in_a2ee2a=nearest.whole_shells(bounds_of_main, limits.a2ee2a),
    in_qint=nearest.whole_shells(bounds_of_main, limits.qint),
    symmetrize="union",
  )


def _select_smoothly(
  edges: neighbors.EdgeSet,
  limits: NeighborLimits,
  home: np.ndarray,
  config: graph_config.GraphConfig,
  options: GraphOptions,
) -> _Selection:
  """Edges within the adaptive cutoffs of atoms.

  An edge is in the main graph if it is within the cutoff of either end, in the others
  if it is within that of its receiver. The cutoffs grow with the limits, so the edges
  of a2ee2a and qint are among those of main.
  """
  del options
  wanted = dataclasses.astuple(limits)  # In the order of `GemNetOCStructureGraphs`.
  num_atoms = len(home)
  cutoffs = adaptive.adaptive_cutoffs(edges, num_atoms, wanted, config.cutoff)
  of_receivers = cutoffs.take(edges.receivers, axis=0)
  main = np.maximum(of_receivers[:, 0], cutoffs[:, 0].take(edges.senders))
  main = (edges.distances < main).nonzero()[0]
  near, of_receivers_near = edges.take(main), of_receivers.take(main, axis=0)
  codes, bound = np.zeros(0, np.intp), 0
  if len(near):
    codes, bound = nearest.offset_codes(near, home)
  factors = [adaptive.background(limit, config.cutoff) for limit in wanted]
  return _Selection(
    edges.take(edges.distances < of_receivers[:, 1]),
    near,
    codes,
    bound,
    in_a2ee2a=near.distances < of_receivers_near[:, 2],
    in_qint=near.distances < of_receivers_near[:, 3],
    # Both directions are there; this takes one of them and adds its exact reverse.
    symmetrize="published",
    cutoffs=cutoffs,
    backgrounds=np.tile(factors, (num_atoms, 1)),
  )


_SELECTIONS = {
  Truncation.PUBLISHED: _select_nearest,
  Truncation.SHELLS: _select_shells,
  Truncation.SMOOTH: _select_smoothly,
}


def _drop(
  edges: neighbors.EdgeSet,
  home: np.ndarray,
  probability: float,
  rng: np.random.Generator,
  truncation: Truncation,
) -> neighbors.EdgeSet:
  """Leaves edges out at random, with their reverses where truncation is smooth."""
  if truncation is not Truncation.SMOOTH or not len(edges):
    return edges.take(rng.random(len(edges)) >= probability)
  codes, bound = nearest.offset_codes(edges, home)
  forward = is_forward(edges, codes, bound)
  low = np.minimum(edges.senders, edges.receivers)
  high = np.maximum(edges.senders, edges.receivers)
  pair = (high * len(home) + low) * (2 * bound + 1) + np.where(forward, codes, -codes)
  number = np.unique(pair, return_inverse=True)[1]
  return edges.take(rng.random(number.max() + 1).take(number) >= probability)


def is_forward(edges: neighbors.EdgeSet, codes: np.ndarray, bound: int) -> np.ndarray:
  """[e] whether an edge is the forward one of itself and its reverse.

  That one has s < t or, between images of one atom, a negative first non-zero offset
  component, whose sign a self edge's code has.
  """
  forward = edges.senders < edges.receivers
  if bound:  # Only between periodic images an atom is its own neighbor.
    forward |= (edges.senders == edges.receivers) & (codes < 0)
  return forward


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


def joins_tagged(
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

  Args:
    near: directed edges.
    codes: [e] their `offset_codes`.
    bound: largest absolute value of sums and differences of codes.
    num_atoms: number of atoms of the structure.
    rule: "published" keeps the forward edges and their reverses, see `is_forward`;
      "union" keeps an edge if either direction is there.

  Returns:
    Edges sorted by receiver, their codes (nothing of use if the bound is zero), and the
    index of each one's reverse.
  """
  senders, receivers, offsets = near.senders, near.receivers, near.offsets
  forward = is_forward(near, codes, bound)
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
  offsets = offsets.take(keep, axis=0)
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
  codes = codes.take(keep)
  if bound:  # Else they are all zero.
    codes = np.concatenate([codes, -codes]).take(order)
  return edges, codes, reverse


class _Compactor:
  """Stores edges in the smallest sensible integers, for workers to send."""

  def __init__(self, structure: structure_lib.Structure, offsets: np.ndarray):
    """Looks at the largest edge set's offsets; the others' are among them."""
    self._dtype = tables.index_dtype(structure.num_atoms)
    has_any = len(offsets) and structure.is_periodic
    small = not has_any or max(offsets.max(), -offsets.min()) < 2**15
    self._offset_dtype = np.int16 if small else np.int32

  def edges(self, edges: neighbors.EdgeSet) -> neighbors.EdgeSet:
    return neighbors.EdgeSet(
      edges.senders.astype(self._dtype),
      edges.receivers.astype(self._dtype),
      edges.offsets.astype(self._offset_dtype),
    )
