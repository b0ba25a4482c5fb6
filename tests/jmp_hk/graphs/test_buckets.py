"""Few budgets for many sizes."""

import dataclasses

from absl.testing import absltest
import numpy as np

from jmp_hk.graphs import buckets
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers

_CONFIG = graph_config.GraphConfig(cutoff=6.0, max_neighbors=30)


def _sizes(num_atoms, degree):
  edges = num_atoms * degree
  return gemnet_graphs.Budget(
    num_graphs=1,
    num_atoms=num_atoms,
    num_main=edges,
    num_a2a=2 * edges,
    num_a2ee2a=edges // 2,
    num_qint=edges // 3,
    main_width=degree + 4,
    a2a_width=min(num_atoms, degree),
    a2ee2a_width=min(degree, 20),
    qint_width=min(degree, 8),
  )


class ClassifyTest(absltest.TestCase):
  def _check(self, sizes, classes):
    members = sorted(i for entry in classes for i in entry.members)
    self.assertEqual(members, list(range(len(sizes))))
    for entry in classes:
      for index in entry.members:
        budget_lib.check_fits(sizes[index], entry.budget, str(index))

  def test_everything_fits_in_at_most_four_classes(self):
    rng = np.random.default_rng(0)
    sizes = [
      _sizes(int(n), int(min(n - 1, 30)))
      for n in np.exp(rng.uniform(np.log(2), np.log(2000), 3000))
    ]
    classes = buckets.make_buckets(sizes, gemnet_graphs.BUILDER, _CONFIG, 4096)
    self._check(sizes, classes)
    self.assertLessEqual(len(classes), 4)
    self.assertGreater(len(classes), 1)

  def test_a_few_small_structures_do_not_get_a_class_of_their_own(self):
    sizes = [_sizes(100, 30)] * 50 + [_sizes(3, 2)] * 50
    classes = buckets.make_buckets(sizes, gemnet_graphs.BUILDER, _CONFIG, 4096)
    self._check(sizes, classes)
    self.assertLen(classes, 1)

  def test_a_known_budget_is_used_again_unless_wasteful(self):
    ethanol, water, slab = _sizes(9, 8), _sizes(3, 2), _sizes(100, 30)
    [first] = buckets.make_buckets([ethanol], gemnet_graphs.BUILDER, _CONFIG, 4096)
    [again] = buckets.make_buckets(
      [water], gemnet_graphs.BUILDER, _CONFIG, 4096, [first.budget]
    )
    self.assertEqual(again.budget, first.budget)
    [large] = buckets.make_buckets(
      [slab], gemnet_graphs.BUILDER, _CONFIG, 4096, [first.budget]
    )
    self.assertNotEqual(large.budget, first.budget)
    [small] = buckets.make_buckets(
      [water], gemnet_graphs.BUILDER, _CONFIG, 4096, [large.budget]
    )
    self.assertLess(small.budget.num_main, large.budget.num_main)

  def test_no_structures(self):
    self.assertEmpty(buckets.make_buckets([], gemnet_graphs.BUILDER, _CONFIG, 4096))

  def test_structures_without_edges(self):
    sizes = [_sizes(1, 0)] * 5
    self._check(
      sizes, buckets.make_buckets(sizes, gemnet_graphs.BUILDER, _CONFIG, 4096)
    )


class MovingBudgetTest(absltest.TestCase):
  def test_a_thousand_steps_of_a_melting_crystal_need_at_most_three_budgets(self):
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    cell = np.eye(3) * 5.6
    structure = helpers.make_structure(2.8 * grid, cell=cell, pbc=True)
    moving = buckets.MovingBudget(gemnet_graphs.BUILDER, _CONFIG)
    budgets, counts = set(), set()
    positions = structure.positions.astype(float)
    for _ in range(1000):
      positions = positions + rng.normal(0, 0.03, positions.shape)
      structure = dataclasses.replace(structure, positions=positions)
      sizes = gemnet_graphs.BUILDER.sizes(
        gemnet_graphs.BUILDER.build(structure, _CONFIG)
      )
      counts.add(sizes)
      budget = moving.fit(sizes, structure)
      budget_lib.check_fits(sizes, budget, "step")
      budgets.add(budget)
    self.assertGreater(len(counts), 100)
    self.assertLessEqual(len(budgets), 3)

  def test_a_gas_that_condenses_needs_few_budgets(self):
    rng = np.random.default_rng(1)
    positions = rng.uniform(0, 30, (40, 3))
    moving = buckets.MovingBudget(gemnet_graphs.BUILDER, _CONFIG)
    budgets = set()
    for step in range(500):
      structure = helpers.make_structure(positions * (1 - 0.8 * step / 500))
      sizes = gemnet_graphs.BUILDER.sizes(
        gemnet_graphs.BUILDER.build(structure, _CONFIG)
      )
      budgets.add(moving.fit(sizes, structure))
    self.assertLessEqual(len(budgets), 8)

  def test_a_molecule_gets_no_more_than_all_pairs(self):
    structure = helpers.make_structure(np.random.default_rng(0).uniform(0, 3, (9, 3)))
    sizes = gemnet_graphs.BUILDER.sizes(gemnet_graphs.BUILDER.build(structure, _CONFIG))
    budget = buckets.MovingBudget(gemnet_graphs.BUILDER, _CONFIG).fit(sizes, structure)
    self.assertEqual(budget.num_main, 72)
    self.assertEqual(budget.main_width, 8)
    self.assertEqual(budget.num_atoms, 10)


if __name__ == "__main__":
  absltest.main()
