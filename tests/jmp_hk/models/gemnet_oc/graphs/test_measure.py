"""Counted sizes are those of the graphs that are built."""

import dataclasses
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
import numpy as np

from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import pairs
from jmp_hk.models.gemnet_oc.graphs import builder as builder_lib
from jmp_hk.models.gemnet_oc.graphs import choice
from jmp_hk.models.gemnet_oc.graphs import measure
from tests.jmp_hk.graphs import helpers

_BUILDER = builder_lib.GemNetOCGraphBuilder()


def _lattice(size: int, spacing: float, jitter: float, seed: int):
  """A cube of atoms, periodic along two directions: many are equally far apart."""
  rng = np.random.default_rng(seed)
  positions = np.indices((size, size, size)).reshape(3, -1).T * spacing
  return dataclasses.replace(
    helpers.make_structure(
      positions + rng.uniform(-jitter, jitter, positions.shape),
      cell=np.diag([size * spacing] * 2 + [30.0]),
      pbc=[True, True, False],
    ),
    tags=rng.integers(0, 3, len(positions)),
  )


class MeasureTest(parameterized.TestCase):
  def assert_counts(self, structure, config, is_counted=None):
    built = _BUILDER.sizes(_BUILDER.build(structure, config))
    self.assertEqual(_BUILDER.measure(structure, config), built)
    counted = measure.measure(structure, config, _BUILDER.options)
    if is_counted is not None:
      self.assertEqual(counted is not None, is_counted)

  @hypothesis.settings(max_examples=60, deadline=None)
  @hypothesis.given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 25),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    unwrap=st.integers(0, 2),
    cutoff=st.sampled_from([3.0, 6.0, 9.0]),
    limit=st.integers(1, 40),
  )
  def test_any_structure(self, seed, n, pbc, unwrap, cutoff, limit):
    structure = helpers.random_structure(seed, n, pbc, unwrap)
    structure = dataclasses.replace(
      structure, tags=np.random.default_rng(seed).integers(0, 3, n)
    )
    self.assert_counts(structure, graph_config.GraphConfig(cutoff, limit))

  @parameterized.product(
    spacing=[1.9, 2.7], jitter=[0.0, 3e-5, 1e-3], limit=[5, 12, 30], size=[2, 3]
  )
  def test_lattices_whose_neighbors_tie(self, spacing, jitter, limit, size):
    structure = _lattice(size, spacing, jitter, seed=limit)
    config = graph_config.GraphConfig(7.0, limit)
    # With a limit of five even the atom-to-atom graph may be cut.
    self.assert_counts(structure, config, is_counted=True if limit > 5 else None)

  @parameterized.parameters(0.2, 0.5, 5.0)
  def test_the_first_radius_may_be_too_small_or_too_large(self, more):
    with mock.patch.object(measure, "_MORE", more):
      for seed in range(5):
        structure = helpers.random_structure(seed, 12, True)
        self.assert_counts(structure, graph_config.GraphConfig(5.0, 20), True)

  def test_what_cannot_be_counted_is_built(self):
    structure = helpers.random_structure(1, 12, True)
    smooth = graph_config.GraphConfig(
      6.0, 20, truncation=graph_config.Truncation.SMOOTH
    )
    self.assert_counts(structure, smooth, is_counted=False)
    union = builder_lib.GemNetOCGraphBuilder(
      options=choice.GraphOptions(symmetrize="union")
    )
    config = graph_config.GraphConfig(6.0, 20)
    self.assertEqual(
      union.measure(structure, config), union.sizes(union.build(structure, config))
    )
    with mock.patch.object(pairs, "_MOST_PAIRS", 0):
      self.assert_counts(structure, config, is_counted=False)


if __name__ == "__main__":
  absltest.main()
