"""What the graphs of one structure need, counted without building them.

As published, the graphs other than the atom-to-atom graph hold the nearest neighbors
alone. Their edges are selected as when they are built, among those that are no farther
than they have to be; the others are only counted.
"""

import numpy as np

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors
from jmp_hk.graphs import pairs as pairs_lib
from jmp_hk.models.gemnet_oc.graphs import budget as budget_lib
from jmp_hk.models.gemnet_oc.graphs import choice

_MORE = 1.7  # Neighbors within the first radius that is tried, by those wanted.
_GROWTH = 1.25  # Of a radius that is too small.


def measure(
  structure: structure_lib.Structure,
  config: graph_config.GraphConfig,
  options: choice.GraphOptions,
) -> budget_lib.GemNetOCBudget | None:
  """The sizes of `build.build_graphs` without edge dropout.

  Args:
    structure: the structure.
    config: cutoff and number of neighbors.
    options: symmetrisation and which edges make quadruplets.

  Returns:
    The sizes; None where the graphs have to be built to know them: with other rules
    than the published ones, and for structures that are unusual or large.

  Raises:
    InvalidStructureError: see `neighbors.find_neighbors`.
  """
  if (
    config.truncation is not graph_config.Truncation.PUBLISHED
    or options.symmetrize != "published"
  ):
    return None
  num_atoms = structure.num_atoms
  pairs = neighbors.find_pairs(structure, config.cutoff)
  limits = choice.neighbor_limits(config, num_atoms)
  if pairs is None or not limits.qint:
    return None
  limit = neighbors.edge_limit(structure, config.cutoff)
  in_a2a = pairs.squared <= limit * limit
  num_a2a = int(np.count_nonzero(in_a2a))
  if num_a2a > limits.a2a and np.count_nonzero(in_a2a, axis=1).max() > limits.a2a:
    return None
  near = _near(pairs, limits.main, limit, num_a2a / num_atoms)
  if not len(near) or near.distances.min() <= neighbors.MIN_DISTANCE:
    return None
  found = nearest.nearest(near, limits.main, neighbors.home_cells(structure))
  near, rank = found.edges, found.rank
  # Each of these edges comes with its reverse.
  half = choice.is_forward(near, found.codes, found.bound).nonzero()[0]
  count = lambda ends: np.bincount(ends, minlength=num_atoms)
  degree = count(near.receivers.take(half)) + count(near.senders.take(half))
  in_qint = choice.joins_tagged(near, structure.tags, options.qint_tags)
  in_qint &= rank < limits.qint
  qint = near.receivers.take(in_qint.nonzero()[0])
  return budget_lib.GemNetOCBudget(
    num_graphs=1,
    num_atoms=num_atoms,
    num_main=2 * len(half),
    num_a2a=num_a2a,
    num_a2ee2a=int(np.count_nonzero(rank < limits.a2ee2a)),
    num_qint=len(qint),
    main_width=int(degree.max()),
    a2a_width=_most_senders(pairs, in_a2a),
    a2ee2a_width=min(int(rank.max()) + 1, limits.a2ee2a),
    qint_width=int(count(qint).max()),
  )


def _near(
  pairs: pairs_lib.Pairs, count: int, limit: float, mean: float
) -> neighbors.EdgeSet:
  """Edges that hold the `count` nearest of every atom, and all that tie with them.

  The radius grows until each atom has so many, and no edge is so long that one beyond
  the radius could tie with it.

  Args:
    pairs: all pairs up to the limit.
    count: how many are wanted.
    limit: the largest distance of an edge, Å.
    mean: how many neighbors an atom has within it on average.
  """
  num_atoms = len(pairs.squared)
  radius = limit * (_MORE * count / max(mean, 1)) ** (1 / 3)
  while radius < limit:
    edges = neighbors.EdgeSet(*pairs.within(radius))
    starts = neighbors.row_starts(edges.receivers, num_atoms)
    if (starts[1:] - starts[:-1]).min() < count:
      radius *= _GROWTH
      continue
    longest = edges.distances.max()
    if longest < radius - nearest.TIE_TOLERANCE:
      return edges
    radius = longest + 2 * nearest.TIE_TOLERANCE
  return neighbors.EdgeSet(*pairs.within(limit))


def _most_senders(pairs: pairs_lib.Pairs, inside: np.ndarray) -> int:
  """The largest number of different atoms of which an atom has images inside."""
  starts = pairs.senders.searchsorted(np.arange(len(inside)))
  # Often one atom sees all.
  row = len(inside) // 2
  if np.logical_or.reduceat(inside[row], starts).all():
    return len(inside)
  present = np.logical_or.reduceat(inside, starts, axis=1)
  return int(np.count_nonzero(present, axis=1).max())
