"""Committees: means and standard deviations of what their members predict."""

import dataclasses
import functools
import pathlib
import tempfile

from absl.testing import absltest
import ase.build
from ase.calculators import calculator as ase_calculator
import ase.io
import chex
import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk.graphs import buckets
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.inference import annotation
from jmp_hk.inference import calculator
from jmp_hk.inference import committee
from jmp_hk.inference import prediction_files
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from tests import schnet
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.targets import atom_scalar

_NUM_MEMBERS = 3
_GRAPH = graph_config.GraphConfig(cutoff=5.0, max_neighbors=40)
_TASK = tasks_lib.TaskConfig(
  "mine",
  (
    *declare.declare({"energy": "energy", "forces": "conservative_forces"}),
    tasks_lib.TargetConfig("bandgap", "scalar"),
    tasks_lib.TargetConfig("partial_charges", atom_scalar.AtomScalar.kind),
  ),
)
_CONFIG = model_lib.ModelConfig(
  schnet.SchNetConfig(atom_channels=8, direct_vectors=False), (_TASK,)
)


_STATISTICS = dataset_info.TargetStatistics("eV", 0.0, 0.5)


def _info(member: int = 0, **changes):
  """Constants that differ between members as fits to different data do."""
  fields = {
    "graph": _GRAPH,
    "energy_references": {1: -13.0 + member, 8: -2040.0, 29: -1.0},
    "targets": {
      "bandgap": dataclasses.replace(_STATISTICS, mean=1.0 + member),
      "partial_charges": _STATISTICS,
    },
  }
  return predictors.make_info("mine", **fields | changes)


@functools.cache
def _batch():
  """Any batch, for shapes."""
  builder = _CONFIG.backbone.graph_builder
  structure = from_ase.from_atoms(ase.build.molecule("H2O"), _info())
  graphs = builder.build(structure, _GRAPH)
  budget = buckets.MovingBudget(builder, _GRAPH).fit(builder.sizes(graphs), structure)
  return packing.pack([packing.PackItem(graphs)], builder, budget)


def _member(number: int, config=_CONFIG, **changes) -> predictor_lib.Predictor:
  """A model with random weights of its own."""
  model = model_lib.build_model(config)
  variables = jax.device_get(model.init(jax.random.PRNGKey(number), _batch()))
  return predictor_lib.Predictor(
    config, {"mine": _info(number, **changes)}, variables, precision="float64"
  )


@functools.cache
def _committee() -> committee.Committee:
  return committee.Committee([_member(number) for number in range(_NUM_MEMBERS)])


def _structures():
  crystal = ase.build.bulk("Cu", cubic=True)
  crystal.rattle(0.1, seed=0)
  return [ase.build.molecule("H2O"), crystal]


class PredictTest(absltest.TestCase):
  def test_means_and_standard_deviations_of_the_members(self):
    structures = _structures()
    found = _committee().predict(structures)
    alone = [member.predict(structures) for member in _committee().members]
    for index, (atoms, result) in enumerate(zip(structures, found, strict=True)):
      own = [predictions[index] for predictions in alone]
      for values, mean, std in (
        ([p.energy for p in own], result.energy, result.energy_std),
        ([p.forces for p in own], result.forces, result.forces_std),
        (
          [p.properties["bandgap"] for p in own],
          result.properties["bandgap"],
          result.std["bandgap"],
        ),
      ):
        chex.assert_trees_all_close(np.asarray(mean), np.mean(values, 0), rtol=1e-10)
        chex.assert_trees_all_close(
          np.asarray(std), np.std(values, 0), rtol=1e-8, atol=1e-12
        )
        self.assertGreater(np.max(std), 0)
      chex.assert_shape(result.forces_std, (len(atoms), 3))
      self.assertIsInstance(result.energy_std, float)
      chex.assert_shape(result.std["partial_charges"], (len(atoms),))
    molecule, crystal = found
    self.assertIsNone(molecule.stress)
    self.assertNotIn("stress", molecule.std)
    chex.assert_shape((crystal.stress, crystal.std["stress"]), (6,))
    # One model has no opinion about itself.
    self.assertIsNone(alone[0][0].energy_std)

  def test_members_share_programs(self):
    first = committee.Committee([_member(number) for number in range(2)])
    first.predict(_structures())
    single = _member(0)
    single.predict(_structures())
    self.assertEqual(first.num_compilations, single.num_compilations)

  def test_embeddings_are_those_of_one_member(self):
    with self.assertRaisesRegex(ValueError, "no embeddings.*load one of them"):
      _committee().embed(_structures()[0])

  def test_it_says_what_it_is(self):
    self.assertRegex(repr(_committee()), r"^Committee of 3 members: schnet")


class MembersTest(absltest.TestCase):
  def test_other_models_are_refused(self):
    with self.assertRaisesRegex(ValueError, "at least one member"):
      committee.Committee([])
    with self.assertRaisesRegex(ValueError, "at least one member"):
      committee.load([])
    backbone = dataclasses.replace(_CONFIG.backbone, num_blocks=1)
    other = _member(1, dataclasses.replace(_CONFIG, backbone=backbone))
    with self.assertRaisesRegex(
      ValueError, "same model and heads.*member 1 differs.*num_blocks.*2 → 1"
    ):
      committee.Committee([_member(0), other])
    other = _member(1, graph=graph_config.GraphConfig(cutoff=4.0, max_neighbors=40))
    with self.assertRaisesRegex(ValueError, "mine.graph.cutoff: 5.0 → 4.0"):
      committee.Committee([_member(0), other])


class CalculatorTest(absltest.TestCase):
  def test_everything_is_a_result(self):
    water, crystal = _structures()
    calc = calculator.JMPCalculator(_committee())
    names = ["energy", "forces", "bandgap", "charges", "stress"]
    every = [*names, *(f"{name}_std" for name in names), "free_energy"]
    self.assertCountEqual(calc.implemented_properties, every)
    (expected,) = _committee().predict(crystal)
    crystal.calc = calc
    self.assertAlmostEqual(crystal.get_potential_energy(), expected.energy, places=8)
    self.assertCountEqual(calc.results, every)
    for name, value in (
      ("energy_std", expected.energy_std),
      ("forces_std", expected.forces_std),
      ("stress_std", expected.std["stress"]),
      ("bandgap", expected.properties["bandgap"]),
    ):
      chex.assert_trees_all_close(
        np.asarray(calc.get_property(name, crystal)), np.asarray(value), rtol=1e-6
      )
    chex.assert_shape(crystal.get_charges(), (4,))
    with self.assertRaises(ase_calculator.PropertyNotImplementedError):
      calc.get_property("stress", water)
    self.assertGreater(calc.get_property("forces_std", water).max(), 0)

  def test_a_head_without_energy(self):
    task = tasks_lib.TaskConfig("mine", (tasks_lib.TargetConfig("bandgap", "scalar"),))
    model = _member(0, dataclasses.replace(_CONFIG, tasks=(task,)))
    calc = calculator.JMPCalculator(model)
    self.assertEqual(calc.implemented_properties, ["bandgap"])
    water = _structures()[0]
    (expected,) = model.predict(water)
    self.assertAlmostEqual(
      calc.get_property("bandgap", water), expected.properties["bandgap"], places=8
    )
    water.calc = calc
    with self.assertRaises(ase_calculator.PropertyNotImplementedError):
      water.get_potential_energy()

  def test_names_that_two_targets_want(self):
    targets = [
      tasks_lib.TargetConfig(name, atom_scalar.AtomScalar.kind)
      for name in ("partial_charges", "charges")
    ]
    task = tasks_lib.TaskConfig("mine", tuple(targets))
    self.assertEqual(
      calculator.property_names(task),
      {"partial_charges": "partial_charges", "charges": "charges"},
    )


class AnnotationTest(absltest.TestCase):
  def test_files_hold_standard_deviations(self):
    crystal = _structures()[1]
    (result,) = _committee().predict(crystal)
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    for prefix in ("jmp_", ""):
      atoms = annotation.annotate(crystal, result, _TASK, prefix=prefix)
      prediction_files.write(folder / "found.extxyz", [atoms])
      found = ase.io.read(folder / "found.extxyz")
      self.assertAlmostEqual(found.info[f"{prefix}energy_std"], result.energy_std)
      chex.assert_trees_all_close(
        found.arrays[f"{prefix}forces_std"], result.forces_std, atol=1e-6
      )
      self.assertAlmostEqual(
        found.info[f"{prefix}bandgap_std"], result.std["bandgap"], places=6
      )


if __name__ == "__main__":
  absltest.main()
