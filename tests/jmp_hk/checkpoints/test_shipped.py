"""The model that comes with the package: known by its name, in the right units."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import ase
import ase.build
import chex
import numpy as np

import jmp_hk
from jmp_hk.checkpoints import loading
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import backbone as backbone_lib

_NAME = "jmp-mini"
_FOLDER = pathlib.Path(jmp_hk.__file__).parent / "weights" / _NAME


def _stretched(distance: float) -> ase.Atoms:
  """Benzene, one of whose hydrogens is moved outwards."""
  atoms = ase.build.molecule("C6H6")
  outwards = atoms.positions[6] / np.linalg.norm(atoms.positions[6])
  atoms.positions[6] += distance * outwards
  return atoms


class ShippedTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.model = jmp_hk.load(_NAME)

  def test_it_is_the_mini_preset_with_a_head_for_each_dataset(self):
    self.assertEqual(model_directory.shipped(), (_NAME,))
    mini = dataclasses.replace(backbone_lib.preset("mini"), direct_vectors=False)
    self.assertEqual(self.model.config.backbone, mini)
    self.assertTrue(self.model.config.is_conservative)
    heads = ("oc20", "oc22", "ani1x", "transition1x", "rmd17", "qm9")
    self.assertEqual(self.model.heads, heads)
    self.assertIn("CC BY 4.0", self.model.origin["licence"])

  def test_its_files_are_small_and_name_no_folder_of_a_machine(self):
    files = [path for path in _FOLDER.rglob("*") if path.is_file()]
    self.assertLess(sum(path.stat().st_size for path in files), 8e6)
    texts = [path for path in files if path.suffix in (".json", ".md")]
    self.assertGreater(len(texts), 2)
    for path in texts:
      self.assertNotRegex(path.read_text(), "/(work|home|tmp|root)/", str(path))

  def test_energies_are_total_energies_in_electronvolts(self):
    # rMD17's benzene has −6 306 eV on average (PBE, all electrons).
    (result,) = jmp_hk.predict(self.model, [_stretched(0.0)], head="rmd17")
    chex.assert_trees_all_close(result.energy, -6306.4, atol=2.0)

  def test_a_stretched_bond_pulls_back(self):
    # A C-H bond has about 33 eV/Å².
    results = jmp_hk.predict(
      self.model, [_stretched(0.1), _stretched(-0.1)], head="rmd17"
    )
    outwards = _stretched(0.0).positions[6]
    outwards /= np.linalg.norm(outwards)
    pulls = [float(result.forces[6] @ outwards) for result in results]
    self.assertBetween(pulls[0], -5.0, -1.0)
    self.assertBetween(pulls[1], 1.5, 8.0)

  def test_a_folder_of_that_name_counts_more(self):
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
      os.mkdir(_NAME)
      with self.assertRaisesRegex(model_directory.CheckpointError, "no checkpoint in"):
        loading.load_model(_NAME)

  @parameterized.parameters("jmp-mni", "weights/jmp-mini", "")
  def test_what_is_no_name_is_told_which_there_are(self, name):
    with self.assertRaisesRegex(model_directory.CheckpointError, r"package \(jmp-mini"):
      loading.read_description(name)


if __name__ == "__main__":
  absltest.main()
