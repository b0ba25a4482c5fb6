"""Warnings say for which forces molecular dynamics is no good idea, and why."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import smoothness
from jmp_hk.targets import config as tasks_lib
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.models.gemnet_oc import small_model

Truncation = graph_config.Truncation

_CONSERVATIVE = small_model.conservative_config().tasks[0]
_MOLECULE = small_model.molecule()
_CRYSTAL = small_model.crystal()


def _problem(task, truncation, structure, cutoff: float = 6.0) -> str | None:
  graph = graph_config.GraphConfig(cutoff, 30, truncation=truncation)
  return smoothness.find_problem(
    task, predictors.make_info(task.name, graph=graph), structure
  )


class SmoothnessTest(parameterized.TestCase):
  @parameterized.parameters(
    (Truncation.PUBLISHED, "symmetric sites may have forces"),
    (Truncation.SHELLS, "its energy jumps where a neighbor comes or goes"),
  )
  def test_jumps(self, truncation, words):
    problem = _problem(_CONSERVATIVE, truncation, _CRYSTAL)
    self.assertIn(words, problem)
    self.assertIn('Fine-tuning with the truncation "smooth" avoids this.', problem)
    self.assertIn(f'"{truncation.value}"', problem)

  def test_smooth_surfaces(self):
    for structure in (_CRYSTAL, _MOLECULE):
      self.assertIsNone(_problem(_CONSERVATIVE, Truncation.SMOOTH, structure))

  def test_a_molecule_is_cut_if_it_is_larger_than_the_cutoff(self):
    self.assertIsNone(_problem(_CONSERVATIVE, Truncation.PUBLISHED, _MOLECULE))
    self.assertIsNotNone(
      _problem(_CONSERVATIVE, Truncation.PUBLISHED, _MOLECULE, cutoff=3.0)
    )
    crowd = np.random.default_rng(0).uniform(0, 3, (32, 3))
    self.assertIsNotNone(
      _problem(_CONSERVATIVE, Truncation.PUBLISHED, helpers.make_structure(crowd))
    )

  @parameterized.parameters(*Truncation)
  def test_direct_forces(self, truncation):
    task = tasks_lib.pretraining_task("only")
    problem = _problem(task, truncation, _MOLECULE)
    self.assertIn("does not conserve the energy", problem)

  def test_heads_without_forces(self):
    energies = tasks_lib.TaskConfig("only", (_CONSERVATIVE.targets[0],))
    self.assertIsNone(_problem(energies, Truncation.PUBLISHED, _CRYSTAL))


if __name__ == "__main__":
  absltest.main()
