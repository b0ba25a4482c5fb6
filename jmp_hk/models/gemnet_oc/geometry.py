"""Distances, directions and angles of a packed batch, from positions and cell.

Everything here is differentiable in positions and cell and is computed in the
positions' precision. Nothing is as long as the number of triplets or quadruplets:
angles live in per-atom neighbor tables.
"""

import jax
import jax.numpy as jnp

from jmp_hk import pytrees
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import edges as edges_lib
from jmp_hk.models.gemnet_oc import quadruplet_geometry
from jmp_hk.models.gemnet_oc import truncation

Edges = edges_lib.Edges


@pytrees.dataclass
class Geometry:
  """All geometry that the model reads.

  Sizes as in `quadruplet_geometry`, and A the a2ee2a table width.

  Attributes:
    main: main edges.
    a2a: atom-to-atom edges.
    a2ee2a: atom-to-edge edges.
    qint: intermediate edges of quadruplets.
    edge_edge: [N, K, L, K] Y_l between out edge i and in edge j of an atom; zero for
      i = j and padding.
    edge_edge_mask: [N, K, K] bool.
    edge_atom: [N, K, L, A] Y_l between main edge i and a2ee2a edge o of an atom; zero
      where both come from the same image of the same atom, and for padding.
    edge_atom_mask: [N, K, A] bool.
    quadruplets: angles of quadruplets.
  """

  main: Edges
  a2a: Edges
  a2ee2a: Edges
  qint: Edges
  edge_edge: jax.Array
  edge_edge_mask: jax.Array
  edge_atom: jax.Array
  edge_atom_mask: jax.Array
  quadruplets: quadruplet_geometry.QuadrupletGeometry


def compute_geometry(batch: batch_lib.Batch, num_spherical: int) -> Geometry:
  """Computes all distances and angles of a batch.

  Args:
    batch: packed structures.
    num_spherical: Legendre orders.

  Returns:
    The geometry, in the precision of the positions.
  """
  graphs = batch.graphs
  main, a2a, a2ee2a, qint = (
    edges_lib.compute_edges(batch, graph)
    for graph in (
      graphs.main,
      graphs.a2a,
      graphs.a2ee2a,
      graphs.qint,
    )
  )
  main, a2a, a2ee2a, qint = truncation.weigh(batch, main, a2a, a2ee2a, qint)
  valid = graphs.main_table >= 0
  main_places = edges_lib.places(batch, graphs.main, graphs.main_table)
  vectors = indexing.to_table(main.vectors, main_places)
  width = graphs.main_table.shape[1]
  edge_edge_mask = valid[:, :, None] & valid[:, None, :] & ~jnp.eye(width, dtype=bool)
  edge_edge = edges_lib.masked_legendre(
    jnp.einsum("nix,njx->nij", vectors, vectors), edge_edge_mask, num_spherical, 2
  )
  edge_atom_mask = (
    valid[:, :, None]
    & (graphs.a2ee2a_table >= 0)[:, None, :]
    & ~edges_lib.same_sources(
      graphs.main,
      graphs.main_table,
      graphs.a2ee2a,
      graphs.a2ee2a_table,
    )
  )
  atom_places = edges_lib.places(batch, graphs.a2ee2a, graphs.a2ee2a_table)
  atom_vectors = indexing.to_table(a2ee2a.vectors, atom_places)
  edge_atom = edges_lib.masked_legendre(
    jnp.einsum("nix,nox->nio", vectors, atom_vectors),
    edge_atom_mask,
    num_spherical,
    2,
  )
  return Geometry(
    main=main,
    a2a=a2a,
    a2ee2a=a2ee2a,
    qint=qint,
    edge_edge=edge_edge,
    edge_edge_mask=edge_edge_mask,
    edge_atom=edge_atom,
    edge_atom_mask=edge_atom_mask,
    quadruplets=quadruplet_geometry.compute_quadruplet_geometry(
      batch, main, qint, num_spherical
    ),
  )
