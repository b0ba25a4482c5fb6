"""Which neighbors of a structure are edges of each graph.

As published, the nearest ones up to a number; otherwise whole shells of them, or those
within cutoffs of the atoms' own, see `GraphConfig.truncation`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jmp_hk.graphs import adaptive
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors

Truncation = graph_config.Truncation


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


class Selection(NamedTuple):
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


def select(
  edges: neighbors.EdgeSet,
  limits: NeighborLimits,
  home: np.ndarray,
  config: graph_config.GraphConfig,
  options: GraphOptions,
) -> Selection:
  """Selects the edges of the graphs, but for the tags that `options` asks for.

  Args:
    edges: all edges up to the cutoff, sorted by receiver.
    limits: see `neighbor_limits`.
    home: [n, 3] see `neighbors.home_cells`.
    config: cutoff and truncation.
    options: symmetrisation.
  """
  if config.truncation is Truncation.SMOOTH:
    return _select_smoothly(edges, limits, home, config.cutoff)
  if config.truncation is Truncation.SHELLS:
    return _select_shells(edges, limits, home)
  return _select_nearest(edges, limits, home, options.symmetrize)


def is_forward(edges: neighbors.EdgeSet, codes: np.ndarray, bound: int) -> np.ndarray:
  """[e] whether an edge is the forward one of itself and its reverse.

  That one has s < t or, between images of one atom, a negative first non-zero offset
  component, whose sign a self edge's code has.
  """
  forward = edges.senders < edges.receivers
  if bound:  # Only between periodic images an atom is its own neighbor.
    forward |= (edges.senders == edges.receivers) & (codes < 0)
  return forward


def joins_tagged(
  edges: neighbors.EdgeSet, tags: np.ndarray, wanted: tuple[int, ...]
) -> np.ndarray:
  """[e] whether at least one end of an edge has one of the wanted tags."""
  tagged = np.zeros(len(tags), bool)
  for tag in wanted:  # Faster than `isin` for a few atoms and tags.
    tagged |= tags == tag
  return tagged.take(edges.senders) | tagged.take(edges.receivers)


def _select_nearest(
  edges: neighbors.EdgeSet, limits: NeighborLimits, home: np.ndarray, symmetrize: str
) -> Selection:
  """The nearest edges into every atom, as published."""
  if len(edges) > limits.a2a and np.bincount(edges.receivers).max() > limits.a2a:
    edges = nearest.nearest(edges, limits.a2a, home).edges
  near, rank, codes, bound = nearest.nearest(edges, limits.main, home)
  return Selection(
    edges,
    near,
    codes,
    bound,
    in_a2ee2a=rank < limits.a2ee2a,
    in_qint=rank < limits.qint,
    symmetrize=symmetrize,
  )


def _select_shells(
  edges: neighbors.EdgeSet, limits: NeighborLimits, home: np.ndarray
) -> Selection:
  """Whole shells of equally distant neighbors."""
  edges, rank, codes, bound = nearest.nearest(edges, len(edges), home)
  bounds = nearest.shell_bounds(edges, rank)
  take = lambda limit: nearest.whole_shells(bounds, limit).nonzero()[0]
  main = take(limits.main)
  bounds_of_main = bounds[:, main]
  return Selection(
    edges.take(take(limits.a2a)),
    edges.take(main),
    codes.take(main),
    bound,
    in_a2ee2a=nearest.whole_shells(bounds_of_main, limits.a2ee2a),
    in_qint=nearest.whole_shells(bounds_of_main, limits.qint),
    symmetrize="union",
  )


def _select_smoothly(
  edges: neighbors.EdgeSet, limits: NeighborLimits, home: np.ndarray, cutoff: float
) -> Selection:
  """Edges within the adaptive cutoffs of atoms.

  An edge is in the main graph if it is within the cutoff of either end, in the others
  if it is within that of its receiver. The cutoffs grow with the limits, so the edges
  of a2ee2a and qint are among those of main.
  """
  wanted = dataclasses.astuple(limits)  # In the order of `GemNetOCStructureGraphs`.
  num_atoms = len(home)
  cutoffs = adaptive.adaptive_cutoffs(edges, num_atoms, wanted, cutoff)
  of_receivers = cutoffs.take(edges.receivers, axis=0)
  main = np.maximum(of_receivers[:, 0], cutoffs[:, 0].take(edges.senders))
  main = (edges.distances < main).nonzero()[0]
  near, of_receivers_near = edges.take(main), of_receivers.take(main, axis=0)
  codes, bound = np.zeros(0, np.intp), 0
  if len(near):
    codes, bound = nearest.offset_codes(near, home)
  factors = [adaptive.background(limit, cutoff) for limit in wanted]
  return Selection(
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
