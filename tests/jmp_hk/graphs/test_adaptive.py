"""The cutoffs of single atoms solve their equation, uniquely and monotonically."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np

from jmp_hk.graphs import adaptive
from jmp_hk.graphs import neighbors
from jmp_hk.models.gemnet_oc import truncation

_CUTOFF = 6.0


def _edges(rows) -> neighbors.EdgeSet:
  """Edges into atoms with these distances, ascending or not."""
  counts = [len(row) for row in rows]
  receivers = np.repeat(np.arange(len(rows)), counts)
  return neighbors.EdgeSet(
    senders=np.zeros_like(receivers),
    receivers=receivers,
    offsets=np.zeros((len(receivers), 3), int),
    distances=np.array([d for row in rows for d in row], np.float64),
  )


def _solve(rows, limit: int) -> np.ndarray:
  """[rows] cutoffs."""
  return adaptive.adaptive_cutoffs(_edges(rows), len(rows), (limit,), _CUTOFF)[:, 0]


def _left_side(distances, r: float, limit: int) -> float:
  """Of the equation."""
  background = adaptive.total_weight(limit) * (r / _CUTOFF) ** 8
  return adaptive.switch(np.array(distances) / r).sum() + background


# Any distances, among them many that coincide and some at the cutoff itself.
_DISTANCES = st.lists(
  st.one_of(st.floats(0.3, _CUTOFF), st.sampled_from([1.0, 2.5, 2.5001, _CUTOFF])),
  max_size=60,
)


class SolverTest(parameterized.TestCase):
  @hypothesis.settings(max_examples=150, deadline=None)
  @hypothesis.given(
    rows=st.lists(_DISTANCES, min_size=1, max_size=5), limit=st.integers(1, 50)
  )
  def test_the_root_is_unique(self, rows, limit):
    for distances, r in zip(rows, _solve(rows, limit), strict=True):
      self.assertTrue(0 < r <= _CUTOFF)
      excess = _left_side(distances, r, limit) - adaptive.total_weight(limit)
      self.assertLess(abs(excess), 1e-12 * limit)
      # The left side rises strictly, so no other number solves the equation.
      around = [_left_side(distances, f * r, limit) for f in (0.5, 0.99, 1, 1.01, 1.5)]
      self.assertTrue((np.diff(around) > 0).all())

  @hypothesis.settings(max_examples=100, deadline=None)
  @hypothesis.given(
    distances=_DISTANCES,
    limit=st.integers(1, 50),
    other=st.floats(0.3, _CUTOFF),
    more=st.integers(1, 10),
  )
  def test_more_neighbors_shrink_it_and_a_larger_limit_widens_it(
    self, distances, limit, other, more
  ):
    alone, crowded = _solve([distances, [*distances, other]], limit)
    self.assertLessEqual(crowded, alone * (1 + 1e-12))
    wider = _solve([distances], limit + more)[0]
    self.assertGreaterEqual(wider, alone * (1 - 1e-12))

  @hypothesis.settings(max_examples=50, deadline=None)
  @hypothesis.given(distances=_DISTANCES, limit=st.integers(1, 50))
  def test_other_atoms_and_the_order_of_neighbors_do_not_matter(self, distances, limit):
    alone = _solve([distances], limit)[0]
    together = _solve([[1.0, 2.0], distances[::-1], []], limit)[1]
    self.assertLess(abs(together / alone - 1), 1e-13)

  def test_an_atom_without_neighbors_has_the_largest_cutoff(self):
    chex.assert_trees_all_close(
      _solve([[], [], [1.0]], 8)[:2], np.full(2, _CUTOFF), rtol=1e-14
    )
    self.assertEqual(len(_solve([], 8)), 0)

  def test_a_limit_of_zero_leaves_no_cutoff(self):
    chex.assert_trees_all_equal(_solve([[1.0, 2.0]], 0), np.zeros(1))

  def test_where_neighbors_are_many_about_as_many_as_wanted_are_held(self):
    # At a uniform density; their weights add up to two thirds of the number.
    rows = [np.cbrt(np.arange(n / 100, 400, 1.0)) for n in range(100)]
    r = _solve([_CUTOFF * row / row.max() for row in rows], 30)
    counts = [
      (row / row.max() < x / _CUTOFF).sum() for row, x in zip(rows, r, strict=True)
    ]
    self.assertAlmostEqual(float(np.mean(counts)), 30, delta=1.0)
    total = adaptive.switch(_CUTOFF * rows[0] / rows[0].max() / r[0]).sum()
    self.assertAlmostEqual(total, adaptive.total_weight(30), delta=0.1)

  def test_the_cutoff_is_smooth_where_a_neighbor_arrives(self):
    cluster = np.random.default_rng(1).uniform(1.5, 4.0, 40)
    steps = np.arange(5.0, 2.0, -1e-3)
    r = np.array([_solve([[*cluster, d]], 20)[0] for d in steps])
    self.assertGreater(np.ptp(r), 0.01)
    third = np.diff(r, 3) / 1e-9
    self.assertLess(np.abs(np.diff(third)).max(), 0.2 * np.abs(third).max())


class SwitchTest(parameterized.TestCase):
  def test_it_falls_from_one_to_zero_with_three_vanishing_derivatives(self):
    for end, value in ((adaptive.PLATEAU, 1.0), (1.0, 0.0)):
      self.assertEqual(adaptive.switch(np.array(end)), value)
      step = 1e-3
      inward = step if end < 1 else -step
      # The first term of the Taylor series has the power four.
      ratio = [abs(adaptive.switch(np.array(end + n * inward)) - value) for n in (1, 2)]
      self.assertAlmostEqual(ratio[1] / ratio[0], 16, delta=0.3)

  def test_slopes_are_derivatives(self):
    x = np.linspace(0.5, 1.1, 301)
    expected = (adaptive.switch(x + 1e-6) - adaptive.switch(x - 1e-6)) / 2e-6
    chex.assert_trees_all_close(adaptive.switch_slope(x), expected, atol=1e-8, rtol=0)

  @parameterized.parameters(np.float32, np.float64)
  def test_the_device_has_the_same_functions(self, dtype):
    x = np.linspace(0.0, 1.2, 241)
    with jax.enable_x64(dtype == np.float64):
      actual = (
        truncation.switch(x.astype(dtype)),
        truncation.switch_slope(x.astype(dtype)),
      )
      gradient = jax.vmap(jax.grad(truncation.switch))(x.astype(dtype))
    atol = 1e-13 if dtype == np.float64 else 2e-6
    chex.assert_trees_all_close(
      np.asarray(actual[0]), adaptive.switch(x), atol=atol, rtol=0
    )
    for slope in (actual[1], gradient):
      chex.assert_trees_all_close(
        np.asarray(slope), adaptive.switch_slope(x), atol=50 * atol, rtol=0
      )


if __name__ == "__main__":
  absltest.main()
