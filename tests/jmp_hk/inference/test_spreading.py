"""Prediction on several devices: how many are used, and the same results in order."""

import json
import os
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import ase.build
import jax
import numpy as np

from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import spreading
from jmp_hk.training import sharding
from tests import compiling
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.models.gemnet_oc import small_model

# Predictions, embeddings and programs with one, two and all three devices.
_SCRIPT = """
import json
import jax
jax.config.update("jax_disable_most_optimizations", True)
from tests.jmp_hk.inference import test_spreading
print(json.dumps([test_spreading.run(count) for count in (1, 2, 0)]))
"""


def run(num_devices: int) -> dict[str, object]:
  """What a model predicts, and how; numbers as JSON."""
  base = predictors.make_predictor(small_model.direct_config(), precision="float32")
  model = predictor_lib.Predictor(
    base.config, base.infos, base.variables, num_devices=num_devices, batch_edges=60
  )
  names = ("H2", "H2O", "CH3CH2OH", "NH3", "CH4")
  structures = [ase.build.molecule(names[i % 5]) for i in range(15)]
  for index, atoms in enumerate(structures):
    atoms.positions *= 1 + 0.01 * index
  progress: list[int] = []
  results = model.predict(
    structures, "first", on_progress=lambda done, total: progress.append(done)
  )
  before = model.num_compilations
  [alone] = model.predict(structures[3], "first")
  return {
    "devices": [key.num_devices for key in model._programs][:before],
    "compiled_for_one": model.num_compilations - before,
    "progress": progress,
    "energies": [result.energy for result in results],
    "forces": [result.forces.ravel().tolist() for result in results],
    "alone": alone.energy,
  }


class SpreadingTest(parameterized.TestCase):
  @parameterized.parameters(
    # Batches, devices; devices that are used.
    (1, 8, 1),
    (2, 8, 2),
    (3, 8, 4),
    (5, 8, 8),
    (5, 6, 6),
    (1000, 8, 8),
    (1000, 1, 1),
  )
  def test_few_batches_take_few_devices(self, num_batches, num_devices, expected):
    self.assertEqual(spreading.choose_count(num_batches, num_devices), expected)

  @parameterized.parameters(
    # Batches, devices with programs; devices that are used of eight.
    (1, (8,), 8),  # Padding on the others costs less than a compilation.
    (3, (4, 8), 4),
    (4, (1,), 1),
    (5, (1,), 8),  # Now it pays.
    (9, (2,), 8),
    (8, (1, 2), 2),
    (3, (16,), 4),  # Of a time when more devices were wanted.
  )
  def test_programs_are_used_again_where_a_new_one_would_not_pay(
    self, num_batches, compiled, expected
  ):
    self.assertEqual(spreading.choose_count(num_batches, 8, compiled), expected)

  def test_results_and_their_order_do_not_depend_on_the_devices(self):
    environment = os.environ | {
      "XLA_FLAGS": compiling.with_flag("--xla_force_host_platform_device_count=3"),
      "JAX_PLATFORMS": "cpu",
    }
    output = subprocess.run(
      [sys.executable, "-c", _SCRIPT], env=environment, capture_output=True, text=True
    )
    self.assertEqual(output.returncode, 0, output.stderr)
    one, two, three = json.loads(output.stdout.splitlines()[-1])
    self.assertEqual(set(one["devices"]), {1})
    self.assertIn(2, two["devices"])
    self.assertIn(3, three["devices"])
    for many in (two, three):
      np.testing.assert_allclose(many["energies"], one["energies"], rtol=2e-6)
      for ours, theirs in zip(many["forces"], one["forces"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
      # A single structure takes a program that is there.
      self.assertEqual(many["compiled_for_one"], 0)
      self.assertAlmostEqual(many["alone"], one["energies"][3], places=5)
      self.assertLess(len(many["progress"]), len(one["progress"]))
      self.assertEqual(many["progress"][-1], 15)

  def test_more_devices_than_there_are_is_an_error(self):
    base = predictors.direct()
    with self.assertRaisesRegex(
      sharding.DevicesError, "fewer than num_devices=99: lower it"
    ):
      predictor_lib.Predictor(base.config, base.infos, base.variables, num_devices=99)

  def test_a_default_device_of_jax_is_the_only_one(self):
    device = jax.local_devices()[-1]
    with jax.default_device(device):
      self.assertEqual(sharding.local_devices(), [device])
    self.assertEqual(sharding.local_devices(), jax.local_devices())
    self.assertEqual(sharding.local_devices(1), jax.local_devices()[:1])


if __name__ == "__main__":
  absltest.main()
