"""Fine-tuning on structures in memory, as in a notebook."""

import json
import pathlib
import shutil
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import ase
import ase.build
from ase.calculators import emt
from ase.calculators import singlepoint
import ase.io
import chex
import jax
import numpy as np

import jmp_hk
from jmp_hk import fine_tuning
from jmp_hk.checkpoints import pretrained
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.models import parameters
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib
from jmp_hk.training import run_directory
from jmp_hk.training import writers
from tests import schnet

_GRAPH = graph_config.GraphConfig(cutoff=4.0, max_neighbors=8)
_FORCES = {"energy": "energy", "forces": "conservative_forces"}
_REFERENCES = {1: -13.0, 6: -1030.0, 8: -2040.0}


def _molecules(count: int, seed: int = 0) -> list[ase.Atoms]:
  """Rattled molecules whose labels follow from their geometry."""
  rng = np.random.default_rng(seed)
  result = []
  for index in range(count):
    atoms = ase.build.molecule(("H2O", "CH4", "CH3OH")[index % 3])
    rest = atoms.positions.copy()
    atoms.rattle(0.1, rng=rng)
    away = atoms.positions - rest
    energy = sum(_REFERENCES[z] for z in atoms.numbers) + float(np.square(away).sum())
    atoms.calc = singlepoint.SinglePointCalculator(
      atoms, energy=energy, forces=-2 * away
    )
    atoms.info |= {"size": float(np.square(atoms.positions).sum()), "kind": index % 3}
    result.append(atoms)
  return result


def _crystals(count: int, seed: int = 0) -> list[ase.Atoms]:
  """Rattled and strained copper with results of EMT."""
  rng, result = np.random.default_rng(seed), []
  for _ in range(count):
    atoms = ase.build.bulk("Cu", "fcc", a=rng.uniform(3.4, 3.9), cubic=True)
    strain = 0.03 * rng.standard_normal((3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, rng=rng)
    atoms.calc = emt.EMT()
    atoms.get_stress()
    atoms.calc = singlepoint.SinglePointCalculator(atoms, **atoms.calc.results)
    result.append(atoms)
  return result


def _seed(workdir: pathlib.Path) -> int:
  """Seed of a run."""
  stored = json.loads((workdir / run_directory.CONFIG_FILE).read_text())
  return stored["trainer"]["train"]["seed"]


class FineTuningTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

  def _tune(self, structures, name="run", **kwargs) -> predictor_lib.Predictor:
    given = {
      "model": "schnet_tiny",
      "targets": _FORCES,
      "graph": _GRAPH,
      "num_steps": 20,
      "learning_rate": 1e-3,
      **kwargs,
    }
    return fine_tuning.fine_tune(
      structures=structures, workdir=self.directory / name, **given
    )

  def test_twenty_structures_twenty_steps(self):
    structures = _molecules(20)
    model = self._tune(structures)
    self.assertEqual(model.heads, ("fine_tuned",))
    info = model.infos["fine_tuned"]
    self.assertEqual(dict(info.num_structures), {"train": 18, "val": 2})
    # The per-element fit finds what the energies were made of.
    for element, energy in _REFERENCES.items():
      self.assertAlmostEqual(info.energy_references[element], energy, delta=1.0)
    [prediction] = model.predict(structures[0])
    self.assertLess(abs(prediction.energy - structures[0].get_potential_energy()), 5)
    # Forces are the derivative of the energy that is predicted.
    moved = [structures[0].copy() for _ in range(2)]
    for atoms, step in zip(moved, (1e-3, -1e-3), strict=True):
      atoms.positions[0, 0] += step
    ahead, behind = jmp_hk.load(self.directory / "run", precision="float64").predict(
      moved
    )
    slope = (behind.energy - ahead.energy) / 2e-3
    self.assertAlmostEqual(prediction.forces[0, 0], slope, delta=1e-3)

  def test_called_again_it_returns_the_same_model(self):
    structures = _molecules(12)
    first = self._tune(structures, num_steps=6, graph=None)
    # Conservative and from scratch.
    self.assertEqual(
      first.infos["fine_tuned"].graph,
      graph_config.GraphConfig(truncation=graph_config.Truncation.SMOOTH),
    )
    file = self.directory / "run" / "metrics.jsonl"
    before = file.read_text()
    again = self._tune(structures, num_steps=6, graph=None)
    chex.assert_trees_all_equal(first.variables, again.variables)
    self.assertEqual(file.read_text(), before)
    # A run that was stopped goes on to the same weights, and with more steps further.
    shutil.rmtree(self.directory / "run" / "checkpoints" / "6")
    again = self._tune(structures, num_steps=6, graph=None)
    chex.assert_trees_all_equal(first.variables, again.variables)
    longer = self._tune(structures, num_steps=9, graph=None)
    steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
    self.assertEqual((max(steps), longer.config), (9, first.config))
    with self.assertRaisesRegex(run_directory.OtherRunError, "seed: 42 → 1"):
      self._tune(structures, num_steps=6, graph=None, seed=1)
    with self.assertRaisesRegex(run_directory.OtherRunError, "structures: "):
      self._tune(_molecules(12, seed=1), num_steps=6, graph=None)

  def test_a_committee_is_trained_one_member_after_another(self):
    structures = _molecules(12)
    tune = lambda **kwargs: self._tune(structures, "committee", num_steps=2, **kwargs)
    found = tune(num_members=2)
    workdir = self.directory / "committee"
    self.assertCountEqual([p.name for p in workdir.iterdir()], ["member_0", "member_1"])
    weights = [jax.tree.leaves(member.variables.params) for member in found.members]
    self.assertTrue(any((a != b).any() for a, b in zip(*weights, strict=True)))
    # They validate on the same structures, and are loaded together.
    references = [m.infos["fine_tuned"].energy_references for m in found.members]
    self.assertEqual(*references)
    [prediction] = jmp_hk.load(workdir).predict(structures[0])
    [expected] = found.predict(structures[0])
    self.assertEqual(prediction.energy, expected.energy)
    self.assertGreater(prediction.energy_std, 0)
    # What is finished stays.
    seeds = [_seed(workdir / f"member_{index}") for index in range(2)]
    self.assertEqual(seeds, [42, 43])
    file = workdir / "member_1" / "metrics.jsonl"
    before = file.stat().st_mtime_ns
    [again] = tune(num_members=2).predict(structures[0])
    self.assertEqual(again.energy, expected.energy)
    self.assertEqual(file.stat().st_mtime_ns, before)
    (self.directory / "single" / "checkpoints").mkdir(parents=True)
    for kwargs, message in (
      ({"name": "committee"}, "holds a committee of 2 members"),
      ({"name": "single", "num_members": 2}, "holds the run of a single model"),
      ({"name": "new", "num_members": 0}, "num_members must be at least 1"),
      ({"name": "new", "model": workdir}, "committee of 2 models cannot be trained"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        self._tune(structures, **{"num_steps": 2, **kwargs})

  def test_a_trained_backbone_gets_a_new_head(self):
    structures = _molecules(12)
    first = self._tune(structures, "first", num_steps=4, head_name="first")
    second = self._tune(
      structures,
      "second",
      model=first,
      targets={"size": "scalar", "kind": "multiclass"},
      graph=None,
      num_steps=4,
      frozen=["^atom_embedding/"],
      validation=structures[:3],
    )
    self.assertEqual(second.infos["fine_tuned"].graph, _GRAPH)
    self.assertEqual(second.config.tasks[0].targets[1].num_classes, 3)
    name = "atom_embedding"
    chex.assert_trees_all_close(
      second.variables.params[name], first.variables.params[name], rtol=1e-6
    )
    [prediction] = second.predict(structures[0])
    self.assertEqual(np.shape(prediction.properties["kind"]), (3,))
    # From the directory, too, and with nothing to validate on.
    doubled = _molecules(12)
    for atoms in doubled:
      forces = 2 * atoms.get_forces()
      atoms.calc = singlepoint.SinglePointCalculator(
        atoms, energy=atoms.get_potential_energy(), forces=forces
      )
    third = self._tune(
      doubled,
      "third",
      model=self.directory / "first",
      num_steps=2,
      learning_rate=1e-9,
      validation=0,
    )
    self.assertEqual(third.infos["fine_tuned"].num_structures, {"train": 12})
    # The targets are those of the model, and its head is scaled to the new data.
    scales = [m.infos[m.heads[0]].force_scale for m in (first, third)]
    self.assertGreater(scales[1], 1.5 * scales[0])
    old, new = (m.predict(structures[0])[0].forces for m in (first, third))
    chex.assert_trees_all_close(new, old, rtol=1e-3, atol=1e-6)
    self.assertGreater(np.abs(old).max(), 1e-3)

  def test_direct_forces_start_from_a_conservative_model(self):
    structures = _molecules(12)
    first = self._tune(structures, "first", num_steps=2)
    self.assertFalse(first.config.backbone.direct_vectors)
    second = self._tune(
      structures,
      "second",
      model=first,
      targets={"forces": "direct_forces"},
      num_steps=2,
      learning_rate=1e-9,
    )
    self.assertTrue(second.config.backbone.direct_vectors)
    old, new = (parameters.flatten(m.variables.params) for m in (first, second))
    shared = {path for path in old if pretrained.is_backbone(path)}
    self.assertTrue(shared < {path for path in new if pretrained.is_backbone(path)})
    for path in shared:
      chex.assert_trees_all_close(new[path], old[path], rtol=1e-6, atol=1e-7)
    self.assertEqual(second.predict(structures[0])[0].forces.shape, (3, 3))

  def test_structures_that_cannot_be_learned_from_are_named(self):
    structures = _molecules(6)
    structures[1].calc = None
    structures[4].positions[0, 0] += 1.0  # The stored results are not of this any more.
    with self.assertRaisesRegex(
      spec_lib.LabelError,
      r"2 of 6 records: it has no label 'energy'; it has kind, size "
      r"\(structure 1 \(CH4\), structure 4 \(CH4\)\)",
    ):
      self._tune(structures)
    with self.assertRaisesRegex(spec_lib.LabelError, "no label 'dipole'"):
      self._tune(_molecules(6), targets={"dipole": "vector"})
    with self.assertRaisesRegex(spec_lib.LabelError, "'size' to be the index of a"):
      self._tune(_molecules(6), targets={"size": "multiclass"})
    with self.assertRaisesRegex(spec_lib.LabelError, r"shape \(3, 3\), found \(\)"):
      self._tune(_molecules(6), targets={"size": "vector"})

  @parameterized.parameters(
    ({"targets": {}}, "no targets"),
    ({"targets": {"size": "number"}}, "no kind of target 'number'"),
    ({"targets": {"mine": "energy"}}, "for the label 'energy'"),
    ({"validation": 1.5}, "part from 0 to below 1"),
    ({"model": "schnet_huge"}, "schnet_huge"),
    ({"precision": "float16"}, "float16"),
    ({"heads": "old"}, "'old' is not a valid Heads"),
    ({"budget": {"num_edges": 5}}, r"\(\d+ atoms\) needs num_edges=\d+"),
  )
  def test_wrong_arguments_say_what_to_do(self, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      self._tune(_molecules(6), **arguments)

  def test_forces_alone_are_derivatives_of_an_energy_without_a_loss(self):
    model = self._tune(_molecules(6), targets={"forces": "conservative_forces"})
    energy, forces = model.config.tasks[0].targets
    self.assertEqual((energy.name, energy.loss_coefficient), ("energy", 0.0))
    self.assertFalse(energy.head_bias)
    self.assertIsInstance(forces, tasks_lib.TargetConfig)
    self.assertEqual(
      model.config.backbone, schnet.SchNetConfig(atom_channels=32, direct_vectors=False)
    )

  def test_energy_forces_and_stress(self):
    crystals = _crystals(24)
    for atoms in crystals[::6]:
      del atoms.calc.results["stress"]
    model = self._tune(
      crystals,
      targets={
        "energy": "energy",
        "forces": "conservative_forces",
        "stress": "conservative_stress",
      },
      graph=graph_config.GraphConfig(cutoff=4.0, max_neighbors=60),
      num_steps=60,
      learning_rate=3e-3,
    )
    task = model.config.tasks[0]
    self.assertTrue(task.targets[-1].allow_missing)
    self.assertEqual(model.infos["fine_tuned"].splits["train"].missing["stress"], 4)
    records = writers.read_metrics(self.directory / "run" / writers.METRICS_FILE)
    name = "fine_tuned/stress_mae_mev_per_cubic_angstrom"
    errors = [record[name] for record in records if record["kind"] == "val"]
    self.assertLess(errors[-1], 0.5 * errors[0])
    # What is predicted has the sign and the order of EMT's.
    fresh = _crystals(4, seed=1)
    predicted = np.array([found.stress for found in model.predict(fresh)])
    labels = np.array([atoms.get_stress() for atoms in fresh])
    correlation = np.corrcoef(predicted.ravel(), labels.ravel())[0, 1]
    self.assertGreater(correlation, 0.9)
    # A molecule has none.
    pair = ase.Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])
    self.assertIsNone(model.predict(pair)[0].stress)

  def test_structures_without_a_label_do_not_count(self):
    path, structures = self.directory / "mine.traj", _molecules(12)
    for atoms in structures[::4]:
      del atoms.calc.results["energy"]
    ase.io.write(path, structures)
    targets = [
      tasks_lib.TargetConfig("energy", "energy", allow_missing=True),
      tasks_lib.TargetConfig("forces", "conservative_forces"),
    ]
    model = self._tune(
      path, targets=targets, validation=path, num_steps=2, learning_rate=1e-4
    )
    self.assertEqual(model.infos["fine_tuned"].splits["val"].missing["energy"], 3)
    errors = [
      abs(prediction.energy - atoms.calc.results["energy"])
      for prediction, atoms in zip(model.predict(structures), structures, strict=True)
      if "energy" in atoms.calc.results
    ]
    [record] = [
      record
      for record in writers.read_metrics(self.directory / "run" / writers.METRICS_FILE)
      if record["kind"] == "val"
    ]
    self.assertLen(errors, 9)
    self.assertAlmostEqual(
      record["fine_tuned/energy_mae_mev"], 1000 * np.mean(errors), delta=0.5
    )


if __name__ == "__main__":
  absltest.main()
