"""How batches and weights lie on the devices."""

from absl.testing import absltest
import chex
import jax
import numpy as np

from jmp_hk.runtime import devices as devices_lib
from jmp_hk.training import sharding


class ShardingTest(absltest.TestCase):
  def test_microbatches_of_a_process_follow_its_devices(self):
    mesh = sharding.make_mesh(jax.devices()[:1])
    self.assertEqual(sharding.local_microbatches(mesh, 3), (0, 1, 2))

  def test_microbatches_that_devices_cannot_share_are_refused(self):
    mesh = jax.sharding.AbstractMesh((2,), (sharding.AXIS,))
    with self.assertRaisesRegex(devices_lib.DevicesError, "3 microbatches"):
      sharding.local_microbatches(mesh, 3)

  def test_evaluations_have_all_devices_that_a_run_may_use(self):
    mesh = sharding.open_evaluation_mesh()
    self.assertEqual(list(mesh.devices.flat), jax.devices())
    self.assertEqual(sharding.open_evaluation_mesh(1).size, 1)

  def test_copies_on_another_mesh_are_equal(self):
    tree = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    one, other = sharding.make_mesh(jax.devices()[:1]), sharding.make_mesh()
    copied = sharding.copy_replicated(sharding.put_replicated(tree, one), other)
    chex.assert_trees_all_equal(jax.device_get(copied), tree)
    self.assertEqual(copied["w"].sharding, sharding.replicated(other))


if __name__ == "__main__":
  absltest.main()
