"""Angles of quadruplets, factorised about their middle edge.

Nothing is as long as the number of quadruplets: angles live in per-atom neighbor
tables, see `quadruplets`.
"""

import jax
import jax.numpy as jnp

from jmp_hk import pytrees
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import edges as edges_lib

Edges = edges_lib.Edges

# Sine of the angle below which three atoms count as collinear. A dihedral about a
# collinear axis is undefined; the published definition gives cos θ = 0 there in
# exact arithmetic. The threshold lies far above the rounding of float32 positions.
COLLINEAR_SINE = 1e-4

# Where truncation is smooth, so are dihedrals: cos kθ is multiplied by ρ^k of both
# sines, with ρ = 1 above this sine and ρ falling to zero with it below. Near the axis
# ρ exp(iα) is a polynomial of the components across it.
_SOFT_SINE = 0.5


@pytrees.dataclass
class QuadrupletGeometry:
  """Angles of quadruplets d→b→a←c, factorised about the edge b→a.

  Sizes: Q qint edges, N atoms, K main table width, W qint table width, L orders. Where
  truncation is smooth, ρ^k cos kα and ρ^k sin kα stand in place of cos kα and sin kα
  (see `_SOFT_SINE`), and no atom counts as collinear.

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


def compute_quadruplet_geometry(
  batch: batch_lib.Batch, main: Edges, qint: Edges, num_spherical: int
) -> QuadrupletGeometry:
  """Computes the angles of a batch's quadruplets.

  Args:
    batch: packed structures.
    main: geometry of its main edges.
    qint: geometry of its intermediate edges.
    num_spherical: Legendre orders.
  """
  cos_abd, input_weights, input_mask = _inputs(batch, main, qint, num_spherical)
  cos_cab, phases, collinear, output_mask = _outputs(batch, main, qint, num_spherical)
  return QuadrupletGeometry(
    cos_abd=cos_abd,
    input_weights=input_weights,
    input_mask=input_mask,
    cos_cab=cos_cab,
    output_phases=phases,
    collinear=collinear,
    output_mask=output_mask,
  )


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


def _soft_reciprocal(squares: jax.Array) -> jax.Array:
  """ρ(s) / s as a function of s²: 1 / s from `_SOFT_SINE` on, below a polynomial.

  The polynomial is a Taylor series in s², so three derivatives are continuous.
  """
  x = squares / _SOFT_SINE**2
  near = x < 1
  t = jnp.where(near, x - 1, 0)
  below = 1 + t * (-1 / 2 + t * (3 / 8 - t * 5 / 16))
  return jnp.where(near, below, jax.lax.rsqrt(jnp.where(near, 1, x))) / _SOFT_SINE


def _azimuth_powers(
  along_first: jax.Array,
  along_second: jax.Array,
  mask: jax.Array,
  order: int,
  soft: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Cos kα and sin kα for k = 0 … order - 1 of vectors in a plane.

  Args:
    along_first: [...] component along the plane's first axis.
    along_second: [...] component along the second.
    mask: [...] bool, where the vector counts.
    order: number of multiples.
    soft: bool that broadcasts to [...], where dihedrals are smooth; None for nowhere.

  Returns:
    Cosines and sines [order, ...], zero where masked or collinear, and the collinear
    indicator [...] (one for counted vectors shorter than `COLLINEAR_SINE`).
  """
  plane = jnp.stack([along_first, along_second], axis=-1)
  plane = jnp.where(mask[..., None], plane, 0)
  sine = edges_lib.safe_norm(plane, COLLINEAR_SINE)
  regular = sine > 0
  unit = plane / jnp.where(regular, sine, 1)[..., None]
  if soft is not None:
    smooth = plane * _soft_reciprocal((plane * plane).sum(-1))[..., None]
    unit = jnp.where(soft[..., None], smooth, unit)
    regular = jnp.where(soft, mask, regular)
  weight = regular.astype(plane.dtype)
  cos1, sin1 = unit[..., 0], unit[..., 1]
  cosines, sines = [weight], [jnp.zeros_like(weight)]
  for _ in range(1, order):
    c, s = cosines[-1], sines[-1]
    cosines.append((c * cos1 - s * sin1) * weight)
    sines.append((s * cos1 + c * sin1) * weight)
  collinear = (mask & ~regular).astype(plane.dtype)
  return jnp.stack(cosines), jnp.stack(sines), collinear


def _is_smooth(graphs) -> jax.Array:
  """[N] whether the truncation of an atom's structure is smooth."""
  return graphs.cutoffs[:, 0] > 0


def _inputs(batch: batch_lib.Batch, main: Edges, qint: Edges, order: int):
  """Angles of d→b about b→a, per qint edge and slot of b's table row."""
  graphs = batch.graphs
  table = graphs.main_table[graphs.qint.senders]
  first, second = _frame(qint.vectors)
  vectors = edges_lib.gather_rows(main.vectors, table)
  offsets = edges_lib.gather_rows(graphs.main.edges["cell_offsets"], table)
  returns_to_a = (
    edges_lib.gather_rows(graphs.main.senders, table) == graphs.qint.receivers[:, None]
  ) & ((offsets + graphs.qint.edges["cell_offsets"][:, None]) == 0).all(-1)
  mask = (table >= 0) & qint.mask[:, None] & ~returns_to_a
  cosines, sines, collinear = _azimuth_powers(
    jnp.einsum("qjx,qx->qj", vectors, first),
    jnp.einsum("qjx,qx->qj", vectors, second),
    mask,
    order,
    None if graphs.cutoffs is None else _is_smooth(graphs)[graphs.qint.receivers, None],
  )
  weights = jnp.concatenate([cosines, collinear[None], sines[1:]])
  cos_abd = edges_lib.masked_legendre(
    jnp.einsum("qjx,qx->qj", vectors, qint.vectors), mask, order, 1
  )
  return cos_abd, weights.transpose(1, 0, 2), mask


def _outputs(batch: batch_lib.Batch, main: Edges, qint: Edges, order: int):
  """Angles of c→a about b→a, per atom, slot of c→a and slot of b→a."""
  graphs = batch.graphs
  edges, axes = graphs.main_table, graphs.qint_table
  places = edges_lib.places(batch, graphs.main, edges)
  main_vectors = indexing.to_table(main.vectors, places)
  places = edges_lib.places(batch, graphs.qint, axes)
  axis_vectors = indexing.to_table(qint.vectors, places)
  first, second = _frame(axis_vectors)
  same = edges_lib.same_sources(graphs.main, edges, graphs.qint, axes)
  mask = (edges >= 0)[:, :, None] & (axes >= 0)[:, None, :] & ~same
  cosines, sines, collinear = _azimuth_powers(
    jnp.einsum("nix,nqx->niq", main_vectors, first),
    jnp.einsum("nix,nqx->niq", main_vectors, second),
    mask,
    order,
    None if graphs.cutoffs is None else _is_smooth(graphs)[:, None, None],
  )
  phases = jnp.stack([cosines, sines]).transpose(2, 1, 3, 0, 4)
  cos_cab = edges_lib.masked_legendre(
    jnp.einsum("nix,nqx->niq", main_vectors, axis_vectors), mask, order, -1
  )
  return cos_cab, phases, collinear, mask
