"""Stress: sign and order of labels, its loss, and gradients of that."""

import dataclasses

from absl.testing import absltest
import ase
import ase.build
from ase.calculators import emt
import chex
import jax
import jax.numpy as jnp
import numpy as np

from jmp_hk import ase_labels
from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import voigt
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.inference import comparison
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import declare
from jmp_hk.targets import labels
from jmp_hk.targets import stress as stress_lib
from jmp_hk.training import losses
from jmp_hk.training import metrics
from tests import schnet

_TASK = tasks_lib.TaskConfig(
  "mine",
  declare.declare({"energy": "energy", "stress": "conservative_stress"}),
)
_SCALE = 0.5
_INFO = dataset_info.DatasetInfo(
  name="mine",
  graph=graph_config.GraphConfig(cutoff=5.0, max_neighbors=60),
  num_structures={"train": 3},
  elements=(1, 8, 29, 79),
  size_histogram={},
  energy_references=dict.fromkeys((1, 8, 29, 79), 0.0),
  energy_scale=7.0,
  force_scale=_SCALE,
  units={"energy": "eV", "stress": "eV/Å³"},
)


def _crystal(a: float = 3.8) -> ase.Atoms:
  """An alloy without symmetry, with results of EMT."""
  atoms = ase.build.bulk("Cu", "fcc", a=a, cubic=True)
  atoms.symbols[1] = "Au"
  atoms.set_cell(
    atoms.cell @ (np.eye(3) + [[0, 0.02, 0], [0, 0, -0.03], [0.05, 0, 0]]),
    scale_atoms=True,
  )
  atoms.rattle(0.1, seed=0)
  atoms.calc = emt.EMT()
  atoms.get_stress()
  return atoms


class LabelTest(absltest.TestCase):
  def test_labels_are_derivatives_of_the_energy_in_ases_order_and_sign(self):
    atoms = _crystal()
    label = ase_labels.find_stress(atoms, "stress")
    chex.assert_shape(label, (6,))
    step = 1e-5
    for component, (i, j) in enumerate(zip(*voigt.INDICES, strict=True)):
      energies = []
      for sign in (1, -1):
        strain = np.zeros((3, 3))
        strain[i, j] += sign * step / 2
        strain[j, i] += sign * step / 2
        # As models deform structures: rows are vectors.
        strained = atoms.copy()
        strained.positions = atoms.positions @ (np.eye(3) + strain)
        strained.cell = atoms.cell.array @ (np.eye(3) + strain)
        strained.calc = emt.EMT()
        energies.append(strained.get_potential_energy())
      expected = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
      self.assertAlmostEqual(label[component], expected, places=7)
    matrix = atoms.get_stress(voigt=False)
    chex.assert_trees_all_close(voigt.to_matrix(label), matrix)
    chex.assert_trees_all_close(voigt.from_matrix(matrix), label)

  def test_what_is_stretched_has_a_positive_stress(self):
    for a, sign in ((4.1, 1), (3.4, -1)):
      label = ase_labels.find_stress(_crystal(a), "stress")
      self.assertGreater(sign * label[:3].min(), 0)

  def test_virials_and_matrices_are_stress_as_well(self):
    atoms = _crystal()
    expected = atoms.get_stress()
    matrix = atoms.get_stress(voigt=False)
    bare = atoms.copy()
    bare.info |= {
      "stress": matrix,
      "flat": matrix.ravel(),
      "in_gpa": expected * voigt.GPA,
      "REF_virials": -matrix * atoms.get_volume(),
    }
    find = ase_labels.find_stress
    for found in (
      find(bare, "stress"),
      find(bare, "flat"),
      find(bare, "in_gpa", unit=1 / voigt.GPA),
      find(bare, "REF_virials"),
    ):
      chex.assert_trees_all_close(found, expected, rtol=1e-10)

  def test_what_is_no_stress_is_refused(self):
    atoms = _crystal()
    atoms.info |= {"five": np.ones(5), "odd": np.triu(np.ones((3, 3)))}
    with self.assertRaisesRegex(ValueError, r"6 components.*shape \(5,\).*'five'"):
      ase_labels.find_stress(atoms, "five")
    with self.assertRaisesRegex(ValueError, "symmetric matrix.*'odd'"):
      ase_labels.find_stress(atoms, "odd")
    self.assertIsNone(ase_labels.find_stress(atoms, "nothing"))
    molecule = ase.build.molecule("H2O")
    molecule.info["stress"] = np.ones(6)
    with self.assertRaisesRegex(ValueError, "without a periodic cell.*has no stress"):
      ase_labels.find_stress(molecule, "stress")
    # As some calculators write for molecules.
    molecule.info["stress"] = np.zeros(6)
    self.assertIsNone(ase_labels.find_stress(molecule, "stress"))


class DeclarationTest(absltest.TestCase):
  def test_energy_and_forces_come_along_without_a_loss(self):
    (energy, forces, stress) = declare.declare({"stress": "conservative_stress"})
    self.assertEqual((energy.name, energy.loss_coefficient), ("energy", 0.0))
    self.assertFalse(energy.head_bias)
    self.assertEqual((forces.kind, forces.is_learned), ("conservative_forces", False))
    self.assertTrue(stress.is_learned and stress.allow_missing)

  def test_forces_of_a_head_are_refused_beside_it(self):
    targets = declare.declare(
      {"forces": "direct_forces", "stress": "conservative_stress"}
    )
    with self.assertRaisesRegex(ValueError, "use the kind conservative_forces"):
      tasks_lib.check_tasks((tasks_lib.TaskConfig("mine", targets),))

  def test_conservative_models_predict_it_undeclared(self):
    forces = declare.declare({"forces": "conservative_forces"})
    task = tasks_lib.TaskConfig("mine", forces)
    self.assertEqual(task.predicted[-1].name, "stress")
    self.assertEqual(_TASK.predicted, _TASK.targets)
    direct = declare.declare({"energy": "energy", "forces": "direct_forces"})
    task = tasks_lib.TaskConfig("mine", direct)
    self.assertEqual(task.predicted, task.targets)


def _structures():
  """Two crystals, the second without its label, and a molecule."""
  result = []
  frames = (_crystal(), _crystal(4.0), ase.build.molecule("H2O"))
  for index, atoms in enumerate(frames):
    structure = from_ase.from_atoms(atoms, _INFO, f"mine:{index}")
    stress = ase_labels.find_stress(atoms, "stress") if index == 0 else None
    result.append(dataclasses.replace(structure, energy=0.0, stress=stress))
  return result


def _model():
  """A SchNet in float64 with its variables and a batch of the structures."""
  task = dataclasses.replace(
    _TASK, targets=tuple(t for t in _TASK.targets if t.name != "energy")
  )
  config = model_lib.ModelConfig(
    schnet.SchNetConfig(atom_channels=8, direct_vectors=False), (_TASK,)
  )
  builder = config.backbone.graph_builder
  items = [
    packing.PackItem(
      builder.build(structure, _INFO.graph),
      targets=labels.normalise_labels(structure, _INFO, task),
    )
    for structure in _structures()
  ]
  sizes = [builder.sizes(item.graphs) for item in items]
  needs = dataclasses.asdict(budget_lib.total(sizes, builder.budget_type))
  budget = builder.budget_type(**{name: size + 3 for name, size in needs.items()})
  shapes = labels.label_shapes([task])
  batch = packing.pack(items, builder, budget, np.float64, shapes)
  model = model_lib.build_model(config)
  variables = model.init(jax.random.PRNGKey(0), batch)
  return model, jax.tree.map(lambda x: np.asarray(x, np.float64), variables), batch


class LossTest(absltest.TestCase):
  def test_loss_and_its_gradient(self):
    with jax.enable_x64(True):
      model, variables, batch = _model()
      learned = tuple(t for t in _TASK.targets if t.name == "stress")
      tasks = [tasks_lib.TaskConfig("mine", learned)]

      def loss(params):
        predictions = model.apply(variables._replace(params=params), None, batch)
        terms = losses.loss_terms(losses.LossConfig(), tasks, batch, predictions)
        sums = metrics.batch_sums(tasks, {"mine": _INFO}, batch, predictions)
        return losses.mean_loss(terms), (terms, sums, predictions)

      (value, (terms, sums, predictions)), gradient = jax.jit(
        jax.value_and_grad(loss, has_aux=True)
      )(variables.params)
      # Of the labelled crystal alone; the molecule has no volume.
      self.assertEqual(terms["stress"][1], 1)
      label = _structures()[0].stress
      scale = _TASK.energy_scale(_INFO)
      predicted = np.asarray(predictions["stress"])
      chex.assert_trees_all_equal(predicted[2], np.zeros((3, 3)))
      self.assertGreater(np.abs(predicted[1]).max(), 0)
      difference = predicted[0] - voigt.to_matrix(label) / scale
      expected = stress_lib.VOLUME * np.linalg.norm(difference)
      self.assertAlmostEqual(float(value), expected, places=10)
      total, count = sums["mine/stress_mae_gpa"]
      self.assertEqual(count, 6)
      error = np.abs(voigt.from_matrix(difference)).mean() * scale
      self.assertAlmostEqual(float(total / count), voigt.GPA * error, places=10)
      # The derivative of a derivative, against finite differences.
      rng = np.random.default_rng(0)
      direction = jax.tree.map(lambda x: rng.normal(size=x.shape), variables.params)
      move = lambda h: jax.tree.map(lambda x, d: x + h * d, variables.params, direction)
      evaluate = jax.jit(lambda params: loss(params)[0])
      slope = (evaluate(move(1e-5)) - evaluate(move(-1e-5))) / 2e-5
      products = jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)
      expected = float(sum(jax.tree.leaves(products)))
      self.assertAlmostEqual(float(slope) / expected, 1, places=6)

  def test_forces_and_stress_come_from_one_differentiation(self):
    model, variables, batch = _model()
    count = lambda with_stress: str(
      jax.make_jaxpr(
        lambda v: model_lib.build_model(
          dataclasses.replace(model.config, stress=with_stress)
        ).apply(v, None, batch)
      )(variables)
    ).count("dot_general")
    self.assertEqual(count(True), count(False))

  def test_turning_a_structure_does_not_change_its_loss(self):
    spec = tasks_lib.TargetConfig("stress", "conservative_stress").spec
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    pair = rng.normal(size=(2, 1, 3, 3))
    pair = pair + np.swapaxes(pair, -1, -2)
    before = spec.loss(*jnp.asarray(pair))
    after = spec.loss(*jnp.asarray(turn.T @ pair @ turn))
    chex.assert_trees_all_close(before, after, rtol=1e-5)


class ComparisonTest(absltest.TestCase):
  def test_structures_without_stress_do_not_count(self):
    structures = _structures()
    stress = structures[0].stress
    predictions = [
      prediction_lib.Prediction(energy=0.0, stress=stress + 0.01),
      prediction_lib.Prediction(energy=0.0, stress=stress),
      prediction_lib.Prediction(energy=0.0),
    ]
    target = _TASK.targets[-1]
    found = comparison.compare(target, "eV/Å³", structures, predictions)
    self.assertEqual(found.counted.tolist(), [True, False, False])
    shown = {(m.title, m.unit): value for m, value in found.shown().items()}
    self.assertAlmostEqual(shown["MAE", "meV/Å³"], 10.0)
    self.assertAlmostEqual(shown["MAE in GPa", "GPa"], 0.01 * voigt.GPA)

  def test_predictions_have_a_stress_where_there_is_a_volume(self):
    crystal, _, molecule = _structures()
    values = {
      "energy": np.zeros(()),
      "stress": voigt.to_matrix(np.arange(6.0)),
    }
    for structure, expected in ((crystal, _SCALE * np.arange(6.0)), (molecule, None)):
      forces = {"forces": np.zeros((structure.num_atoms, 3))}
      found = prediction_lib.denormalise(_TASK, _INFO, structure, values | forces)
      chex.assert_trees_all_equal(found.get(_TASK.targets[-1]), expected)


if __name__ == "__main__":
  absltest.main()
