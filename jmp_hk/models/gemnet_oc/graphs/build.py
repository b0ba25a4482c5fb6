"""Builds the four neighbor graphs of one structure.

One search finds all edges up to the cutoff, of which `choice` selects those of each
graph. The main graph is then symmetrised. Only NumPy and the neighbor search are
imported, so that worker processes start fast.
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
from jmp_hk.models.gemnet_oc.graphs import choice
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


def build_graphs(
  structure: structure_lib.Structure,
  config: graph_config.GraphConfig,
  options: choice.GraphOptions,
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
  limits = choice.neighbor_limits(config, num_atoms)
  a2a = neighbors.find_neighbors(structure, config.cutoff)
  home = neighbors.home_cells(structure)
  if edge_dropout and rng is not None:
    a2a = _drop(a2a, home, edge_dropout, rng, config.truncation)
  chosen = choice.select(a2a, limits, home, config, options)
  a2a, near, codes, bound = chosen.a2a, chosen.near, chosen.codes, chosen.bound
  wanted = choice.joins_tagged(near, structure.tags, options.qint_tags)
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
  forward = choice.is_forward(edges, codes, bound)
  low = np.minimum(edges.senders, edges.receivers)
  high = np.maximum(edges.senders, edges.receivers)
  pair = (high * len(home) + low) * (2 * bound + 1) + np.where(forward, codes, -codes)
  number = np.unique(pair, return_inverse=True)[1]
  return edges.take(rng.random(number.max() + 1).take(number) >= probability)


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


def _symmetrize(
  near: neighbors.EdgeSet, codes: np.ndarray, bound: int, num_atoms: int, rule: str
) -> tuple[neighbors.EdgeSet, np.ndarray, np.ndarray]:
  """Makes every edge come with its reverse.

  Args:
    near: directed edges.
    codes: [e] their `offset_codes`.
    bound: largest absolute value of sums and differences of codes.
    num_atoms: number of atoms of the structure.
    rule: "published" keeps the forward edges and their reverses, see
      `choice.is_forward`; "union" keeps an edge if either direction is there.

  Returns:
    Edges sorted by receiver, their codes (nothing of use if the bound is zero), and the
    index of each one's reverse.
  """
  senders, receivers, offsets = near.senders, near.receivers, near.offsets
  forward = choice.is_forward(near, codes, bound)
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
