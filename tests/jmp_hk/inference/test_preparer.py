"""Sizes and batches are the same from this process and from workers."""

import dataclasses

from absl.testing import absltest
import ase.build
import chex
import numpy as np

from jmp_hk import from_ase
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.inference import preparer as preparer_lib
from jmp_hk.runtime import workers
from tests.jmp_hk.inference import predictors
from tests.jmp_hk.models.gemnet_oc import small_model

_BUILDER = small_model.BACKBONE.graph_builder


def _structures() -> list[structure_lib.Structure]:
  info = predictors.make_info("first")
  return [
    from_ase.from_atoms(ase.build.molecule(name), info, f"{name}{i}")
    for i in range(12)
    for name in ("H2O", "CH4", "H")
  ]


class PreparerTest(absltest.TestCase):
  def test_workers_measure_and_pack_as_this_process_does(self):
    structures = _structures()
    positions = np.full_like(structures[5].positions, np.nan)
    structures[5] = dataclasses.replace(structures[5], positions=positions)
    local = preparer_lib.Preparer(_BUILDER, predictors.WIDE)
    with workers.WorkerPool(1, "died") as pool:
      remote = preparer_lib.Preparer(_BUILDER, predictors.WIDE, pool, num_workers=1)
      ours, theirs = local.prepare(structures), remote.prepare(structures)
      self.assertEqual([_sizes(x) for x in theirs], [_sizes(x) for x in ours])
      self.assertIn("positions are not finite", _sizes(theirs[5]))
      first = [x for x in ours if isinstance(x, preparer_lib.Prepared)][:3]
      again = [x for x in theirs if isinstance(x, preparer_lib.Prepared)][:3]
      self.assertTrue(all(x.graphs is None for x in again))
      budget = budget_lib.with_padding(
        budget_lib.total([x.sizes for x in first], _BUILDER.budget_type)
      )
      for dtype in (np.float32, np.float64):
        chex.assert_trees_all_equal(
          remote.pack(again, budget, dtype)(), local.pack(first, budget, dtype)()
        )

  def test_few_structures_start_no_workers(self):
    with preparer_lib.open_preparer(_BUILDER, predictors.WIDE, 100, 4) as preparer:
      self.assertEqual(preparer.num_ahead, 0)


def _sizes(item):
  return item.sizes if isinstance(item, preparer_lib.Prepared) else str(item)


if __name__ == "__main__":
  absltest.main()
