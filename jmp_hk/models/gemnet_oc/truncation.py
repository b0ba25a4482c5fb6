"""Weights of edges that vanish smoothly at the adaptive cutoffs of atoms.

The host solves for the cutoffs (`jmp_hk.graphs.adaptive`). Here their derivatives come
from the equation that they solve, so energies can be differentiated as often as wanted.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import jraph

from jmp_hk.graphs import adaptive
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import layout
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import edges as edges_lib

Edges = edges_lib.Edges

_WIDTH = 1 - adaptive.PLATEAU
_POWER = adaptive.BACKGROUND_POWER


def switch(x: jax.Array) -> jax.Array:
  """The weight of a neighbor at a distance of x cutoffs, see `adaptive.switch`."""
  u = jnp.clip((1 - x) / _WIDTH, 0, 1)
  far = u < 0.5
  # Near one the polynomial would cancel; its complement does not.
  small = jnp.where(far, u, 1 - u)
  rise = small**4 * (35 + small * (-84 + small * (70 - 20 * small)))
  return jnp.where(far, rise, 1 - rise)


def switch_slope(x: jax.Array) -> jax.Array:
  """The derivative of `switch`."""
  u = jnp.clip((1 - x) / _WIDTH, 0, 1)
  return -140 / _WIDTH * (u * (1 - u)) ** 3


@jax.custom_jvp
def implicit_cutoffs(
  distances: jax.Array,
  mask: jax.Array,
  receivers: jax.Array,
  backgrounds: jax.Array,
  solution: jax.Array,
) -> jax.Array:
  """The solution that the host found, with derivatives by the distances.

  Differentiating Σ_j g(d_j / r) + b r^8 = const gives

      dr = Σ_j g'(d_j / r) dd_j / (Σ_j g'(d_j / r) d_j / r - 8 b r^8).

  Args:
    distances: [e] Å; the edges hold all pairs with d < r of every atom.
    mask: [e] bool, real edges.
    receivers: [e] int32, ascending.
    backgrounds: [N, k] factors b.
    solution: [N, k] cutoffs r in Å, zero for atoms without.

  Returns:
    [N, k], the solution.
  """
  del distances, mask, receivers, backgrounds
  return solution


@implicit_cutoffs.defjvp
def _implicit_cutoffs_jvp(primals, tangents):
  distances, mask, receivers, backgrounds, _ = primals
  change = tangents[0]  # All else is constant.
  solution = implicit_cutoffs(*primals)
  used = solution > 0
  cutoffs = jnp.where(used, solution, 1)
  of_edges = indexing.take_rows(cutoffs, receivers, indices_are_sorted=True)
  x = distances[:, None] / of_edges
  slope = jnp.where(mask[:, None], switch_slope(x), 0)
  sum_up = functools.partial(
    jraph.segment_sum,
    segment_ids=receivers,
    num_segments=len(cutoffs),
    indices_are_sorted=True,
  )
  # Two sums, since one alone is linear in the change.
  by_distance = sum_up(slope * change[:, None])
  by_cutoff = sum_up(slope * x) - _POWER * backgrounds * cutoffs**_POWER
  used &= by_cutoff < 0
  change = jnp.where(used, by_distance / jnp.where(used, by_cutoff, 1), 0)
  return solution, change


def _one_sided(
  edges: Edges, cutoffs: jax.Array, atoms: jax.Array, *, indices_are_sorted=False
) -> jax.Array:
  """g(d / r) with the cutoffs of one end of each edge; one where it has none."""
  r = indexing.take_rows(cutoffs, atoms, indices_are_sorted=indices_are_sorted)
  used = r > 0
  return jnp.where(used, switch(edges.distances / jnp.where(used, r, 1)), 1)


def weigh(
  batch: batch_lib.Batch, main: Edges, a2a: Edges, a2ee2a: Edges, qint: Edges
) -> tuple[Edges, Edges, Edges, Edges]:
  """Gives edges their weights, where truncation is smooth.

  A main edge has the weight 1 - (1 - g(d / r_s)) (1 - g(d / r_t)) with the cutoffs of
  its two ends, so it and its reverse weigh the same and it vanishes where it is beyond
  both. Edges of the directed graphs have g(d / r_t) of the atom that they point to.

  Args:
    batch: packed structures.
    main: the main edges.
    a2a: the atom-to-atom edges.
    a2ee2a: the atom-to-edge edges.
    qint: the intermediate edges of quadruplets.

  Returns:
    The four edge sets, with weights if the batch has cutoffs.
  """
  graphs = batch.graphs
  if graphs.cutoffs is None:
    return main, a2a, a2ee2a, qint
  chex.assert_shape([graphs.cutoffs, graphs.backgrounds], (*batch.atom_mask.shape, 4))
  solution = jax.lax.stop_gradient(graphs.cutoffs)

  def solve(edges, graph, columns):
    return implicit_cutoffs(
      edges.distances,
      edges.mask,
      layout.ends(graph).receivers,
      graphs.backgrounds[:, columns],
      solution[:, columns],
    )

  # All neighbors within the cutoffs of the three smaller graphs are main edges.
  of_main = solve(main, graphs.main, jnp.array([0, 2, 3]))
  of_a2a = solve(a2a, graphs.a2a, jnp.array([1]))
  senders, receivers, _ = layout.ends(graphs.main)
  source = _one_sided(main, of_main[:, 0], senders)
  target = _one_sided(main, of_main[:, 0], receivers, indices_are_sorted=True)

  def directed(edges, graph, cutoffs):
    weights = _one_sided(
      edges, cutoffs, layout.ends(graph).receivers, indices_are_sorted=True
    )
    return dataclasses.replace(edges, weights=weights)

  return (
    dataclasses.replace(main, weights=source + target - source * target),
    directed(a2a, graphs.a2a, of_a2a[:, 0]),
    directed(a2ee2a, graphs.a2ee2a, of_main[:, 1]),
    directed(qint, graphs.qint, of_main[:, 2]),
  )
