"""The search and the documented order, against loops over all images."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
import numpy as np

from jmp_hk.graphs import nearest
from jmp_hk.graphs import neighbors
from jmp_hk.graphs import pairs
from tests.jmp_hk.graphs import helpers

_COMPARE_ALL, _CELLS = 10**9, 0  # Values of _MOST_PAIRS that decide for one search.


def _distances(edges: neighbors.EdgeSet) -> dict[tuple[int, ...], float]:
  """Distances by (sender, receiver, offset)."""
  rows = np.column_stack([edges.senders, edges.receivers, edges.offsets])
  keys = list(map(tuple, rows.tolist()))
  assert len(set(keys)) == len(keys), "an edge occurs twice"
  return dict(zip(keys, edges.distances.tolist(), strict=True))


def _lattice(seed: int, pbc, jitter: float):
  """Sites of a skewed grid, where most distances tie, and some of them left out."""
  rng = np.random.default_rng(seed)
  cell = np.diag(rng.choice([2.0, 3.0, 4.0], 3))
  cell[0, 1] = rng.choice([0.0, 1.0])
  sites = np.array(list(np.ndindex(2, 2, 2))) / 2
  sites = sites[rng.random(8) < 0.7]
  positions = (sites + rng.integers(-2, 3, sites.shape) * pbc) @ cell
  positions += rng.uniform(-jitter, jitter, positions.shape)
  return helpers.make_structure(positions, cell=cell, pbc=pbc)


def _reference_order(edges, home, count):
  """The rule of `nearest`, edge by edge: lists of edges by receiver."""
  result = {}
  for receiver in sorted({key[1] for key in edges}):
    mine = sorted((d, key) for key, d in edges.items() if key[1] == receiver)
    group, ordered = 0, []
    for i, (distance, (s, t, *offset)) in enumerate(mine):
      group += i > 0 and distance - mine[i - 1][0] >= nearest.TIE_TOLERANCE
      wrapped = np.array(offset) + home[s] - home[t]
      ordered.append((group, s, wrapped.tolist(), (s, t, *offset)))
    result[receiver] = [entry[-1] for entry in sorted(ordered)[:count]]
  return result


class FindNeighborsTest(parameterized.TestCase):
  @parameterized.parameters(_COMPARE_ALL, _CELLS)
  @hypothesis.settings(max_examples=40, deadline=None)
  @hypothesis.given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 9),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    unwrap=st.integers(0, 3),
    zero=st.booleans(),
  )
  def test_both_searches_equal_brute_force(
    self, most_pairs, seed, n, pbc, unwrap, zero
  ):
    structure = helpers.random_structure(seed, n, pbc, unwrap, zero)
    with mock.patch.object(pairs, "_MOST_PAIRS", most_pairs):
      edges = neighbors.find_neighbors(structure, 5.0)
    # Distances this close to the cutoff count as equal to it.
    tolerance = neighbors.CUTOFF_TOLERANCE * (1 if any(pbc) else -1)
    expected = helpers.brute_force_edges(structure, 5.0 + tolerance) if n else {}
    found = _distances(edges)
    self.assertEqual(set(found), set(expected))
    for key, distance in found.items():
      self.assertAlmostEqual(distance, expected[key], places=9)
    self.assertTrue((np.diff(edges.receivers) >= 0).all())

  def test_edges_of_small_structures_are_ordered_by_receiver_sender_and_offset(self):
    structure = helpers.random_structure(0, 8, (True, True, False), 2)
    edges = neighbors.find_neighbors(structure, 6.0)
    rows = np.column_stack([edges.receivers, edges.senders, edges.offsets]).tolist()
    self.assertNotEmpty(rows)
    self.assertEqual(rows, sorted(rows))

  @parameterized.parameters(200, 400, 1200)  # One block, several, and cell lists.
  def test_molecules_of_any_size_equal_the_matrix_of_distances(self, n):
    positions = np.random.default_rng(n).uniform(0, 3 * n ** (1 / 3), (n, 3))
    edges = neighbors.find_neighbors(helpers.make_structure(positions), 6.0)
    matrix = np.linalg.norm(positions[:, None] - positions, axis=-1)
    inside = (matrix < 6.0 - neighbors.CUTOFF_TOLERANCE) & (matrix > 0)
    receivers, senders = np.nonzero(inside)
    found = np.stack([edges.receivers, edges.senders], axis=1)
    order = np.lexsort((found[:, 1], found[:, 0]))
    np.testing.assert_array_equal(found[order], np.stack([receivers, senders], 1))
    np.testing.assert_allclose(edges.distances[order], matrix[inside], rtol=1e-12)

  @parameterized.parameters(_COMPARE_ALL, _CELLS)
  def test_atoms_on_top_of_each_other_are_no_neighbors(self, most_pairs):
    positions = [[0.0, 0, 0], [0.005, 0, 0], [1.0, 0, 0]]
    with mock.patch.object(pairs, "_MOST_PAIRS", most_pairs):
      edges = neighbors.find_neighbors(helpers.make_structure(positions), 3.0)
    found = set(zip(edges.senders.tolist(), edges.receivers.tolist(), strict=True))
    self.assertEqual(found, {(0, 2), (2, 0), (1, 2), (2, 1)})


class NearestTest(parameterized.TestCase):
  @parameterized.parameters(_COMPARE_ALL, _CELLS)
  @hypothesis.settings(max_examples=40, deadline=None)
  @hypothesis.given(
    seed=st.integers(0, 10**6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    # Equal distances, some that differ by about the tolerance, and no equal ones.
    jitter=st.sampled_from([0.0, 1e-5, 5e-5, 0.1]),
    count=st.integers(0, 40),
  )
  def test_order_ranks_and_cuts_follow_the_rule(
    self, most_pairs, seed, pbc, jitter, count
  ):
    structure = _lattice(seed, np.array(pbc), jitter)
    with mock.patch.object(pairs, "_MOST_PAIRS", most_pairs):
      edges = neighbors.find_neighbors(structure, 4.5)
    home = neighbors.home_cells(structure)
    result = nearest.nearest(edges, count, home)
    expected = _reference_order(_distances(edges), home, count)
    rows = list(_distances(result.edges))
    self.assertEqual(rows, [row for rows in expected.values() for row in rows])
    ranks = [rank for rows in expected.values() for rank in range(len(rows))]
    self.assertEqual(result.rank.tolist(), ranks)

  def test_codes_tell_offsets_apart_and_are_linear(self):
    structure = helpers.random_structure(1, 6, True, 3)
    home = neighbors.home_cells(structure)
    edges = neighbors.find_neighbors(structure, 7.0)
    near = nearest.nearest(edges, 20, home)
    wrapped = near.edges.offsets + home[near.edges.senders] - home[near.edges.receivers]
    difference = {}
    for i in range(0, len(wrapped), 5):
      for j in range(len(wrapped)):
        code = int(near.codes[i] - near.codes[j])
        self.assertLessEqual(abs(code), near.bound)
        offset = tuple((wrapped[i] - wrapped[j]).tolist())
        self.assertEqual(difference.setdefault(code, offset), offset)


if __name__ == "__main__":
  absltest.main()
