"""Settings of the neighbor graphs of one dataset."""

import dataclasses

Symmetrize = str  # "published" or "union"


@dataclasses.dataclass(frozen=True)
class GraphConfig:
  """How the four edge sets of a structure are chosen.

  Attributes:
    cutoff: Å, shared by the four graphs.
    max_neighbors: cap of the main graph per receiving atom. The other caps follow
      as published: 20/30 of it for a2ee2a, 8/30 for qint, 1000/30 for a2a.
    max_neighbors_by_size: ((n, cap), ...): a structure of more than n atoms uses
      that cap; the largest n that applies wins.
    symmetrize: "published" keeps an edge s→t with s < t and adds its reverse, which
      depends on atom order where the cap truncates and is what the published
      weights expect; "union" keeps an edge if either direction was kept.
    qint_tags: quadruplet edges need at least one end with one of these tags.
  """

  cutoff: float = 12.0
  max_neighbors: int = 30
  max_neighbors_by_size: tuple[tuple[int, int], ...] = ()
  symmetrize: Symmetrize = "published"
  qint_tags: tuple[int, ...] = (1, 2)
