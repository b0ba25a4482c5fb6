"""Structures that the original raises for, or gets wrong, work here."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import ase.build
import chex
import jax
import numpy as np

from jmp_hk.graphs import packing
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.models.gemnet_oc import small_model

_MODELS = {"direct": small_model.direct, "conservative": small_model.conservative}


def _atom(number: int = 8):
  return helpers.make_structure([[1.0, -2.0, 0.5]], np.array([number], np.int32))


def _without_quadruplets():
  return {
    "H2": small_model.molecule("H2"),
    "H2O": small_model.molecule("H2O"),
    "all tags 0": small_model.crystal(tags=[0, 0, 0]),
  }


def _perfect(name: str):
  """Ideal crystals: every neighbor cap cuts through a shell of equal distances."""
  if name == "fcc":
    atoms = ase.build.bulk("Cu", cubic=False)
  elif name == "rocksalt":
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.2)
  else:
    atoms = ase.build.fcc111("Cu", (1, 1, 3), vacuum=6.0)
  return helpers.make_structure(
    np.array(atoms.positions),
    atoms.numbers.astype(np.int32),
    np.array(atoms.cell),
    True,
  )


def _in_float32(structure):
  return dataclasses.replace(
    structure,
    positions=structure.positions.astype(np.float32),
    cell=structure.cell.astype(np.float32),
  )


class EdgeCasesTest(parameterized.TestCase):
  @parameterized.product(model=("direct", "conservative"))
  def test_without_quadruplets_their_term_is_zero(self, model):
    evaluate = _MODELS[model]()
    scales = {
      module: {"scale_factor": value["scale_factor"] * (7 if "quad_" in module else 1)}
      for module, value in evaluate.variables.scales.items()
    }
    other_quadruplets = evaluate.variables._replace(scales=scales)
    for name, structure in _without_quadruplets().items():
      batch = small_model.make_batch([structure])
      predictions = evaluate.apply(batch)
      self.assertNotEqual(predictions["energy"][0], 0, name)
      self.assertGreater(np.abs(predictions["forces"][:2]).max(), 0, name)
      changed = evaluate.apply(batch, other_quadruplets)
      for key, value in predictions.items():
        self.assertTrue(np.isfinite(value).all(), name)
        # Zero as the difference of equal sums (d = c is taken out), so to rounding.
        np.testing.assert_allclose(
          changed[key], value, atol=1e-12 * np.abs(value).max(), err_msg=name
        )
    # The comparison does see quadruplets where there are any.
    batch = small_model.make_batch([small_model.crystal()])
    changed = evaluate.apply(batch, other_quadruplets)["energy"][0]
    self.assertGreater(abs(changed / evaluate.apply(batch)["energy"][0] - 1), 1e-3)

  @parameterized.product(model=("direct", "conservative"))
  def test_they_do_not_depend_on_quadruplets_elsewhere_in_the_batch(self, model):
    evaluate = _MODELS[model]()
    for name, structure in _without_quadruplets().items():
      alone = evaluate([structure])
      together = evaluate([structure, small_model.molecule()])
      np.testing.assert_allclose(
        together["energy"][0], alone["energy"][0], rtol=1e-12, err_msg=name
      )

  @parameterized.product(model=("direct", "conservative"))
  def test_isolated_atoms_have_an_energy_and_no_forces(self, model):
    evaluate = _MODELS[model]()
    oxygen, iron = evaluate([_atom(8)]), evaluate([_atom(26)])
    self.assertNotEqual(oxygen["energy"][0], iron["energy"][0])
    for predictions in (oxygen, iron):
      self.assertTrue(np.isfinite(predictions["energy"]).all())
      chex.assert_trees_all_equal(predictions["forces"], 0)
    # Two of them out of reach of each other have the sum of their energies.
    apart = helpers.make_structure([[0, 0, 0], [0, 9, 0]], np.array([8, 26], np.int32))
    total = evaluate([apart])
    chex.assert_trees_all_close(
      total["energy"], oxygen["energy"] + iron["energy"], rtol=1e-12
    )
    chex.assert_trees_all_equal(total["forces"], 0)

  @parameterized.product(model=("direct", "conservative"))
  def test_a_batch_of_padding_alone(self, model):
    evaluate = _MODELS[model]()
    predictions = evaluate.apply(
      packing.pack([], gemnet_graphs.BUILDER, small_model.BUDGET, np.float64)
    )
    for value in predictions.values():
      chex.assert_trees_all_equal(value, 0)

  @parameterized.product(
    crystal=("fcc", "rocksalt", "slab"), settings=("published", "union")
  )
  def test_ties_at_caps_are_broken_alike_in_both_precisions(self, crystal, settings):
    settings = getattr(small_model, settings.upper())
    structure = _perfect(crystal)
    double = settings.build(structure)
    single = settings.build(_in_float32(structure))
    self.assertLess(len(double.a2ee2a), len(double.a2a))  # a cap does truncate
    jax.tree.map(
      np.testing.assert_array_equal,
      [dataclasses.asdict(g) | {"structure": None} for g in (double,)],
      [dataclasses.asdict(g) | {"structure": None} for g in (single,)],
    )
    expected = small_model.direct(np.float64)([structure], settings)
    actual = small_model.direct(np.float32)([_in_float32(structure)], settings)
    chex.assert_trees_all_close(actual["energy"], expected["energy"], rtol=1e-4)
    scale = np.abs(expected["energy"]).max()
    chex.assert_trees_all_close(
      actual["forces"], expected["forces"], atol=1e-4 * scale, rtol=1e-7
    )

  def test_periodicity_belongs_to_a_structure_and_its_directions(self):
    # Mixed in one batch, in any order of calls, each is what it is alone.
    evaluate, crystal = small_model.direct(), small_model.crystal()
    variants = [
      dataclasses.replace(crystal, pbc=np.array(pbc))
      for pbc in ([True] * 3, [True, True, False], [False] * 3)
    ]
    first = [evaluate([variant])["energy"][0] for variant in variants]
    self.assertLen({round(energy, 6) for energy in first}, 3)
    again = [evaluate([variant])["energy"][0] for variant in reversed(variants)]
    chex.assert_trees_all_equal(again[::-1], first)
    together = evaluate(variants)["energy"]
    chex.assert_trees_all_close(together, np.array(first), rtol=1e-12)

  def test_a_direction_that_is_not_periodic_may_have_any_lattice_vector(self):
    evaluate, crystal = small_model.direct(), small_model.crystal()
    slab = dataclasses.replace(crystal, pbc=np.array([True, True, False]))
    other_cell = slab.cell.copy()
    other_cell[2] = [0.3, 0.2, 77.0]
    no_cell = slab.cell.copy()
    no_cell[2] = 0
    expected = evaluate([slab])
    for cell in (other_cell, no_cell):
      actual = evaluate([dataclasses.replace(slab, cell=cell)])
      chex.assert_trees_all_close(actual["energy"], expected["energy"], rtol=1e-12)
      chex.assert_trees_all_close(
        actual["forces"],
        expected["forces"],
        atol=1e-10 * np.abs(expected["forces"]).max(),
        rtol=1e-7,
      )

  def test_a_molecule_ignores_its_cell(self):
    evaluate, molecule = small_model.direct(), small_model.molecule()
    boxed = dataclasses.replace(molecule, cell=2.0 * np.eye(3))
    chex.assert_trees_all_equal(
      evaluate([boxed])["energy"], evaluate([molecule])["energy"]
    )


if __name__ == "__main__":
  absltest.main()
