"""The factorised quadruplet sum equals the sum over an explicit list."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.graphs import config as graph_config
from jmp_hk.models.gemnet_oc import bases
from jmp_hk.models.gemnet_oc import geometry as geometry_lib
from jmp_hk.models.gemnet_oc import quadruplets
from jmp_hk.models.gemnet_oc import shared_bases
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.models.gemnet_oc import explicit_quadruplets
from tests.jmp_hk.models.gemnet_oc import small_model

_ORDER = 5
_BUDGET = gemnet_graphs.Budget(
  num_graphs=3,
  num_atoms=10,
  num_main=120,
  num_a2a=480,
  num_a2ee2a=80,
  num_qint=40,
  main_width=24,
  a2a_width=6,
  a2ee2a_width=10,
  qint_width=5,
)
_CONFIG = graph_config.GraphConfig(cutoff=4.0, max_neighbors=11)
_SETTINGS = {
  "published": small_model.GraphSettings(_CONFIG),
  "union": small_model.GraphSettings(_CONFIG, gemnet_graphs.UNION),
}


@jax.jit
def _factorised(batch, messages):
  """[E, L (l2), L (l1), c] and the [Q, K] multiplicity of messages."""
  geometry = geometry_lib.compute_geometry(batch, _ORDER)
  empty = {
    field: jnp.zeros(0) for field in shared_bases.SharedBases.__dataclass_fields__
  }
  output = shared_bases.quad_output_weights(geometry.quadruplets)
  basis = shared_bases.SharedBases(**empty | {"quad_output": output})
  masked = jnp.where(geometry.quadruplets.input_mask[..., None], messages, 0)
  sums = quadruplets._sum_quadruplets(masked, batch, geometry, basis)
  sums = sums.reshape(-1, _ORDER + 1, _ORDER, messages.shape[-1])
  # The last are the terms with cos θ = 0.
  to_cosines = bases.legendre_to_cosines(_ORDER)
  perpendicular = to_cosines @ shared_bases.perpendicular_cosines(_ORDER)
  to_cosines = jnp.asarray(np.column_stack([to_cosines, perpendicular]))
  return (
    jnp.einsum("pk,eklc->eplc", to_cosines, sums),
    quadruplets._multiplicity(batch, geometry),
  )


def _lattice_structure(seed: int, n: int, pbc: bool):
  """Atoms on points of a cubic grid: many collinear and degenerate quadruplets."""
  rng = np.random.default_rng(seed)
  points = rng.permutation(np.array(list(np.ndindex(3, 3, 3))))[:n]
  return helpers.make_structure(
    1.4 * points,
    numbers=rng.integers(1, 20, n).astype(np.int32),
    cell=4.2 * np.eye(3) if pbc else None,
    pbc=pbc,
  )


class QuadrupletsTest(parameterized.TestCase):
  def _check(self, structures, rule: str, least: int = 0):
    batch = small_model.make_batch(structures, _SETTINGS[rule], budget=_BUDGET)
    shape = (_BUDGET.num_qint, _BUDGET.main_width, 2)
    messages = np.random.default_rng(0).standard_normal(shape)
    with jax.enable_x64():
      actual, multiplicity = jax.device_get(_factorised(batch, messages))
    expected, count = explicit_quadruplets.sums(batch, messages, _ORDER)
    self.assertGreaterEqual(count, least)
    scale = max(np.abs(expected).max(), 1.0)
    chex.assert_trees_all_close(actual, expected, atol=1e-9 * scale, rtol=1e-7)
    # Fitting weighs each message by the number of its quadruplets.
    listed = np.zeros_like(multiplicity)
    for _, q, f in explicit_quadruplets.quadruplets(batch):
      listed[q, batch.graphs.main_slot[f]] += 1
    chex.assert_trees_all_equal(multiplicity, listed)

  @hypothesis.given(
    st.integers(0, 2**20),
    st.integers(1, 4),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.sampled_from(sorted(_SETTINGS)),
  )
  @hypothesis.settings(max_examples=25, deadline=None)
  def test_random_structures(self, seed, n, pbc, rule):
    # Any periodicity, atoms outside the cell, graphs that caps truncate.
    self._check([helpers.random_structure(seed, n, pbc, unwrap=2)], rule)

  @hypothesis.given(
    st.integers(0, 2**20),
    st.integers(2, 4),
    st.booleans(),
    st.sampled_from(sorted(_SETTINGS)),
  )
  @hypothesis.settings(max_examples=25, deadline=None)
  def test_collinear_atoms(self, seed, n, pbc, rule):
    # An atom on the axis of a dihedral counts with a right angle.
    self._check([_lattice_structure(seed, n, pbc)], rule)

  @hypothesis.given(st.lists(st.floats(0.3e-4, 4e-4), min_size=4, max_size=4))
  @hypothesis.settings(max_examples=15, deadline=None)
  def test_atoms_near_the_threshold_of_collinearity(self, bends):
    # An atom may be collinear seen from one end of an axis and not from the other.
    heights = np.array([0.0, 1.0, 2.1, 3.3])
    chain = np.column_stack([bends, np.roll(bends, 1), heights])
    self._check([helpers.make_structure(chain)], "published", least=1)

  def test_several_structures(self):
    structures = [
      _lattice_structure(1, 4, False),
      helpers.random_structure(5, 3, True, unwrap=1),
    ]
    self._check(structures, "published", least=100)


if __name__ == "__main__":
  absltest.main()
