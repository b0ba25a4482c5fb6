"""What is said of a limited number of neighbors is what the graphs do."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import ase.build
import numpy as np

from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import cuts
from tests.jmp_hk.graphs import helpers

Truncation = graph_config.Truncation

_CONFIG = graph_config.GraphConfig(cutoff=6.0, max_neighbors=30)


def _copper(rattle: float = 0.0):
  # The shells of fcc hold 12, 6, 24, 12, 24 atoms; all of these lie inside 6.3 Å.
  atoms = ase.build.bulk("Cu", a=3.6, cubic=True).repeat(2)
  atoms.rattle(rattle, seed=0)
  return helpers.make_structure(
    atoms.positions, atoms.numbers.astype(np.int32), atoms.cell.array, True
  )


def _molecule():
  atoms = ase.build.molecule("CH3CH2OH")
  return helpers.make_structure(atoms.positions, atoms.numbers.astype(np.int32))


class CutsTest(parameterized.TestCase):
  def test_shells_of_a_crystal_are_cut(self):
    found = cuts.measure([_copper(), _molecule()], _CONFIG)
    self.assertEqual(
      found, cuts.Cuts(atoms=41, cut=32, in_shells=32, neighbors=32 * 78 + 72, most=78)
    )
    advice = cuts.advice(found, _CONFIG)
    self.assertIn(
      "78 % of the atoms have more neighbors inside 6 Å than the 30", advice
    )
    self.assertIn("63 on average, 78 at most), and for 78 % that cuts through", advice)
    self.assertIn('the truncation "smooth" is better.', advice)

  def test_a_limit_between_shells_divides_none(self):
    config = dataclasses.replace(_CONFIG, max_neighbors=42)
    found = cuts.measure([_copper()], config)
    self.assertEqual((found.cut, found.in_shells), (32, 0))
    advice = cuts.advice(found, config)
    self.assertNotIn("shell", advice)
    self.assertIn("78 neighbors would leave none out", advice)

  def test_rattled_crystals_have_no_shells(self):
    found = cuts.measure([_copper(0.1)], _CONFIG)
    self.assertEqual(found.cut, 32)
    self.assertLess(found.in_shells, 32)

  @parameterized.parameters(
    (Truncation.PUBLISHED, True), (Truncation.SHELLS, True), (Truncation.SMOOTH, False)
  )
  def test_smooth_truncation_needs_no_advice(self, truncation, is_advised):
    config = dataclasses.replace(_CONFIG, truncation=truncation)
    found = cuts.measure([_copper()], config)
    self.assertEqual(bool(cuts.advice(found, config)), is_advised)
    self.assertIn(f'"{truncation.value}" truncation', cuts.describe(config))

  def test_nothing_is_said_where_nothing_is_cut(self):
    alone = helpers.make_structure([[0.0, 0, 0]])
    for structures in ([], [alone], [_molecule()]):
      found = cuts.measure(structures, _CONFIG)
      self.assertEqual((found.cut, cuts.advice(found, _CONFIG)), (0, ""))

  def test_limits_by_size_count(self):
    config = dataclasses.replace(_CONFIG, max_neighbors_by_size=((20, 80),))
    self.assertEqual(cuts.measure([_copper()], config).cut, 0)

  def test_it_reads_no_more_than_it_needs(self):
    structures = (_copper() for _ in range(10**6))
    self.assertLess(cuts.measure(structures, _CONFIG).atoms, 5000)


if __name__ == "__main__":
  absltest.main()
