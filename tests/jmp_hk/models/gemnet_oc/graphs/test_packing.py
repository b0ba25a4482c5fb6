import dataclasses

import chex
import jax
import numpy as np
import pytest

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import packing
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers

TASKS = [1, 0, 2, 0, 1]


def _items():
  structures, _ = helpers.golden_structures("tinyd_mol")
  structures += helpers.golden_structures("tinyd_slab")[0]
  alone = helpers.make_structure([[0.0, 0, 0]], record_id="alone")
  structures.append((alone, structures[0][1], 0))
  items = []
  for index, (structure, config, _) in enumerate(structures):
    rng = np.random.default_rng(index)
    targets = {
      "energy": np.float32(index + 0.5),
      "forces": rng.normal(size=(structure.num_atoms, 3)),
    }
    if index == 2:
      targets |= {"label": np.int64(3), "strain": np.arange(6.0)}
    graphs = gemnet_graphs.BUILDER.build(structure, config)
    items.append(packing.PackItem(graphs, TASKS[index], targets))
  return items


def _budget(items, **extra):
  together = budget_lib.total(
    [gemnet_graphs.BUILDER.sizes(item.graphs) for item in items], gemnet_graphs.Budget
  )
  sizes = dataclasses.asdict(together)
  pad = {"num_graphs": 3, "num_atoms": 5, "num_main": 7, "qint_width": 1}
  sizes = {name: size + pad.get(name, 0) for name, size in sizes.items()}
  return gemnet_graphs.Budget(**(sizes | extra))


def test_every_structure_is_found_back_in_the_batch():
  items = _items()
  budget = _budget(items)
  batch = packing.pack(items, gemnet_graphs.BUILDER, budget, np.float64)
  assert batch.budget == budget
  order = packing.task_order(TASKS)
  assert order.tolist() == [1, 3, 0, 4, 2]
  assert batch.task.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
  first = 0
  for graph, index in enumerate(order):
    item = items[index]
    n = item.graphs.structure.num_atoms
    atoms = slice(first, first + n)
    chex.assert_trees_all_equal(batch.positions[atoms], item.graphs.structure.positions)
    assert (batch.node_graph[atoms] == graph).all() and batch.atom_mask[atoms].all()
    chex.assert_trees_all_equal(batch.targets["forces"][atoms], item.targets["forces"])
    assert batch.targets["energy"][graph] == item.targets["energy"]
    for name in ("main", "a2a", "a2ee2a", "qint"):
      edges = helpers.batch_edges(batch, name)
      mine = {
        (s - first, t - first, *o) for s, t, *o in edges if first <= t < first + n
      }
      assert mine == helpers.edge_set(getattr(item.graphs, name))
      assert getattr(batch.graphs, name).n_edge[graph] == len(mine)
    first += n
  assert batch.targets["label"].tolist() == [0, 0, 0, 0, 3, 0, 0, 0]
  assert batch.targets["label"].dtype == np.int32
  assert batch.targets["strain"][4].tolist() == [0, 1, 2, 3, 4, 5]


def test_padding_follows_jraph_and_points_nowhere():
  items = _items()
  batch = packing.pack(items, gemnet_graphs.BUILDER, _budget(items))
  n = sum(item.graphs.structure.num_atoms for item in items)
  assert not batch.atom_mask[n:].any() and len(batch.atom_mask) == n + 5
  assert (batch.node_graph[n:] == 5).all()
  assert batch.graph_mask.tolist() == [True] * 5 + [False] * 3
  for name in ("main", "a2a", "a2ee2a", "qint"):
    edges = getattr(batch.graphs, name)
    assert edges.n_node.tolist()[5:] == [5, 0, 0]
    assert edges.n_edge.sum() == len(edges.senders)
    real = edges.n_edge[:5].sum()
    assert (edges.senders[real:] == n).all() and (edges.receivers[real:] == n).all()
    assert (np.diff(edges.receivers) >= 0).all()
    assert not edges.edges["cell_offsets"][real:].any()
  real = batch.graphs.main.n_edge[:5].sum()
  assert (batch.graphs.reverse_edge[real:] == np.arange(real, real + 7)).all()
  assert not batch.positions[n:].any() and not batch.graphs.main_slot[real:].any()
  for table in (
    batch.graphs.main_table,
    batch.graphs.a2ee2a_table,
    batch.graphs.qint_table,
    batch.graphs.a2a_senders,
    batch.graphs.quad_exclusion,
  ):
    assert (table[n:] == -1).all()
  assert batch.positions.dtype == np.float32 and batch.cell.dtype == np.float32
  integers = [a for a in jax.tree.leaves(batch) if np.issubdtype(a.dtype, np.integer)]
  assert {a.dtype for a in integers} == {np.dtype(np.int32)}


def test_tables_slots_reverse_and_exclusion_by_lookup():
  items = _items()
  batch = packing.pack(items, gemnet_graphs.BUILDER, _budget(items))
  for name in ("main", "a2ee2a", "qint"):
    table = getattr(batch.graphs, f"{name}_table")
    receivers = getattr(batch.graphs, name).receivers
    ids = table[table >= 0]
    assert sorted(ids) == list(range(batch.atom_mask[receivers].sum()))
    atoms = np.nonzero(table >= 0)[0]
    assert (receivers[ids] == atoms).all()
  main = helpers.batch_edges(batch, "main")
  qint = helpers.batch_edges(batch, "qint")
  for e, edge in enumerate(main):
    assert main[batch.graphs.reverse_edge[e]] == helpers.reverse(edge)
    c, a, *offset = edge
    assert batch.graphs.main_table[a, batch.graphs.main_slot[e]] == e
    row = batch.graphs.quad_exclusion[a, batch.graphs.main_slot[e]]
    for q, exclusion in zip(batch.graphs.qint_table[a], row):
      wanted = None
      if q >= 0:
        b = qint[q][0]
        wanted = (c, b, *(np.array(offset) - np.array(qint[q][2:])).tolist())
      if exclusion >= 0:
        assert main[batch.graphs.main_table[b, exclusion]] == wanted
      else:
        assert wanted not in set(main)
  for (s, t, *_), slot in zip(helpers.batch_edges(batch, "a2a"), batch.graphs.a2a_slot):
    assert batch.graphs.a2a_senders[t, slot] == s


def test_more_padding_changes_no_real_entry():
  items = _items()
  small = packing.pack(items, gemnet_graphs.BUILDER, _budget(items))
  roomy = gemnet_graphs.Budget(9, 99, 2000, 9000, 2000, 999, 60, 40, 30, 9)
  large = packing.pack(items, gemnet_graphs.BUILDER, roomy)
  for name in ("main", "a2a", "a2ee2a", "qint"):
    assert helpers.batch_edges(small, name) == helpers.batch_edges(large, name)
  n, main_width, qint_width = small.graphs.quad_exclusion.shape
  chex.assert_trees_all_equal(
    small.graphs.quad_exclusion[:-5],
    large.graphs.quad_exclusion[: n - 5, :main_width, :qint_width],
  )


def test_empty_batch_and_target_specs():
  items = _items()
  budget = _budget(items)
  specs = {
    "energy": packing.LabelShape(per_atom=False),
    "forces": packing.LabelShape(per_atom=True, shape=(3,)),
    "label": packing.LabelShape(per_atom=False, integer=True),
  }
  empty = packing.pack([], gemnet_graphs.BUILDER, budget, targets=specs)
  full = packing.pack(items, gemnet_graphs.BUILDER, budget, targets=specs)
  shapes = lambda batch: jax.tree.map(lambda a: (a.shape, a.dtype), batch)
  assert shapes(empty) == shapes(full)
  assert not empty.atom_mask.any() and not empty.graph_mask.any()
  assert (
    set(packing.pack(items, gemnet_graphs.BUILDER, budget, targets={}).targets) == set()
  )
  bad = packing.PackItem(items[0].graphs, 0, {"energy": np.zeros(3)})
  with pytest.raises(ValueError, match="tinyd_mol:0.*'energy'.*shape"):
    packing.pack([bad], gemnet_graphs.BUILDER, budget, targets=specs)


@pytest.mark.parametrize("field", budget_lib.padded_names(gemnet_graphs.Budget))
def test_errors_name_structure_field_and_size(field):
  items = _items()
  sizes = gemnet_graphs.BUILDER.sizes(items[3].graphs)
  needed = getattr(sizes, field)
  padding = field in ("num_graphs", "num_atoms")
  budget = _budget(items, **{field: needed - 1 + padding})
  with pytest.raises(budget_lib.BudgetError) as error:
    packing.pack([items[3]], gemnet_graphs.BUILDER, budget)
  message = str(error.value)
  assert "tinyd_slab:0" in message and f"{field}={needed}" in message
  assert f"--budget={field}={needed + padding}" in message
  # Together too much, though each alone fits.
  with pytest.raises(budget_lib.BudgetError, match="batch of 5.*num_atoms"):
    packing.pack(items, gemnet_graphs.BUILDER, _budget(items, num_atoms=44))


def test_chosen_budget_fits_and_utilisation_is_reported():
  sizes = [gemnet_graphs.BUILDER.sizes(item.graphs) for item in _items()]
  config = budget_lib.BudgetConfig(structures=3, overrides={"num_qint": 500})
  budget = budget_lib.choose_budget(sizes, config, limits={"qint_width": 8})
  assert budget.num_qint == 500 and budget.qint_width == 8
  for entry in sizes:
    budget_lib.check_fits(entry, budget, "x")
  mean = np.mean([entry.num_main for entry in sizes])
  largest = max(entry.num_main for entry in sizes)
  assert budget.num_main >= max(3 * mean, largest) and budget.num_main % 16 == 0
  used = budget_lib.utilisation(sizes[:2], budget)
  assert used["num_main"] == (sizes[0].num_main + sizes[1].num_main) / budget.num_main
  with pytest.raises(ValueError, match="no fields"):
    budget_lib.override(budget, {"edges": 3})
  with pytest.raises(ValueError, match="at least 2"):
    budget_lib.override(budget, {"num_atoms": 1})
  with pytest.raises(ValueError, match="empty sample"):
    budget_lib.choose_budget([], config)
