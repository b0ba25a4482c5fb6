"""Vectors, frames and azimuths: exact, and finite with their derivatives."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk.models.gemnet_oc import edges as edges_lib
from jmp_hk.models.gemnet_oc import geometry
from jmp_hk.models.gemnet_oc import quadruplet_geometry
from jmp_hk.runtime import compilation
from tests.jmp_hk.models.gemnet_oc import small_model

_azimuth_powers = jax.jit(quadruplet_geometry._azimuth_powers, static_argnums=3)
_frame = jax.jit(quadruplet_geometry._frame)

_directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(
  lambda v: np.linalg.norm(v) > 1e-3
)


def _unit(v) -> np.ndarray:
  return np.array(v) / np.linalg.norm(v)


class SafeNormTest(parameterized.TestCase):
  def test_norm_and_its_derivatives_are_zero_at_zero(self):
    x = jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(edges_lib.safe_norm(x), [5, 0])
    gradient = jax.grad(lambda x: edges_lib.safe_norm(x).sum())
    np.testing.assert_allclose(gradient(x), [[0.6, 0.8, 0], [0, 0, 0]], rtol=1e-6)
    curvature = jax.grad(lambda x: (gradient(x) ** 3).sum())(x)
    self.assertTrue(np.isfinite(curvature).all())

  def test_norms_up_to_the_floor_count_as_zero(self):
    x = jnp.array([[0.5, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(edges_lib.safe_norm(x, floor=1.0), [0, 2])
    gradient = jax.grad(lambda x: edges_lib.safe_norm(x, floor=1.0).sum())(x)
    np.testing.assert_allclose(gradient, [[0, 0], [1, 0]])


class FrameTest(parameterized.TestCase):
  @hypothesis.given(_directions)
  @hypothesis.settings(max_examples=60, deadline=None)
  def test_frame_is_orthonormal_for_any_axis(self, direction):
    with jax.enable_x64():
      axis = _unit(direction)
      first, second = _frame(jnp.asarray(axis))
      basis = np.stack([first, second, axis])
    chex.assert_trees_all_close(basis @ basis.T, np.eye(3), atol=1e-12, rtol=1e-7)
    self.assertAlmostEqual(np.linalg.det(basis), 1, places=10)

  @parameterized.parameters(
    ([0, 0, 1],),
    ([0, 0, -1],),
    ([1, 0, 0],),
    ([0, -1, 0],),
    ([0, 0, 0],),
    ([1e-20, 0, -1],),
    ([0.6, 0.8, -0.0],),
  )
  def test_frame_and_its_derivative_are_finite_at_the_poles(self, axis):
    axis = jnp.asarray(axis, jnp.float32)
    self.assertTrue(np.isfinite(jnp.stack(_frame(axis))).all())
    derivative = jax.jacobian(lambda axis: jnp.stack(_frame(axis)))(axis)
    self.assertTrue(np.isfinite(derivative).all())


class AzimuthTest(parameterized.TestCase):
  @hypothesis.given(st.floats(-np.pi, np.pi), st.floats(2e-4, 1.0))
  @hypothesis.settings(max_examples=30, deadline=None)
  def test_multiples_of_the_azimuth(self, angle, sine):
    with jax.enable_x64():
      cosines, sines, collinear = jax.device_get(
        _azimuth_powers(
          jnp.array([sine * np.cos(angle)]),
          jnp.array([sine * np.sin(angle)]),
          jnp.array([True]),
          7,
        )
      )
    k = np.arange(7)
    chex.assert_trees_all_close(cosines[:, 0], np.cos(k * angle), atol=1e-12, rtol=1e-7)
    chex.assert_trees_all_close(sines[:, 0], np.sin(k * angle), atol=1e-12, rtol=1e-7)
    self.assertEqual(collinear[0], 0)

  @parameterized.parameters(0.0, 1e-9, 0.99e-4)
  def test_collinear_vectors_are_flagged_and_have_no_phase(self, sine):
    along, across = jnp.array([sine, sine]), jnp.zeros(2)
    mask = jnp.array([True, False])
    cosines, sines, collinear = _azimuth_powers(along, across, mask, 4)
    chex.assert_trees_all_equal(cosines, 0)
    chex.assert_trees_all_equal(sines, 0)
    np.testing.assert_array_equal(collinear, [1, 0])  # masked ones do not count
    gradient = jax.grad(
      lambda x: sum(y.sum() for y in _azimuth_powers(x, across, mask, 4))
    )(along)
    chex.assert_trees_all_equal(gradient, 0)


class EdgesTest(parameterized.TestCase):
  def test_vectors_point_from_the_senders_image_to_the_receiver(self):
    crystal = small_model.crystal()
    batch = small_model.make_batch([crystal])
    with jax.enable_x64():
      edges = jax.device_get(jax.jit(edges_lib.compute_edges)(batch, batch.graphs.main))
    mask = np.asarray(edges.mask)
    senders, receivers = (
      batch.graphs.main.senders[mask],
      batch.graphs.main.receivers[mask],
    )
    shift = batch.graphs.main.edges["cell_offsets"][mask] @ crystal.cell
    expected = crystal.positions[receivers] - crystal.positions[senders] - shift
    distances = np.linalg.norm(expected, axis=-1)
    chex.assert_trees_all_close(edges.distances[mask], distances, rtol=1e-12)
    chex.assert_trees_all_close(
      edges.vectors[mask], expected / distances[:, None], atol=1e-12, rtol=1e-7
    )
    self.assertLess(distances.max(), small_model.UNCAPPED.config.cutoff)
    chex.assert_trees_all_equal(edges.distances[~mask], 0)
    chex.assert_trees_all_equal(edges.vectors[~mask], 0)

  def test_reverse_edges_have_opposite_vectors(self):
    batch = small_model.make_batch([small_model.crystal()], small_model.PUBLISHED)
    with jax.enable_x64():
      edges = jax.device_get(jax.jit(edges_lib.compute_edges)(batch, batch.graphs.main))
    chex.assert_trees_all_close(
      edges.vectors[batch.graphs.reverse_edge],
      -np.asarray(edges.vectors),
      atol=1e-12,
      rtol=1e-7,
    )

  def test_an_edge_does_not_interact_with_itself_but_with_images_of_its_source(self):
    batch = small_model.make_batch([small_model.crystal()])
    with jax.enable_x64():
      compute = jax.jit(geometry.compute_geometry, static_argnums=1)
      result = jax.device_get(compute(batch, 3))
    valid = batch.graphs.main_table >= 0
    pairs = valid.sum(1)
    chex.assert_trees_all_equal(result.edge_edge_mask.sum((1, 2)), pairs * (pairs - 1))
    # Here main and a2ee2a edges are the same, so the same count of pairs is left out.
    chex.assert_trees_all_equal(result.edge_atom_mask.sum((1, 2)), pairs * (pairs - 1))


class AlignTablesTest(parameterized.TestCase):
  def test_tables_of_main_edges_are_widened_for_narrow_products_on_a_gpu(self):
    batch = small_model.make_batch([small_model.molecule()])
    self.assertIs(edges_lib.align_tables(batch, jnp.dtype("bfloat16")), batch)
    with compilation.trace_for("gpu"):
      self.assertIs(edges_lib.align_tables(batch, jnp.dtype("float32")), batch)
      aligned = edges_lib.align_tables(batch, jnp.dtype("bfloat16"))
    for name in ("main_table", "quad_exclusion"):
      table, wider = getattr(batch.graphs, name), getattr(aligned.graphs, name)
      self.assertEqual((table.shape[1], wider.shape[1]), (18, 24))
      np.testing.assert_array_equal(wider[:, :18], table)
      np.testing.assert_array_equal(wider[:, 18:], -1)
    again = aligned.replace(graphs=batch.graphs)
    chex.assert_trees_all_equal(again, batch)


if __name__ == "__main__":
  absltest.main()
