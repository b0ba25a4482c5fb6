"""Energies and forces have the symmetries of physics, to float64 rounding.

`PUBLISHED` and `UNION` graphs truncate in the crystal; `UNCAPPED` graphs never do.
"""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import chex
import numpy as np

from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.models.gemnet_oc import small_model

_MODELS = {"direct": small_model.direct, "conservative": small_model.conservative}
_SETTINGS = {
  "uncapped": small_model.UNCAPPED,
  "published": small_model.PUBLISHED,
  "union": small_model.UNION,
}
_TOLERANCE = 1e-10


def _assert_close(actual, expected, tolerance=_TOLERANCE):
  scale = np.abs(expected).max()
  chex.assert_trees_all_close(actual, expected, rtol=0, atol=tolerance * scale)


def _structures():
  return [small_model.molecule(), small_model.crystal()]


def _transformed(structure, matrix=np.eye(3), shift=np.zeros(3)):
  return dataclasses.replace(
    structure,
    positions=structure.positions @ matrix + shift,
    cell=structure.cell @ matrix,
  )


def _permuted(structure, order):
  fields = ("positions", "atomic_numbers", "tags", "fixed")
  return dataclasses.replace(
    structure, **{name: getattr(structure, name)[order] for name in fields}
  )


def _orthogonal(seed: int, determinant: int) -> np.ndarray:
  matrix, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
  return matrix * np.sign(np.linalg.det(matrix)) * determinant


class SymmetriesTest(parameterized.TestCase):
  def test_every_branch_matters(self):
    # Otherwise the other tests of this file would say nothing about it.
    evaluate = small_model.direct()
    batch = small_model.make_batch(_structures())
    expected = evaluate.apply(batch)["energy"][:2]
    for branch in ("trip_", "quad_", "atom_edge_", "edge_atom_", "int_blocks_0/atom_i"):
      scales = {
        module: {
          "scale_factor": value["scale_factor"] * (0.3 if branch in module else 1)
        }
        for module, value in evaluate.variables.scales.items()
      }
      energy = evaluate.apply(batch, evaluate.variables._replace(scales=scales))
      change = np.abs(energy["energy"][:2] / expected - 1)
      self.assertGreater(change.min(), 1e-4, branch)

  @parameterized.product(
    model=("direct", "conservative"),
    settings=("uncapped", "published", "union"),
    determinant=(1, -1),
    seed=(0, 1),
  )
  def test_rotations_mirrors_and_translations(self, model, settings, determinant, seed):
    # Energies are invariant and forces turn along, also under mirrors, for dihedral
    # angles enter through their cosines alone.
    evaluate, settings = _MODELS[model](), _SETTINGS[settings]
    matrix = _orthogonal(seed, determinant)
    shift = np.random.default_rng(seed).uniform(-9, 9, 3)
    expected = evaluate(_structures(), settings)
    actual = evaluate([_transformed(s, matrix, shift) for s in _structures()], settings)
    _assert_close(actual["energy"], expected["energy"])
    _assert_close(actual["forces"], expected["forces"] @ matrix)
    if "stress" in expected:
      turned = matrix.T @ expected["stress"] @ matrix
      _assert_close(actual["stress"], turned)

  @parameterized.product(
    model=("direct", "conservative"), settings=("uncapped", "published", "union")
  )
  def test_moving_atoms_by_lattice_vectors_changes_nothing(self, model, settings):
    evaluate, settings = _MODELS[model](), _SETTINGS[settings]
    crystal = small_model.crystal()
    moves = np.array([[0, 2, -1], [-3, 0, 0], [1, 1, 5]])
    moved = dataclasses.replace(
      crystal, positions=crystal.positions + moves @ crystal.cell
    )
    expected, actual = evaluate([crystal], settings), evaluate([moved], settings)
    for name in expected:
      _assert_close(actual[name], expected[name])

  @parameterized.product(
    model=("direct", "conservative"), settings=("uncapped", "union")
  )
  def test_permutations_where_no_cap_truncates_or_edges_are_united(
    self, model, settings
  ):
    evaluate, settings = _MODELS[model](), _SETTINGS[settings]
    orders = [np.random.default_rng(3).permutation(9), np.array([2, 0, 1])]
    both = np.concatenate([orders[0], 9 + orders[1]])
    expected = evaluate(_structures(), settings)
    actual = evaluate(
      [_permuted(s, order) for s, order in zip(_structures(), orders, strict=True)],
      settings,
    )
    _assert_close(actual["energy"], expected["energy"])
    _assert_close(actual["forces"], expected["forces"][both])

  def test_published_symmetrisation_depends_on_order_where_a_cap_truncates(self):
    # What the published weights expect; `union` is there for those who mind.
    evaluate = small_model.direct()
    expected = evaluate([small_model.crystal()], small_model.PUBLISHED)
    actual = evaluate(
      [_permuted(small_model.crystal(), np.array([2, 0, 1]))], small_model.PUBLISHED
    )
    change = abs(actual["energy"][0] / expected["energy"][0] - 1)
    self.assertGreater(change, 1e-6)

  @parameterized.product(
    model=("direct", "conservative"), repeats=((2, 1, 1), (2, 2, 2))
  )
  def test_supercells_are_extensive_where_no_cap_truncates(self, model, repeats):
    evaluate, crystal = _MODELS[model](), small_model.crystal()
    cells = np.array(list(np.ndindex(repeats)))
    copies = len(cells)
    supercell = helpers.make_structure(
      np.concatenate([crystal.positions + cell @ crystal.cell for cell in cells]),
      numbers=np.tile(crystal.atomic_numbers, copies),
      cell=np.array(repeats)[:, None] * crystal.cell,
      pbc=True,
    )
    expected, actual = evaluate([crystal]), evaluate([supercell])
    _assert_close(actual["energy"], copies * expected["energy"])
    _assert_close(actual["forces"], np.tile(expected["forces"], (copies, 1)))
    if "stress" in expected:
      _assert_close(actual["stress"], expected["stress"])

  @parameterized.product(model=("direct", "conservative"))
  def test_structures_of_a_batch_do_not_see_each_other(self, model):
    evaluate = _MODELS[model]()
    structures = [small_model.molecule("H2O"), *_structures()]
    together = evaluate(structures)
    alone = [evaluate([structure]) for structure in structures]
    for name, value in together.items():
      expected = np.concatenate([single[name] for single in alone])
      _assert_close(value, expected, 1e-12)


if __name__ == "__main__":
  absltest.main()
