"""How the structures of a step are shared out over processes and devices."""

from absl.testing import absltest
from absl.testing import parameterized
import jax

from jmp_hk.runtime import devices as devices_lib


class MachineTest(parameterized.TestCase):
  @parameterized.parameters(
    # Processes, devices of each, structures of a step; microbatches.
    (1, 1, 1, 1),
    (1, 1, 48, 1),
    (1, 8, 48, 8),
    (1, 8, 5, 5),
    (1, 8, 1, 1),
    (4, 1, 5, 4),
    (2, 4, 5, 4),
    (2, 4, 7, 6),
    (64, 8, 512, 512),
  )
  def test_every_device_gets_a_microbatch_while_there_are_structures(
    self, num_processes, devices_each, batch_size, num_microbatches
  ):
    machine = devices_lib.Machine(num_processes, devices_each)
    self.assertEqual(machine.follow(batch_size), num_microbatches)
    # None of the chosen devices is without one.
    used = num_processes * machine.used_each(num_microbatches)
    self.assertEqual(used, num_microbatches)

  @parameterized.parameters(
    # Processes, devices of each, microbatches; devices that each process uses.
    (1, 8, 8, 8),
    (1, 3, 8, 2),
    (1, 8, 1, 1),
    (1, 8, 12, 6),
    (1, 1, 7, 1),
    (1, 2, 7, 1),
    (2, 2, 8, 2),
    (2, 3, 8, 2),
    (4, 2, 4, 1),
  )
  def test_a_stored_number_of_microbatches_is_shared_evenly(
    self, num_processes, devices_each, num_microbatches, used_each
  ):
    machine = devices_lib.Machine(num_processes, devices_each)
    self.assertEqual(machine.used_each(num_microbatches), used_each)

  def test_what_cannot_be_shared_says_what_to_do(self):
    with self.assertRaisesRegex(
      devices_lib.DevicesError,
      "The 6 microbatches .* evenly by 4 processes: start 1, 2, 3 or 6 processes",
    ):
      devices_lib.Machine(4, 1).used_each(6)
    with self.assertRaisesRegex(devices_lib.DevicesError, "start 1 processes"):
      devices_lib.Machine(2, 1).used_each(1)
    with self.assertRaisesRegex(
      devices_lib.DevicesError, "A batch of 3 cannot be shared by 4 processes"
    ):
      devices_lib.Machine(4, 2).follow(3)

  def test_no_more_devices_than_there_are(self):
    count = jax.device_count()
    self.assertEqual(devices_lib.Machine.present(), devices_lib.Machine(1, count))
    self.assertEqual(devices_lib.Machine.present(1), devices_lib.Machine(1, 1))
    with self.assertRaisesRegex(
      devices_lib.DevicesError, f"There are {count} devices, fewer than num_devices=99"
    ):
      devices_lib.Machine.present(99)


if __name__ == "__main__":
  absltest.main()
