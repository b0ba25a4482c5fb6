"""From normalised predictions to physical units."""

from absl.testing import absltest
from absl.testing import parameterized
import ase.build
import chex
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import structure as structure_lib
from jmp_hk.inference import prediction
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels
from tests.jmp_hk.inference import predictors


class DenormaliseTest(parameterized.TestCase):
  def test_it_inverts_what_training_does(self):
    statistics = {
      "gap": dataset_info.TargetStatistics("eV", -2.0, 3.0, {1: 0.25, 8: -1.5}),
      "dipoles": dataset_info.TargetStatistics("D", 0.0, 0.5),
    }
    info = predictors.make_info(
      "mine", targets=statistics, energy_references={1: -13.6, 8: -2041.0}
    )
    task = tasks_lib.TaskConfig(
      "mine",
      (
        tasks_lib.TargetConfig("energy", "energy"),
        tasks_lib.TargetConfig("forces", "direct_forces"),
        tasks_lib.TargetConfig("gap", "scalar"),
        tasks_lib.TargetConfig("dipoles", "vector"),
      ),
    )
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2, 3, 3))
    structure = structure_lib.Structure(
      positions=rng.normal(size=(3, 3)),
      atomic_numbers=np.array([8, 1, 1], np.int32),
      cell=np.zeros((3, 3)),
      pbc=np.zeros(3, bool),
      tags=np.full(3, 2, np.int32),
      fixed=np.zeros(3, bool),
      energy=-2068.5,
      forces=vectors[0],
      targets={"gap": np.float64(7.0), "dipoles": vectors[1]},
    )
    values = labels.normalise_labels(structure, info, task)
    result = prediction.denormalise(task, info, structure, values)
    self.assertAlmostEqual(result.energy, structure.energy, places=9)
    chex.assert_trees_all_close(result.forces, structure.forces, rtol=1e-12)
    self.assertAlmostEqual(result.properties["gap"], 7.0, places=12)
    chex.assert_trees_all_close(result.properties["dipoles"], vectors[1], rtol=1e-12)
    self.assertIsNone(result.stress)

  def test_classes_become_probabilities(self):
    task = tasks_lib.TaskConfig(
      "mine",
      (
        tasks_lib.TargetConfig("metal", "binary"),
        tasks_lib.TargetConfig("lattice", "multiclass", num_classes=3),
      ),
    )
    structure = from_ase.from_atoms(
      ase.build.molecule("H2O"), predictors.make_info("mine")
    )
    values = {"metal": np.log(3.0), "lattice": np.log([1.0, 2.0, 5.0]) + 700}
    result = prediction.denormalise(
      task, predictors.make_info("mine"), structure, values
    )
    self.assertAlmostEqual(result.properties["metal"], 0.75)
    expected = np.array([0.125, 0.25, 0.625])
    chex.assert_trees_all_close(result.properties["lattice"], expected, rtol=1e-7)

  def test_conservative_energies_have_the_unit_of_the_forces(self):
    targets = (
      tasks_lib.TargetConfig("energy", "energy"),
      tasks_lib.TargetConfig("forces", "conservative_forces"),
    )
    info = predictors.make_info("mine", energy_scale=7.0, force_scale=0.5)
    task = tasks_lib.TaskConfig("mine", targets)
    self.assertEqual(task.energy_scale(info), 0.5)
    direct = tasks_lib.pretraining_task("mine")
    self.assertEqual(direct.energy_scale(info), 7.0)


class PublishedTest(absltest.TestCase):
  def test_scales_are_those_that_the_converters_use(self):
    from data.conversion import registry

    for name, info in dataset_info.PUBLISHED.items():
      declaration = registry.converters()[name](None).declare()
      scales = declaration.published_scales
      self.assertEqual(
        (info.energy_scale, info.force_scale), (scales.energy, scales.forces), msg=name
      )
      self.assertEqual(info.graph, declaration.graph, msg=name)
      self.assertEqual(
        info.evaluate_free_atoms_only, declaration.evaluate_free_atoms_only
      )


if __name__ == "__main__":
  absltest.main()
