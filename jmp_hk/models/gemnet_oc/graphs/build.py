"""Builds the four neighbor graphs of one structure.

One search finds the atom-to-atom edges; the main, atom-to-edge and quadruplet graphs
are the nearest of those. The main graph is then symmetrised. Only NumPy and the
neighbor search are imported, so that worker processes start fast.
"""

import dataclasses

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import builder as builder_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import neighbors

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
  if len(a2a) and np.bincount(a2a.receivers).max() > limits.a2a:
    a2a, _ = neighbors.nearest(a2a, limits.a2a, home)
  near, rank = neighbors.nearest(a2a, limits.main, home)
  codes, bound = _codes(near, home)
  tagged = np.zeros(num_atoms, bool)
  for tag in options.qint_tags:  # Faster than `isin` for a few atoms and tags.
    tagged |= structure.tags == tag
  wanted = tagged.take(near.senders) | tagged.take(near.receivers)
  wanted &= rank < limits.qint
  qint, qint_codes = near.take(wanted), codes.compress(wanted)
  main, main_codes, reverse_edge = _symmetrize(near, codes, bound, options.symmetrize)
  exclusion = find_quad_exclusion(main, main_codes, qint, qint_codes, bound, num_atoms)
  pairs, a2a_slot = distinct_senders(a2a, num_atoms)
  compact = _Compactor(num_atoms)
  return GemNetOCStructureGraphs(
    structure=structure,
    main=compact.edges(main),
    a2a=compact.edges(a2a),
    a2ee2a=compact.edges(near.take(rank < limits.a2ee2a)),
    qint=compact.edges(qint),
    reverse_edge=reverse_edge.astype(np.int32),
    a2a_pairs=compact.index(pairs),
    a2a_slot=compact.index(a2a_slot),
    quad_exclusion=exclusion,
  )


def _check(structure: structure_lib.Structure) -> None:
  """Raises for structures that no graph can be built for."""
  if structure.num_atoms > _MAX_ATOMS:
    raise ValueError(
      f"{structure.record_id or 'structure'}: {structure.num_atoms} atoms are more "
      f"than the {_MAX_ATOMS} that graphs can be built for."
    )


def _codes(edges: neighbors.EdgeSet, home: np.ndarray) -> tuple[np.ndarray, int]:
  if not len(edges):
    return np.zeros(0, np.int32), 0
  return neighbors.offset_codes(edges, home)


def _symmetrize(
  near: neighbors.EdgeSet, codes: np.ndarray, bound: int, rule: str
) -> tuple[neighbors.EdgeSet, np.ndarray, np.ndarray]:
  """Makes every edge come with its reverse.

  Of an edge and its reverse, the forward one has s < t or, between images of one
  atom, a negative first non-zero offset component.

  Args:
    near: directed edges.
    codes: [e] their `offset_codes`; a self edge's code has the sign of its first
      non-zero offset component.
    bound: largest absolute value of sums and differences of codes.
    rule: "published" keeps the forward edges and their reverses; "union" keeps an
      edge if either direction is there.

  Returns:
    Edges sorted by receiver, their codes, and the index of each one's reverse.
  """
  senders, receivers, offsets = near.senders, near.receivers, near.offsets
  forward = (senders < receivers) | ((senders == receivers) & (codes < 0))
  if rule == "published":
    keep = np.flatnonzero(forward)
  else:
    sign = np.where(forward, 1, -1).astype(np.int32)
    low, high = np.minimum(senders, receivers), np.maximum(senders, receivers)
    senders, receivers = low, high
    codes, offsets = codes * sign, offsets * sign[:, None]
    pair = high.astype(np.int64) * (high.max(initial=0) + 1) + low
    keep = np.unique(pair * (2 * bound + 1) + codes, return_index=True)[1]
  senders, receivers = senders.take(keep), receivers.take(keep)
  offsets, codes = offsets.take(keep, axis=0), codes.take(keep)
  half = len(keep)
  all_receivers = np.concatenate([receivers, senders])
  order = np.argsort(all_receivers, kind="stable")
  position = np.empty(2 * half, np.int32)
  position[order] = np.arange(2 * half, dtype=np.int32)
  edges = neighbors.EdgeSet(
    senders=np.concatenate([senders, receivers]).take(order),
    receivers=all_receivers.take(order),
    offsets=np.concatenate([offsets, -offsets]).take(order, axis=0),
  )
  reverse = position.take(np.where(order < half, order + half, order - half))
  return edges, np.concatenate([codes, -codes]).take(order), reverse


def distinct_senders(
  edges: neighbors.EdgeSet, num_atoms: int
) -> tuple[np.ndarray, np.ndarray]:
  """Distinct (sender, receiver) pairs and each edge's slot among its receiver's."""
  present = np.zeros((num_atoms, num_atoms), bool)
  flat = edges.receivers * num_atoms + edges.senders
  present.ravel()[flat] = True
  receivers, senders = np.nonzero(present)
  slots = np.cumsum(present, axis=1, dtype=np.int32).ravel()
  return np.stack([senders, receivers], axis=1), slots.take(flat) - 1


def find_quad_exclusion(
  main: neighbors.EdgeSet,
  main_codes: np.ndarray,
  qint: neighbors.EdgeSet,
  qint_codes: np.ndarray,
  bound: int,
  num_atoms: int,
) -> np.ndarray:
  """For main edge c→a and each qint edge b→a: slot of main edge c→b, or -1.

  c→b must start at the same image of c, so its offset is that of c→a less that of
  b→a. Atom pairs with main edges are numbered, and a table (pair, offset code) →
  slot answers all questions at once. Pair 0 stands for "no such pair".
  """
  counts = np.bincount(qint.receivers, minlength=num_atoms)
  width = int(counts.max(initial=0))
  if not width or not len(main):
    return np.full((len(main), width), -1, np.int16)
  column = np.arange(len(qint)) - neighbors.first_in_row(counts).take(qint.receivers)
  middle = np.full((num_atoms, width), num_atoms, np.int32)  # atom b
  middle[qint.receivers, column] = qint.senders
  middle_codes = np.zeros((num_atoms, width), np.int32)
  middle_codes[qint.receivers, column] = qint_codes

  flat = main.receivers * num_atoms + main.senders
  present = np.zeros((num_atoms + 1) * num_atoms, bool)
  present[flat] = True
  pair = np.cumsum(present, dtype=np.int32)
  num_pairs = int(pair[-1])
  pair *= present
  stride = 2 * bound + 1
  degree = np.bincount(main.receivers, minlength=num_atoms)
  slot = np.arange(len(main)) - neighbors.first_in_row(degree).take(main.receivers)
  table = np.full((num_pairs + 1) * stride, -1, np.int16)
  table[pair.take(flat) * stride + (bound + main_codes)] = slot

  question = middle.take(main.receivers, axis=0)
  question *= num_atoms
  question += main.senders[:, None]
  index = pair.take(question)
  index *= stride
  index += (main_codes + bound)[:, None]
  index -= middle_codes.take(main.receivers, axis=0)
  return table.take(index)


class _Compactor:
  """Stores edges in the smallest sensible integers, for workers to send."""

  def __init__(self, num_atoms: int):
    self._dtype = np.int16 if num_atoms < 2**15 else np.int32

  def index(self, values: np.ndarray) -> np.ndarray:
    return values.astype(self._dtype)

  def edges(self, edges: neighbors.EdgeSet) -> neighbors.EdgeSet:
    offsets = edges.offsets
    if not len(edges) or np.abs(offsets).max() < 2**15:
      offsets = offsets.astype(np.int16)
    return neighbors.EdgeSet(
      self.index(edges.senders), self.index(edges.receivers), offsets
    )
