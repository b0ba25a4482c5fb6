"""Distances, directions and angles of a packed batch, from positions and cell.

Everything here is differentiable in positions and cell and is computed in the
positions' precision. Nothing is as long as the number of triplets or quadruplets:
angles live in per-atom neighbour tables.
"""

import chex
import jax
import jax.numpy as jnp
import jraph

from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models.gemnet_oc import bases

# Sine of the angle below which three atoms count as collinear. A dihedral about a
# collinear axis is undefined; the published definition gives cos θ = 0 there in
# exact arithmetic. The threshold lies far above the rounding of float32 positions.
COLLINEAR_SINE = 1e-4


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Edges:
  """Geometry of one edge set.

  Attributes:
    distances: [e] Å, zero for padding.
    vectors: [e, 3] unit vectors from the sender's image to the receiver, zero for
      padding.
    mask: [e] bool, true for real edges.
  """

  distances: jax.Array
  vectors: jax.Array
  mask: jax.Array


@chex.dataclass(frozen=True, mappable_dataclass=False)
class QuadrupletGeometry:
  """Angles of quadruplets d→b→a←c, factorised about the edge b→a.

  Sizes: Q qint edges, N atoms, K main table width, W qint table width, L orders.

  Attributes:
    cos_abd: [Q, L, K] Y_l of V_ba·V_db for every main edge d→b into b.
    input_weights: [Q, 2L, K]: cos kα_d for k = 0 … L-1, then an indicator of
      collinear d, then sin kα_d for k = 1 … L-1; zero where d is a or absent.
    input_mask: [Q, K] bool, where d counts.
    cos_cab: [N, K, W, L] Y_l of V_ca·V_ba for main edge c→a and qint edge b→a; zero
      where b is c or absent.
    output_phases: [N, L, K, 2, W] cos kα_c and sin kα_c, zero for collinear c.
    collinear: [N, K, W] one where c, a, b are collinear, else zero.
    output_mask: [N, K, W] bool, where the pair (c, b) counts.
  """

  cos_abd: jax.Array
  input_weights: jax.Array
  input_mask: jax.Array
  cos_cab: jax.Array
  output_phases: jax.Array
  collinear: jax.Array
  output_mask: jax.Array


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Geometry:
  """All geometry that the model reads.

  Sizes as in `QuadrupletGeometry`, and A the a2ee2a table width.

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
  quadruplets: QuadrupletGeometry


def safe_norm(x: jax.Array, floor: float = 0.0) -> jax.Array:
  """Euclidean norm over the last axis with a zero gradient at (or below) `floor`."""
  squares = (x * x).sum(-1)
  positive = squares > floor**2
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)


def gather_rows(x: jax.Array, index: jax.Array) -> jax.Array:
  """Rows of `x` by index, where -1 ("nothing there") gives row zero.

  The caller masks: table entries without an edge carry zero weights.
  """
  return x[jnp.maximum(index, 0)]


def compute_edges(batch: batch_lib.Batch, graph: jraph.GraphsTuple) -> Edges:
  """Distances and unit vectors of one edge set."""
  cell = batch.cell[batch.node_graph[graph.receivers]]
  offsets = graph.edges["cell_offsets"].astype(cell.dtype)
  shift = jnp.einsum("ei,eij->ej", offsets, cell)
  mask = batch.atom_mask[graph.receivers]
  vectors = (
      batch.positions[graph.receivers] - batch.positions[graph.senders] - shift
  )
  vectors = jnp.where(mask[:, None], vectors, 0)
  distances = safe_norm(vectors)
  nonzero = distances > 0
  vectors = vectors / jnp.where(nonzero, distances, 1)[:, None]
  return Edges(distances=distances, vectors=vectors, mask=mask)


def _same_source(batch: batch_lib.Batch) -> jax.Array:
  """[N, K, A] bool: main edge i and a2ee2a edge o start at the same atom image."""
  def sources(graph, table):
    senders = gather_rows(graph.senders, table)
    offsets = gather_rows(graph.edges["cell_offsets"], table)
    return senders, offsets

  main_senders, main_offsets = sources(batch.main, batch.main_table)
  atom_senders, atom_offsets = sources(batch.a2ee2a, batch.a2ee2a_table)
  return (main_senders[:, :, None] == atom_senders[:, None, :]) & (
      main_offsets[:, :, None] == atom_offsets[:, None, :]
  ).all(-1)


def _masked_legendre(
    cosines: jax.Array, mask: jax.Array, num_spherical: int, axis: int
) -> jax.Array:
  values = bases.legendre(
      jnp.where(mask, bases.clip_cosine(cosines), 0), num_spherical, axis
  )
  return jnp.where(jnp.expand_dims(mask, axis), values, 0)


def _frame(axis: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Two unit vectors that complete `axis` to an orthonormal frame.

  No division by a small number occurs; the frame jumps where the third component
  changes sign, which no result depends on (Duff et al., JCGT 6(1), 2017).

  Args:
    axis: [..., 3] unit vectors; zero vectors give finite results.

  Returns:
    Two arrays [..., 3].
  """
  x, y, z = axis[..., 0], axis[..., 1], axis[..., 2]
  sign = jnp.where(z >= 0, 1.0, -1.0).astype(axis.dtype)
  a = -1 / (sign + z)
  b = x * y * a
  first = jnp.stack([1 + sign * x * x * a, sign * b, -sign * x], axis=-1)
  second = jnp.stack([b, sign + y * y * a, -y], axis=-1)
  return first, second


def _azimuth_powers(
    along_first: jax.Array, along_second: jax.Array, mask: jax.Array, order: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """cos kα and sin kα for k = 0 … order - 1 of vectors in a plane.

  Args:
    along_first: [...] component along the plane's first axis.
    along_second: [...] component along the second.
    mask: [...] bool, where the vector counts.
    order: number of multiples.

  Returns:
    Cosines and sines [order, ...], zero where masked or collinear, and the collinear
    indicator [...] (one for counted vectors shorter than `COLLINEAR_SINE`).
  """
  plane = jnp.stack([along_first, along_second], axis=-1)
  plane = jnp.where(mask[..., None], plane, 0)
  sine = safe_norm(plane, COLLINEAR_SINE)
  regular = sine > 0
  unit = plane / jnp.where(regular, sine, 1)[..., None]
  weight = regular.astype(plane.dtype)
  cos1, sin1 = unit[..., 0], unit[..., 1]
  cosines, sines = [weight], [jnp.zeros_like(weight)]
  for _ in range(1, order):
    c, s = cosines[-1], sines[-1]
    cosines.append((c * cos1 - s * sin1) * weight)
    sines.append((s * cos1 + c * sin1) * weight)
  collinear = (mask & ~regular).astype(plane.dtype)
  return jnp.stack(cosines), jnp.stack(sines), collinear


def _quadruplet_inputs(batch: batch_lib.Batch, main: Edges, qint: Edges, order: int):
  """Angles of d→b about b→a, per qint edge and slot of b's table row."""
  table = batch.main_table[batch.qint.senders]
  first, second = _frame(qint.vectors)
  vectors = gather_rows(main.vectors, table)
  offsets = gather_rows(batch.main.edges["cell_offsets"], table)
  returns_to_a = (
      gather_rows(batch.main.senders, table) == batch.qint.receivers[:, None]
  ) & ((offsets + batch.qint.edges["cell_offsets"][:, None]) == 0).all(-1)
  mask = (table >= 0) & qint.mask[:, None] & ~returns_to_a
  cosines, sines, collinear = _azimuth_powers(
      jnp.einsum("qjx,qx->qj", vectors, first),
      jnp.einsum("qjx,qx->qj", vectors, second),
      mask,
      order,
  )
  weights = jnp.concatenate([cosines, collinear[None], sines[1:]])
  cos_abd = _masked_legendre(
      jnp.einsum("qjx,qx->qj", vectors, qint.vectors), mask, order, 1
  )
  return cos_abd, weights.transpose(1, 0, 2), mask


def _quadruplet_outputs(batch: batch_lib.Batch, main: Edges, qint: Edges, order: int):
  """Angles of c→a about b→a, per atom, slot of c→a and slot of b→a."""
  edges, axes = batch.main_table, batch.qint_table
  main_vectors = gather_rows(main.vectors, edges)
  axis_vectors = gather_rows(qint.vectors, axes)
  first, second = _frame(axis_vectors)

  def sources(graph, table):
    return (
        gather_rows(graph.senders, table),
        gather_rows(graph.edges["cell_offsets"], table),
    )

  c, c_offsets = sources(batch.main, edges)
  b, b_offsets = sources(batch.qint, axes)
  same = (c[:, :, None] == b[:, None, :]) & (
      c_offsets[:, :, None] == b_offsets[:, None, :]
  ).all(-1)
  mask = (edges >= 0)[:, :, None] & (axes >= 0)[:, None, :] & ~same
  cosines, sines, collinear = _azimuth_powers(
      jnp.einsum("nix,nqx->niq", main_vectors, first),
      jnp.einsum("nix,nqx->niq", main_vectors, second),
      mask,
      order,
  )
  phases = jnp.stack([cosines, sines]).transpose(2, 1, 3, 0, 4)
  cos_cab = _masked_legendre(
      jnp.einsum("nix,nqx->niq", main_vectors, axis_vectors), mask, order, -1
  )
  return cos_cab, phases, collinear, mask


def compute_geometry(batch: batch_lib.Batch, num_spherical: int) -> Geometry:
  """Computes all distances and angles of a batch.

  Args:
    batch: packed structures.
    num_spherical: Legendre orders.

  Returns:
    The geometry, in the precision of the positions.
  """
  main, a2a, a2ee2a, qint = (
      compute_edges(batch, graph)
      for graph in (batch.main, batch.a2a, batch.a2ee2a, batch.qint)
  )
  valid = batch.main_table >= 0
  vectors = gather_rows(main.vectors, batch.main_table)
  width = batch.main_table.shape[1]
  edge_edge_mask = (
      valid[:, :, None] & valid[:, None, :] & ~jnp.eye(width, dtype=bool)
  )
  edge_edge = _masked_legendre(
      jnp.einsum("nix,njx->nij", vectors, vectors), edge_edge_mask, num_spherical, 2
  )
  edge_atom_mask = (
      valid[:, :, None]
      & (batch.a2ee2a_table >= 0)[:, None, :]
      & ~_same_source(batch)
  )
  atom_vectors = gather_rows(a2ee2a.vectors, batch.a2ee2a_table)
  edge_atom = _masked_legendre(
      jnp.einsum("nix,nox->nio", vectors, atom_vectors),
      edge_atom_mask,
      num_spherical,
      2,
  )
  cos_abd, input_weights, input_mask = _quadruplet_inputs(
      batch, main, qint, num_spherical
  )
  cos_cab, phases, collinear, output_mask = _quadruplet_outputs(
      batch, main, qint, num_spherical
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
      quadruplets=QuadrupletGeometry(
          cos_abd=cos_abd,
          input_weights=input_weights,
          input_mask=input_mask,
          cos_cab=cos_cab,
          output_phases=phases,
          collinear=collinear,
          output_mask=output_mask,
      ),
  )
