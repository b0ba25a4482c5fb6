"""Which candidates are edges while atoms move: the rules of `build` on the device."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jmp_hk.graphs import adaptive
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import nearest
from jmp_hk.models import indexing
from jmp_hk.models.gemnet_oc import truncation
from jmp_hk.models.gemnet_oc.graphs import choice

Arrays = Mapping[str, jax.Array]
Truncation = graph_config.Truncation

# Distances are sorted as integers of this many steps per Å, with their slot in the bits
# below: XLA sorts one integer many times faster than a number with an index.
_STEPS = 2**38
_MAX_ITERATIONS = 100


class Selection(NamedTuple):
  """Which candidates are edges.

  Attributes:
    main: [N, C] bool near pairs in the main graph, symmetric.
    a2ee2a: [N, C] bool near pairs in the a2ee2a graph.
    qint: [N, C] bool near pairs in the qint graph.
    a2a: [N, F] bool far pairs in the a2a graph.
    cutoffs: [N, 4] cutoffs of atoms, or None.
  """

  main: jax.Array
  a2ee2a: jax.Array
  qint: jax.Array
  a2a: jax.Array
  cutoffs: jax.Array | None = None


def select(
  arrays: Arrays,
  near: jax.Array,
  far: jax.Array,
  config: graph_config.GraphConfig,
  options: choice.GraphOptions,
) -> Selection:
  """Selects edges from candidates; traced, in float64.

  Args:
    arrays: what `graphs.moving.pack_candidates` packs.
    near: [N, C] distances of near candidates in Å, infinity where there are none.
    far: [N, F] likewise, of far ones.
    config: cutoff, number of neighbors, truncation.
    options: rule of symmetrisation.
  """
  if config.truncation is Truncation.SMOOTH:
    return _select_smoothly(arrays, near, far, config)
  if config.truncation is Truncation.SHELLS:
    return _select_shells(arrays, near, far, config)
  return _select_nearest(arrays, near, far, config, options)


def _mirror(arrays: Arrays, chosen: jax.Array) -> jax.Array:
  """[N, C] whether the forward one of a pair and its reverse is chosen."""
  other = indexing.take_rows(chosen.reshape(-1), arrays["reverse"])
  return jnp.where(arrays["is_forward"], chosen, other)


def _either(arrays: Arrays, chosen: jax.Array) -> jax.Array:
  """[N, C] whether a pair or its reverse is chosen."""
  return chosen | indexing.take_rows(chosen.reshape(-1), arrays["reverse"])


class _Order(NamedTuple):
  """Candidates of each atom by nearness, see `jmp_hk.graphs.nearest`.

  Attributes:
    slots: [N, C] int64 slots in the order of nearness; those without are last.
    steps: [N, C] int64 their distances in steps of 1 / `_STEPS` Å.
    count: [N, 1] number of neighbors.
  """

  slots: jax.Array
  steps: jax.Array
  count: jax.Array


def _sort(distances: jax.Array, highest: jax.Array) -> _Order:
  """Sorts candidates by distance; tied ones come in the order of their slots."""
  width = distances.shape[1]
  bits = max(width - 1, 1).bit_length()
  inside = distances <= highest[:, None]
  count = inside.sum(axis=1, keepdims=True)
  steps = (jnp.where(inside, distances, 0) * _STEPS).astype(jnp.int64)
  largest = jnp.int64(2 ** (63 - bits) - 1)
  steps = jnp.where(inside, steps, largest)
  slot = jax.lax.broadcasted_iota(jnp.int64, distances.shape, 1)
  low = jnp.int64(2**bits - 1)
  key = jnp.sort((steps << bits) | slot, axis=1)
  by_distance = key >> bits
  new = by_distance[:, 1:] - by_distance[:, :-1] >= round(
    nearest.TIE_TOLERANCE * _STEPS
  )
  group = jnp.cumsum(jnp.pad(new, ((0, 0), (1, 0))), axis=1, dtype=jnp.int64)
  # What is outside stays behind what is inside.
  group = jnp.where(slot < count, group, width)
  slots = jnp.sort((group << bits) | (key & low), axis=1) & low
  return _Order(slots, jnp.take_along_axis(steps, slots, axis=1), count)


def _put_back(order: _Order, values: jax.Array) -> jax.Array:
  """[N, C] small integers by rank, moved to the slots of the candidates."""
  key = (order.slots << 20) | values
  return jnp.sort(key, axis=1) & jnp.int64(2**20 - 1)


def _ranks(order: _Order) -> jax.Array:
  """[N, C] position of each candidate by nearness; large where it is no neighbor."""
  place = jax.lax.broadcasted_iota(jnp.int64, order.slots.shape, 1)
  return _put_back(order, jnp.where(place < order.count, place, 2**19))


def _whole_shells(order: _Order, limits: Sequence[jax.Array]) -> list[jax.Array]:
  """[N, C] bool for each limit, see `nearest.whole_shells`."""
  width = order.slots.shape[1]
  place = jax.lax.broadcasted_iota(jnp.int64, order.slots.shape, 1)
  gap = order.steps[:, 1:] - order.steps[:, :-1] >= round(
    nearest.SHELL_TOLERANCE * _STEPS
  )
  new = jnp.pad(gap, ((0, 0), (1, 0)), constant_values=True)
  new = new | (place >= order.count)
  first = jax.lax.cummax(jnp.where(new, place, 0), axis=1)
  begins = jnp.where(new, place, width)
  behind = jnp.pad(begins[:, 1:], ((0, 0), (0, 1)), constant_values=width)
  end = jnp.minimum(jax.lax.cummin(behind, axis=1, reverse=True), order.count)
  taken = jnp.zeros_like(place)
  for bit, limit in enumerate(limits):
    limit = limit[:, None]
    whole = (end <= limit) | (
      (first < limit) & ((first == 0) | (first + end <= 2 * limit))
    )
    taken = taken | ((whole & (place < order.count)).astype(jnp.int64) << bit)
  taken = _put_back(order, taken)
  return [(taken >> bit) & 1 == 1 for bit in range(len(limits))]


def _may_bind(far: jax.Array, config: graph_config.GraphConfig) -> bool:
  """Whether the limit of the a2a graph can leave pairs out."""
  sizes = [config.max_neighbors, *(limit for _, limit in config.max_neighbors_by_size)]
  return far.shape[1] > min(sizes) * 1000 // 30


def _select_nearest(
  arrays: Arrays,
  near: jax.Array,
  far: jax.Array,
  config: graph_config.GraphConfig,
  options: choice.GraphOptions,
) -> Selection:
  """See `choice._select_nearest`."""
  limits, highest = arrays["limits"], arrays["highest"]
  rank = _ranks(_sort(near, highest))
  chosen = [rank < limits[:, column, None] for column in (0, 2, 3)]
  a2a = far <= highest[:, None]
  if _may_bind(far, config):
    a2a = a2a & (_ranks(_sort(far, highest)) < limits[:, 1, None])
  symmetrize = _mirror if options.symmetrize == "published" else _either
  return Selection(
    main=symmetrize(arrays, chosen[0]),
    a2ee2a=chosen[1],
    qint=chosen[2] & (arrays["qint_column"] >= 0),
    a2a=a2a,
  )


def _select_shells(
  arrays: Arrays, near: jax.Array, far: jax.Array, config: graph_config.GraphConfig
) -> Selection:
  """See `choice._select_shells`."""
  limits, highest = arrays["limits"], arrays["highest"]
  order = _sort(near, highest)
  main, a2ee2a, qint = _whole_shells(order, [limits[:, k] for k in (0, 2, 3)])
  a2a = far <= highest[:, None]
  if _may_bind(far, config):
    [a2a] = _whole_shells(_sort(far, highest), [limits[:, 1]])
  return Selection(
    main=_either(arrays, main),
    a2ee2a=main & a2ee2a,
    qint=main & qint & (arrays["qint_column"] >= 0),
    a2a=a2a,
  )


def _select_smoothly(
  arrays: Arrays, near: jax.Array, far: jax.Array, config: graph_config.GraphConfig
) -> Selection:
  """See `choice._select_smoothly`."""
  largest = config.cutoff
  near = jnp.where(near <= arrays["highest"][:, None], near, jnp.inf)
  far = jnp.where(far <= arrays["highest"][:, None], far, jnp.inf)
  cutoffs = jnp.stack(
    [
      _solve(
        far if column == 1 else near,
        arrays["limits"][:, column].astype(near.dtype),
        arrays["backgrounds"][:, column],
        largest,
        arrays["guess"][:, column],
      )
      for column in range(4)
    ],
    axis=1,
  )
  ends = cutoffs[:, 0]
  within = jnp.maximum(ends[:, None], indexing.take_rows(ends, arrays["near_senders"]))
  return Selection(
    main=_mirror(arrays, near < within),
    a2ee2a=near < cutoffs[:, 2, None],
    qint=(near < cutoffs[:, 3, None]) & (arrays["qint_column"] >= 0),
    a2a=far < cutoffs[:, 1, None],
    cutoffs=cutoffs,
  )


def _solve(
  distances: jax.Array,
  limit: jax.Array,
  background: jax.Array,
  largest: float,
  guess: jax.Array,
) -> jax.Array:
  """[N] cutoffs, the roots that `adaptive.adaptive_cutoffs` finds on the host.

  Newton's method, with bisection where it leaves the bracket.

  Args:
    distances: [N, W] distances in Å, infinity where there are none.
    limit: [N] wanted numbers, zero for padding.
    background: [N] factors of `adaptive.background`.
    largest: largest cutoff in Å.
    guess: [N] where to start, Å.
  """
  power = adaptive.BACKGROUND_POWER
  used = limit > 0
  wanted = adaptive.MEAN_WEIGHT * limit
  finite = jnp.where(jnp.isfinite(distances), distances, 2 * largest)

  def step(state):
    r, low, high, _, count = state
    x = finite / r[:, None]
    grown = background * r**power
    excess = truncation.switch(x).sum(axis=1) + grown - wanted
    slope = (power * grown - (truncation.switch_slope(x) * x).sum(axis=1)) / r
    low = jnp.where(excess < 0, r, low)
    high = jnp.where(excess > 0, r, high)
    new = r - excess / jnp.where(used, slope, 1)
    done = (jnp.abs(excess) <= 1e-15 * limit) | (jnp.abs(new - r) <= 4e-16 * r)
    inside = (new > low) & (new < high)
    new = jnp.where(inside, new, (low + high) / 2)
    new = jnp.where(done | ~used, r, new)
    return new, low, high, (done | ~used).all(), count + 1

  top = jnp.full_like(guess, largest)
  start = jnp.clip(jnp.where(used, guess, largest), 1e-3 * largest, largest)
  state = (start, jnp.zeros_like(top), top, jnp.array(False), 0)
  more = lambda state: ~state[3] & (state[4] < _MAX_ITERATIONS)
  r = jax.lax.while_loop(more, step, state)[0]
  return jnp.where(used, r, 0)
