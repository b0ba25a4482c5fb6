"""Graphs from candidates on the device are those of the host."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import ase.build
import chex
import jax
import numpy as np

from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.graphs import layout as layout_lib
from jmp_hk.graphs import moving as moving_lib
from jmp_hk.graphs import packing
from jmp_hk.models.gemnet_oc.graphs import builder as builder_lib
from jmp_hk.models.gemnet_oc.graphs import moving as moving_candidates
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers
from tests.jmp_hk.models.gemnet_oc import small_model

_SKIN = 0.6
# One budget and one set of widths, so that every truncation compiles one program.
_BUDGET = gemnet_graphs.Budget(
  num_graphs=4,
  num_atoms=64,
  num_main=2400,
  num_a2a=4400,
  num_a2ee2a=1400,
  num_qint=700,
  main_width=60,
  a2a_width=48,
  a2ee2a_width=30,
  qint_width=16,
)
_WIDTHS = moving_candidates.Widths(far=72, near=72, qint=32, senders=40)


def _structure(atoms: ase.Atoms, tags: int = 2):
  atoms = atoms.copy()
  atoms.set_tags(tags)
  return dataclasses.replace(
    helpers.make_structure(np.array(atoms.positions), atoms.numbers.astype(np.int32)),
    cell=np.array(atoms.cell),
    pbc=np.array(atoms.pbc),
    tags=np.arange(len(atoms), dtype=np.int32) % 3 if tags < 0 else atoms.get_tags(),
  )


def _cases():
  copper = ase.build.bulk("Cu", cubic=True) * (2, 2, 1)
  slab = ase.build.fcc111("Cu", (2, 2, 3), vacuum=6.0)
  lone = small_model.molecule("H2O", amplitude=0.0)
  return {
    "bulk": [_structure(copper)],
    "slab_with_tags": [_structure(slab, tags=-1)],
    "molecule": [small_model.molecule()],
    "skewed_crystal": [small_model.crystal(1)],
    "batch": [_structure(copper), small_model.molecule(), lone],
    "isolated_atom": [
      dataclasses.replace(
        helpers.make_structure(np.zeros((1, 3)), np.array([6], np.int32))
      )
    ],
  }


def _settings(truncation: str, neighbors: int = 12):
  return graph_config.GraphConfig(
    cutoff=4.6,
    max_neighbors=neighbors,
    truncation=graph_config.Truncation(truncation),
  )


class _Program:
  """Builds graphs on the device with one program."""

  def __init__(self, builder, config):
    self.moving = builder.moving(config, _SKIN)
    self.widths = _WIDTHS
    self.budget = dataclasses.replace(
      _BUDGET,
      num_cutoffs=4 if config.truncation is graph_config.Truncation.SMOOTH else 0,
    )
    self._jitted = jax.jit(
      lambda arrays, atoms: self.moving.build(arrays, atoms, self.budget, np.float64)
    )

  def __call__(self, found, moved):
    entries = [self.moving.find(structure) for structure in found]
    needed = moving_candidates.needed_widths(entries)
    assert self.widths.holds(needed), needed
    arrays = self.moving.pack(entries, self.widths, self.budget.num_atoms)
    layout = layout_lib.Layout([s.num_atoms for s in moved], self.budget, np.float64)
    fields = packing.structure_fields(moved, [0] * len(moved), layout, np.float64)
    atoms = moving_lib.Atoms(
      fields["positions"],
      fields["cell"],
      fields["node_graph"],
      fields["n_node"],
      np.int32(layout.num_atoms),
    )
    with jax.enable_x64(True):
      graphs, needs = jax.device_get(self._jitted(arrays, atoms))
    return graphs, needs


def _keys(graph, num_atoms):
  """(receiver, sender, offset) of every real edge."""
  ends = layout_lib.ends(graph)
  rows = np.column_stack([ends.receivers, ends.senders, ends.cell_offsets])
  return [tuple(row) for row in rows.tolist() if row[0] < num_atoms]


def _canonical(graphs, num_atoms):
  """Everything that graphs say, without the order of edges into an atom."""
  edges = {
    name: _keys(getattr(graphs, name), num_atoms)
    for name in ("main", "a2a", "a2ee2a", "qint")
  }
  main, qint = edges["main"], edges["qint"]
  reverse = {main[e]: main[graphs.reverse_edge[e]] for e in range(len(main))}
  slots = {}
  for name in ("main", "a2ee2a", "qint"):
    table = getattr(graphs, f"{name}_table")
    slots[name] = sorted(
      (atom, edges[name][e]) for atom, row in enumerate(table) for e in row[row >= 0]
    )
  senders = sorted(
    (key, int(graphs.a2a_senders[key[0], slot]))
    for key, slot in zip(edges["a2a"], graphs.a2a_slot, strict=False)
  )
  excluded = set()
  for a, i, q in zip(*np.nonzero(graphs.quad_exclusion >= 0), strict=True):
    b = qint[graphs.qint_table[a, q]][1]
    closing = graphs.main_table[b, graphs.quad_exclusion[a, i, q]]
    excluded.add(
      (main[graphs.main_table[a, i]], qint[graphs.qint_table[a, q]], main[closing])
    )
  for e, key in enumerate(main):
    assert graphs.main_table[key[0], graphs.main_slot[e]] == e
  counts = {name: np.asarray(getattr(graphs, name).n_edge) for name in edges}
  sets = {name: sorted(keys) for name, keys in edges.items()}
  return sets, reverse, slots, senders, excluded, counts


class DeviceGraphsTest(parameterized.TestCase):
  @parameterized.product(
    truncation=("published", "shells", "smooth"), symmetrize=("published", "union")
  )
  def test_graphs_are_those_of_the_host(self, truncation, symmetrize):
    builder = gemnet_graphs.UNION if symmetrize == "union" else gemnet_graphs.BUILDER
    if symmetrize == "union" and truncation != "published":
      self.skipTest("Symmetrised by the union anyway.")
    program = _Program(builder, _settings(truncation))
    for name, structures in _cases().items():
      for seed in range(3):
        with self.subTest(name, seed=seed):
          # The first is not displaced: equal distances are ties.
          self._compare(program, builder, structures, seed, 0.15 * (seed > 0))

  def _compare(self, program, builder, structures, seed, amplitude):
    rng = np.random.default_rng(seed)
    found, moved = [], []
    for structure in structures:
      start = structure.positions + rng.uniform(
        -amplitude, amplitude, structure.positions.shape
      )
      step = rng.uniform(-amplitude, amplitude, structure.positions.shape)
      # Atoms cross the boundaries of the cell without being wrapped.
      found.append(dataclasses.replace(structure, positions=start))
      moved.append(dataclasses.replace(structure, positions=start + step))
    graphs, needs = program(found, moved)
    host = [builder.build(structure, program.moving.config) for structure in moved]
    sizes = budget_lib.total([entry.sizes for entry in host], gemnet_graphs.Budget)
    needed = dict(zip(budget_lib.names(gemnet_graphs.Budget), needs, strict=True))
    for field in ("num_main", "num_a2a", "num_a2ee2a", "num_qint", "main_width"):
      self.assertEqual(needed[field], getattr(sizes, field), field)
    layout = layout_lib.Layout([s.num_atoms for s in moved], program.budget, np.float64)
    expected = builder.pack(host, layout)
    n = layout.num_atoms
    for ours, theirs in zip(
      _canonical(graphs, n), _canonical(expected, n), strict=True
    ):
      chex.assert_trees_all_equal(ours, theirs)
    if expected.cutoffs is not None:
      chex.assert_trees_all_close(graphs.cutoffs, expected.cutoffs, rtol=0, atol=1e-10)
      chex.assert_trees_all_close(graphs.backgrounds, expected.backgrounds, rtol=1e-15)

  def test_what_does_not_fit_is_reported(self):
    builder = builder_lib.GemNetOCGraphBuilder()
    program = _Program(builder, _settings("published"))
    program.budget = dataclasses.replace(_BUDGET, num_main=64, qint_width=2)
    structures = _cases()["bulk"]
    _, needs = program(structures, structures)
    needed = dict(zip(budget_lib.names(gemnet_graphs.Budget), needs, strict=True))
    sizes = builder.build(structures[0], program.moving.config).sizes
    self.assertEqual(needed["num_main"], sizes.num_main)
    self.assertGreater(needed["num_main"], 64)
    self.assertEqual(needed["qint_width"], sizes.qint_width)


if __name__ == "__main__":
  absltest.main()
