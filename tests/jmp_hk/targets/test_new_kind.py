"""A kind that one file adds is learned, measured, predicted, reported and declared."""

import csv
import dataclasses
import functools
import tempfile
from typing import NamedTuple

from absl.testing import absltest
import ase.build
import ase.io
import chex
import jax
import numpy as np
import optax

from experiments.command_line import tasks as declarations
from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import serialization
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import packing
from jmp_hk.inference import calculator
from jmp_hk.inference import comparison
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import reports
from jmp_hk.models import model as model_lib
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import labels
from jmp_hk.training import losses
from jmp_hk.training import metrics
from tests import schnet
from tests.jmp_hk.targets import atom_scalar

_CHARGES = {1: 0.2, 6: -0.3, 8: -0.6}  # By element; enough to be learned quickly.
_STEPS = 60
_TASK = tasks_lib.TaskConfig(
  "mine",
  (
    tasks_lib.TargetConfig("charge", "atom_scalar"),
    tasks_lib.TargetConfig("energy", "energy", loss_coefficient=0.0),
  ),
)
_CONFIG = model_lib.ModelConfig(
  schnet.SchNetConfig(atom_channels=16, direct_vectors=False), (_TASK,)
)
_INFO = dataset_info.DatasetInfo(
  name="mine",
  graph=graph_config.GraphConfig(cutoff=5.0, max_neighbors=12),
  num_structures={"train": 3},
  elements=(1, 6, 8),
  size_histogram={},
  energy_references={1: 0.0, 6: 0.0, 8: 0.0},
  energy_scale=1.0,
  force_scale=1.0,
  targets={"charge": dataset_info.TargetStatistics("e", -0.1, 0.4)},
  units={"charge": "e"},
)


def _structures():
  result = []
  for index, name in enumerate(("H2O", "CH4", "CH3OH")):
    atoms = ase.build.molecule(name)
    structure = from_ase.from_atoms(atoms, _INFO, f"mine:{index}")
    charges = np.array([_CHARGES[z] for z in atoms.numbers])
    result.append(dataclasses.replace(structure, targets={"charge": charges}))
  return result


def _batch():
  builder = _CONFIG.backbone.graph_builder
  items = [
    packing.PackItem(
      builder.build(structure, _INFO.graph),
      targets=labels.normalise_labels(structure, _INFO, _TASK),
    )
    for structure in _structures()
  ]
  sizes = [builder.sizes(item.graphs) for item in items]
  needs = dataclasses.asdict(budget_lib.total(sizes, builder.budget_type))
  budget = builder.budget_type(**{name: size + 3 for name, size in needs.items()})
  return packing.pack(items, builder, budget, targets=labels.label_shapes([_TASK]))


class _Trained(NamedTuple):
  predictor: predictor_lib.Predictor
  losses: list[float]
  metrics: dict[str, float]


@functools.cache
def _trained() -> _Trained:
  """A model after some steps, its losses and its metrics on what it has seen."""
  model, batch = model_lib.build_model(_CONFIG), _batch()
  variables = model.init(jax.random.PRNGKey(0), batch)
  optimizer = optax.adam(1e-2)

  def loss(params):
    predictions = model.apply(variables._replace(params=params), None, batch)
    terms = losses.loss_terms(losses.LossConfig(), (_TASK,), batch, predictions)
    return losses.mean_loss(terms)

  @jax.jit
  @chex.assert_max_traces(n=1)
  def step(params, state):
    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value

  params, state, history = variables.params, optimizer.init(variables.params), []
  for _ in range(_STEPS):
    params, state, value = step(params, state)
    history.append(float(value))
  variables = variables._replace(params=params)
  predictions = model.apply(variables, None, batch)
  sums = metrics.batch_sums((_TASK,), {"mine": _INFO}, batch, predictions)
  predictor = predictor_lib.Predictor(_CONFIG, {"mine": _INFO}, variables)
  return _Trained(predictor, history, metrics.summarise([sums]))


class NewKindTest(absltest.TestCase):
  def test_labels_are_packed_with_a_row_per_atom(self):
    batch = _batch()
    chex.assert_equal_shape([batch.targets["charge"], batch.atom_mask])
    self.assertEqual(list(batch.targets), ["charge"])
    charges = np.concatenate([s.targets["charge"] for s in _structures()])
    chex.assert_trees_all_close(
      batch.targets["charge"][batch.atom_mask] * 0.4 - 0.1,
      charges.astype(np.float32),
      rtol=1e-6,
    )
    self.assertFalse(batch.targets["charge"][~batch.atom_mask].any())

  def test_it_is_learned(self):
    history = _trained().losses
    self.assertLess(history[-1], 0.2 * history[0])

  def test_predictions_are_those_that_validation_measured(self):
    trained = _trained()
    structures = _structures()
    results = comparison.predict_and_compare(trained.predictor, structures)
    errors = []
    for structure, prediction in zip(structures, results.predictions, strict=True):
      found = prediction.properties["charge"]
      chex.assert_shape(found, (structure.num_atoms,))
      errors.append(np.abs(found - structure.targets["charge"]))
    mae = np.concatenate(errors).mean()
    self.assertLess(mae, 0.1)
    self.assertEqual(metrics.primary_metric(_TASK), "mine/charge_mae")
    self.assertAlmostEqual(trained.metrics["mine/charge_mae"], mae, delta=1e-5)
    found = results.metrics()
    self.assertEqual(list(found), ["charge"])
    self.assertEqual(found["charge"]["unit"], "e")
    self.assertAlmostEqual(found["charge"]["mae"], mae, delta=1e-12)

  def test_reports_have_it_beside_the_atoms(self):
    directory = self.enter_context(tempfile.TemporaryDirectory())
    results = comparison.predict_and_compare(_trained().predictor, _structures())
    reports.write(results, directory)
    with open(f"{directory}/{reports.TABLE_FILE}", encoding="utf-8") as file:
      rows = list(csv.DictReader(file))
    self.assertLen(rows, 3)
    self.assertLess(max(float(row["jmp_charge_mae"]) for row in rows), 0.2)
    frames = ase.io.read(f"{directory}/{reports.STRUCTURES_FILE}", ":")
    for frame, structure in zip(frames, _structures(), strict=True):
      chex.assert_shape(frame.arrays["jmp_charge"], (structure.num_atoms,))
      # ASE reads a column of that name as the charges of a calculator.
      chex.assert_trees_all_close(
        frame.get_charges(), structure.targets["charge"], atol=1e-8
      )

  def test_calculators_give_it_under_the_name_that_ase_has(self):
    predictor = _trained().predictor
    water = ase.build.molecule("H2O")
    water.calc = calculator.JMPCalculator(predictor)
    (expected,) = predictor.predict([water])
    chex.assert_trees_all_close(
      water.get_charges(), expected.properties["charge"], atol=1e-5
    )

  def test_it_is_declared_and_stored_by_its_name(self):
    self.assertEqual(
      declarations.parse_targets(["charge=atom_scalar,coefficient=2"]),
      (tasks_lib.TargetConfig("charge", "atom_scalar", loss_coefficient=2.0),),
    )
    self.assertIsInstance(_TASK.targets[0].spec, atom_scalar.AtomScalar)
    stored = serialization.to_json(_CONFIG)
    self.assertEqual(stored["tasks"][0]["targets"][0]["kind"], "atom_scalar")
    self.assertEqual(serialization.from_json(model_lib.ModelConfig, stored), _CONFIG)


if __name__ == "__main__":
  absltest.main()
