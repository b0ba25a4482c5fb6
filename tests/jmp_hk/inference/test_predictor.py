"""Prediction: parity with the published model, batching, errors, units."""

import dataclasses
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import ase
import ase.build
import chex
import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import reference_energies
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import execution
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import preparation
from jmp_hk.interop import import_checkpoint
from jmp_hk.models import parameters
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.interop import checkpoints
from tests.jmp_hk.interop import torch_save
from tests.jmp_hk.models.gemnet_oc import small_model
from tests.jmp_hk.parity import golden_case

_SMALL = ("H2", "H2O", "CH4", "CH3CH2OH", "H2CO", "NH3", "C2H2", "H")


def _atoms(structure):
  return ase.Atoms(
    structure.atomic_numbers,
    structure.positions,
    cell=structure.cell,
    pbc=structure.pbc,
    tags=structure.tags,
  )


def _save(directory: pathlib.Path, kind: str) -> pathlib.Path:
  """A checkpoint in the released format."""
  path = directory / f"{kind}.pt"
  state = checkpoints.state_dict(kind)
  torch_save.save(checkpoints.lightning(state, state), path)
  return path


def _import(directory: pathlib.Path, kind: str) -> pathlib.Path:
  """A model directory from a checkpoint in the released format."""
  output = directory / kind
  import_checkpoint.import_checkpoint(_save(directory, kind), output)
  return output


class ImportedModelTest(parameterized.TestCase):
  @parameterized.parameters(("mol", _import), ("slab", _save))
  def test_predictions_are_the_golden_outputs_of_all_four_heads(self, case, store):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    imported = predictor_lib.load(store(directory, "tinyd"), precision="float64")
    golden = golden_case.load(f"tinyd_{case}")
    structures = golden_case.structures(golden)
    settings = golden_case.graph_settings(structures[0])
    # The golden file has every head on the same graphs and any element.
    imported.infos = {
      name: dataclasses.replace(info, graph=settings, elements=())
      for name, info in imported.infos.items()
    }
    for task, name in enumerate(golden_case.TASKS):
      info = dataset_info.PUBLISHED[name]
      results = imported.predict([_atoms(s) for s in structures], name)
      energies = np.array([result.energy for result in results]) / info.energy_scale
      forces = np.concatenate([result.forces for result in results]) / info.force_scale
      chex.assert_trees_all_close(energies, golden["out/E"][:, task], rtol=1e-9)
      expected = golden["out/F"][..., task]
      scale = np.abs(expected).max()
      chex.assert_trees_all_close(forces, expected, rtol=0, atol=1e-9 * scale)
    # Heads differ in weights alone: one program serves them all.
    self.assertEqual(imported.num_compilations, 1)

  def test_published_settings_of_the_heads(self):
    for name, cutoff in (("oc20", 12), ("oc22", 12), ("ani1x", 8), ("transition1x", 8)):
      self.assertEqual(
        dataset_info.PUBLISHED[name].graph,
        graph_config.GraphConfig(cutoff=cutoff, max_neighbors=30),
      )

  def test_references_make_energies_absolute_and_end_the_notice(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    output = _import(directory, "tinyd")
    coefficients = np.full(100, 4e11)  # What files hold for elements they do not know.
    coefficients[[1, 6, 7, 8]] = -13.5, -1029.25, -1485.5, -2042.0
    np.savez(directory / "references.npz", coeff=coefficients)
    relative = predictor_lib.load(output)
    [notice] = relative.notices("ani1x")
    self.assertIn("relative to per-element reference energies", notice)
    absolute = predictor_lib.load(
      output, references={"ani1x": directory / "references.npz"}
    )
    self.assertEmpty(absolute.notices("ani1x"))
    self.assertLen(absolute.notices("transition1x"), 1)
    water = ase.build.molecule("H2O")
    [before], [after] = (m.predict([water], "ani1x") for m in (relative, absolute))
    self.assertAlmostEqual(after.energy - before.energy, -2042.0 - 2 * 13.5, places=6)
    chex.assert_trees_all_equal(after.forces, before.forces)

  def test_wrong_references_say_what_is_expected(self):
    directory = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    np.savez(directory / "wrong.npz", other=np.zeros(3))
    with self.assertRaisesRegex(reference_energies.ReferencesError, "array `coeff`"):
      reference_energies.load_references(directory / "wrong.npz")
    with self.assertRaisesRegex(reference_energies.ReferencesError, "missing.npz"):
      reference_energies.load_references(directory / "missing.npz")


class PredictorTest(parameterized.TestCase):
  def _structures(self, count):
    rng = np.random.default_rng(0)
    structures = []
    for index in range(count):
      atoms = ase.build.molecule(_SMALL[index % len(_SMALL)])
      atoms.positions += rng.uniform(-0.1, 0.1, (len(atoms), 3))
      structures.append(atoms)
    return structures

  def test_order_is_kept_and_batches_do_not_matter(self):
    structures = self._structures(40)
    model = predictors.direct()
    before = model.num_compilations
    together = model.predict(structures, "first")
    self.assertLen(together, len(structures))
    for atoms, result in zip(structures[:8], together[:8], strict=True):
      [alone] = model.predict([atoms], "first")
      self.assertAlmostEqual(
        result.energy, alone.energy, delta=1e-9 * abs(alone.energy)
      )
      chex.assert_trees_all_close(result.forces, alone.forces, rtol=0, atol=1e-8)
      chex.assert_shape(result.forces, (len(atoms), 3))
    self.assertLessEqual(model.num_compilations - before, 4)

  def test_progress_counts_to_the_end(self):
    calls = []
    structures = self._structures(20)
    predictors.direct().predict(
      structures, "second", on_progress=lambda *done: calls.append(done)
    )
    self.assertEqual(calls[-1], (20, 20))

  def test_nothing_to_predict(self):
    self.assertEqual(predictors.direct().predict([], "first"), [])

  def test_invalid_structures_stop_before_anything_is_compiled(self):
    model = predictors.make_predictor(small_model.direct_config(), elements=(1, 8))
    broken = ase.Atoms("H2O", [[0, 0, 0], [0, 0, 1], [np.nan, 0, 0]])
    flat = ase.Atoms("H", cell=[1, 1, 0], pbc=True)
    tags = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], tags=[3, 1])
    structures = [
      ase.build.molecule("H2O"),
      ase.build.molecule("CH4"),
      broken,
      flat,
      tags,
      ase.Atoms(),
      ase.Atoms("X"),
      ase.Atoms("H"),
    ]
    with self.assertRaises(preparation.InvalidStructuresError) as context:
      model.predict(structures, "first")
    self.assertEqual(set(context.exception.problems), {1, 2, 3, 4, 5, 6})
    message = str(context.exception)
    for part in (
      "structure 1 (CH4): the head 'first' does not know the elements C",
      "structure 2 (H2O)",
      "not finite",
      "structure 3 (H)",
      "tags must be 0",
      "it has no atoms",
      "no elements with the atomic numbers [0]",
    ):
      self.assertIn(part, message)
    self.assertEqual(model.num_compilations, 0)
    skipped = {}
    results = model.predict(
      structures,
      "first",
      skip_invalid=True,
      on_invalid=lambda index, problem: skipped.update({index: problem}),
    )
    self.assertEqual([r is None for r in results], [i in skipped for i in range(8)])
    self.assertEqual(skipped, context.exception.problems)
    # An isolated atom has an energy and no forces.
    self.assertTrue(np.isfinite(results[7].energy))
    chex.assert_trees_all_equal(results[7].forces, np.zeros((1, 3)))

  def test_numbers_that_are_not_finite_are_an_error(self):
    model = _broken_for_carbon()
    structures = [ase.build.molecule("H2O"), ase.build.molecule("CH4")]
    with self.assertRaisesRegex(
      preparation.InvalidStructuresError, r"structure 1 \(CH4\): .* no finite numbers"
    ):
      model.predict(structures, "first")
    water, methane = model.predict(structures, "first", skip_invalid=True)
    self.assertTrue(np.isfinite(water.energy))
    self.assertIsNone(methane)
    records = [
      from_ase.from_atoms(atoms, model.infos["first"], atoms.get_chemical_formula())
      for atoms in structures
    ]
    with self.assertRaisesRegex(
      preparation.InvalidStructuresError, "1 of the structures .*CH4: .* no finite"
    ):
      model.predict_structures(records, "first")

  def test_a_single_structure_counts_as_a_list_of_one(self):
    model, water = predictors.direct(), ase.build.molecule("H2O")
    for function in (model.predict, model.embed):
      [single], [listed] = function(water, "first"), function([water], "first")
      chex.assert_trees_all_equal(_arrays(single), _arrays(listed))

  def test_something_else_than_atoms_is_refused(self):
    with self.assertRaisesRegex(TypeError, "ase.Atoms; structure 1 is a str"):
      predictors.direct().predict([ase.Atoms("H"), "H2O"], "first")

  def test_records_are_predicted_as_structures_are(self):
    model, structures = predictors.direct(), self._structures(10)
    records = [from_ase.from_atoms(x, model.infos["first"]) for x in structures]
    for of_atoms, of_records in (
      (model.predict, model.predict_structures),
      (model.embed, model.embed_structures),
    ):
      expected, found = of_atoms(structures, "first"), of_records(records, "first")
      chex.assert_trees_all_equal(
        [_arrays(x) for x in found], [_arrays(x) for x in expected]
      )

  def test_records_are_run_in_parts(self):
    head = predictors.direct().head("first")
    records = [from_ase.from_atoms(x, head.info) for x in self._structures(10)]
    progress = {100: [], 4: []}
    whole, parts = (
      execution.Execution(
        head,
        head.info.graph,
        batch_edges=4096,
        on_progress=lambda done, total, calls=calls: calls.append((done, total)),
        records_at_once=count,
      ).run_records(iter(records))
      for count, calls in progress.items()
    )
    self.assertEqual([record for record, _ in parts], records)
    chex.assert_trees_all_close(
      [values for _, values in parts], [values for _, values in whole], atol=1e-8
    )
    # Batches end with each part, and their number counts on.
    self.assertContainsSubset([(4, 10), (8, 10), (10, 10)], progress[4])
    self.assertEqual(progress[4], sorted(progress[4]))

  def test_the_repr_says_what_the_model_predicts(self):
    units = {"energy": "eV", "forces": "eV/Å"}
    model = predictors.make_predictor(
      small_model.direct_config(), precision="bfloat16", units=units
    )
    count = parameters.count(model.variables.params)
    self.assertEqual(
      repr(model).splitlines(),
      [
        f"Predictor: {small_model.BACKBONE.describe()}",
        f"  {count:,} parameters, computes in bfloat16",
        "  head 'first': energy (eV), forces (eV/Å)",
        "  head 'second': energy (eV), forces (eV/Å)",
      ],
    )

  def test_heads_are_named_in_errors(self):
    with self.assertRaisesRegex(ValueError, "Name one of .*first, second"):
      predictors.direct().predict([])
    with self.assertRaisesRegex(ValueError, "no head 'third' among .*first, second"):
      predictors.direct().predict([], "third")
    self.assertEqual(predictors.conservative().head_name(None), "only")

  def test_embeddings_are_means_and_do_not_depend_on_the_head(self):
    model = predictors.direct()
    structures = self._structures(3)
    first, second = (model.embed(structures, head) for head in ("first", "second"))
    for one, other in zip(first, second, strict=True):
      chex.assert_shape(one.nodes, (small_model.BACKBONE.atom_channels,))
      chex.assert_shape(one.edges, (small_model.BACKBONE.edge_channels,))
      chex.assert_trees_all_equal(one.nodes, other.nodes)
    self.assertGreater(np.abs(first[0].nodes - first[1].nodes).max(), 1e-3)
    [moved] = model.embed([_rotated(structures[2])], "first")
    chex.assert_trees_all_close(moved.nodes, first[2].nodes, rtol=1e-8)

  def test_an_unknown_precision_is_refused(self):
    with self.assertRaisesRegex(ValueError, "float16"):
      predictors.make_predictor(small_model.direct_config(), precision="float16")


def _broken_for_carbon():
  """A model that gives no finite numbers where there is carbon."""
  good = predictors.direct()
  variables = jax.tree.map(np.copy, good.variables)
  variables.params["atom_embedding"]["embeddings"][5] = np.nan
  return predictor_lib.Predictor(
    good.config, good.infos, variables, precision="float64"
  )


def _arrays(result):
  """A prediction or embedding as a tree."""
  if isinstance(result, predictor_lib.Embedding):
    return result._asdict()
  return {"energy": result.energy, "forces": result.forces}


def _rotated(atoms):
  atoms = atoms.copy()
  atoms.rotate(37, (1, 2, 3))
  return atoms


if __name__ == "__main__":
  absltest.main()
