"""The spatial extent is measured from the centre of mass."""

from absl.testing import absltest
import ase.data
import chex
import jax
import numpy as np

from jmp_hk.targets import scalar
from tests.jmp_hk.models.gemnet_oc import small_model


class SpatialExtentTest(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True)
  def test_distances_to_the_centre_of_mass(self):
    molecule = small_model.molecule()
    batch = small_model.make_batch([molecule, small_model.crystal()])
    with jax.enable_x64(True):
      distance = self.variant(scalar.squared_distance_to_centre_of_mass)
      actual = jax.device_get(distance(batch))
    masses = ase.data.atomic_masses[molecule.atomic_numbers]
    centre = np.average(molecule.positions, axis=0, weights=masses)
    expected = ((molecule.positions - centre) ** 2).sum(-1)
    chex.assert_trees_all_close(actual[:9], expected, rtol=1e-12)
    chex.assert_trees_all_equal(actual[12:], np.zeros(14))


if __name__ == "__main__":
  absltest.main()
