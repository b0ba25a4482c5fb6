import dataclasses

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from jmp_hk import structure as structure_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.models.gemnet_oc.graphs import choice
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers

CONFIG = graph_config.GraphConfig()
GRAPHS = ("main", "a2a", "a2ee2a", "qint")


@pytest.mark.parametrize("name", ["tinyd_mol", "tinyd_slab", "tinyd_bulk", "tiny_loss"])
def test_edge_sets_equal_the_published_ones(name):
  structures, data = helpers.golden_structures(name)
  for structure, config, first in structures:
    graphs = gemnet_graphs.BUILDER.build(structure, config)
    for graph in GRAPHS:
      if f"graph/{graph}/edge_index" not in data:
        continue  # tiny_loss holds no symmetrised graph.
      expected = helpers.golden_edge_set(data, graph, first, structure.num_atoms)
      assert helpers.edge_set(getattr(graphs, graph)) == expected, graph
    helpers.check_structure_graphs(graphs)


def test_tiny_loss_main_is_the_symmetrised_raw_graph():
  structures, data = helpers.golden_structures("tiny_loss")
  for structure, config, first in structures:
    raw = helpers.golden_edge_set(data, "main_raw", first, structure.num_atoms)
    graphs = gemnet_graphs.UNION.build(structure, config)
    assert helpers.edge_set(graphs.main) == raw | {helpers.reverse(e) for e in raw}


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 10**6),
  n=st.integers(1, 7),
  pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
  unwrap=st.integers(0, 3),
  zero=st.booleans(),
  cap=st.sampled_from([3, 10, 30]),
)
def test_random_structures_equal_brute_force(seed, n, pbc, unwrap, zero, cap):
  structure = helpers.random_structure(seed, n, pbc, unwrap, zero)
  config = graph_config.GraphConfig(cutoff=5.0, max_neighbors=cap)
  edges = helpers.brute_force_edges(structure, 5.0)
  graphs = gemnet_graphs.BUILDER.build(structure, config)
  helpers.check_structure_graphs(graphs)
  caps = choice.neighbor_limits(config, n)
  assert caps.main == cap
  assert (caps.a2ee2a, caps.qint) == (int(cap * 20 / 30), int(cap * 8 / 30))
  if len(edges) <= caps.a2a:
    assert helpers.edge_set(graphs.a2a) == set(edges)


def test_selection_by_rank_equals_brute_force():
  structure = helpers.random_structure(3, 40, False)
  structure = dataclasses.replace(structure, positions=structure.positions * 1.5)
  config = graph_config.GraphConfig(cutoff=8.0)
  graphs = gemnet_graphs.BUILDER.build(structure, config)
  edges = helpers.brute_force_edges(structure, 8.0)
  main = helpers.nearest(edges, 30)
  kept = {e for e in main if e[0] < e[1]}
  assert helpers.edge_set(graphs.main) == kept | {helpers.reverse(e) for e in kept}
  assert helpers.edge_set(graphs.a2ee2a) == helpers.nearest(edges, 20)
  tags = structure.tags
  assert helpers.edge_set(graphs.qint) == {
    e for e in helpers.nearest(edges, 8) if tags[e[0]] > 0 or tags[e[1]] > 0
  }
  helpers.check_structure_graphs(graphs)


@pytest.mark.parametrize("builder", [gemnet_graphs.BUILDER, gemnet_graphs.UNION])
def test_moving_atoms_by_lattice_vectors_changes_nothing(builder):
  rng = np.random.default_rng(0)
  for name in ("tinyd_slab", "tinyd_bulk"):
    structure = helpers.golden_structures(name)[0][0][0]
    shift = rng.integers(-3, 4, (structure.num_atoms, 3))
    moved = dataclasses.replace(
      structure, positions=structure.positions + shift @ structure.cell
    )
    before, after = (builder.build(s, CONFIG) for s in (structure, moved))
    helpers.check_structure_graphs(after)
    for graph in GRAPHS:
      edges = getattr(after, graph)
      back = edges.offsets + shift[edges.senders] - shift[edges.receivers]
      edges = dataclasses.replace(edges, offsets=back)
      assert helpers.edge_set(edges) == helpers.edge_set(getattr(before, graph)), graph


def _permuted(structure, order):
  return dataclasses.replace(
    structure,
    positions=structure.positions[order],
    atomic_numbers=structure.atomic_numbers[order],
    tags=structure.tags[order],
    fixed=structure.fixed[order],
  )


def _renamed(edges, order):
  """Edges between permuted atoms by their original numbers."""
  return {(int(order[s]), int(order[t]), *o) for s, t, *o in helpers.edge_set(edges)}


def test_union_does_not_depend_on_the_order_of_atoms_but_published_does():
  structure = helpers.golden_structures("tinyd_slab")[0][0][0]
  order = np.random.default_rng(1).permutation(structure.num_atoms)
  permuted = _permuted(structure, order)
  same = {}
  builders = {"union": gemnet_graphs.UNION, "published": gemnet_graphs.BUILDER}
  for symmetrize, builder in builders.items():
    before, after = (builder.build(s, CONFIG) for s in (structure, permuted))
    same[symmetrize] = _renamed(after.main, order) == helpers.edge_set(before.main)
    assert _renamed(after.qint, order) == helpers.edge_set(before.qint)
  assert same == {"union": True, "published": False}


@pytest.mark.parametrize("builder", [gemnet_graphs.BUILDER, gemnet_graphs.UNION])
def test_perfect_crystals_do_not_depend_on_precision(builder):
  # Every cap of a perfect crystal cuts through a shell of equal distances, and for
  # a = 4 Å whole shells lie exactly on the cutoff of 12 Å.
  for lattice in (4.0, 4.05, 3.61):
    cell = lattice * np.eye(3)
    positions = (
      np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) * lattice
    )
    exact = helpers.make_structure(positions, cell=cell, pbc=True)
    single = helpers.make_structure(
      (positions + 3 * lattice).astype(np.float32),
      cell=cell.astype(np.float32),
      pbc=True,
    )
    results = [builder.build(s, CONFIG) for s in (exact, single)]
    for graph in GRAPHS:
      sets = [helpers.edge_set(getattr(r, graph)) for r in results]
      assert sets[0] == sets[1], (lattice, graph)
    for result in results:
      helpers.check_structure_graphs(result)
    if lattice == 4.0:
      assert len(results[0].a2a) == len(helpers.brute_force_edges(exact, 12.0))


def test_ties_are_ordered_by_source_then_offset():
  # Simple cubic, one atom: six self images tie for the first places.
  structure = helpers.make_structure([[0.1, 0.2, 0.3]], cell=3 * np.eye(3), pbc=True)
  config = graph_config.GraphConfig(cutoff=4.0, max_neighbors=2)
  graphs = gemnet_graphs.UNION.build(structure, config)
  assert helpers.edge_set(graphs.a2ee2a) == {(0, 0, -1, 0, 0)}
  config = graph_config.GraphConfig(cutoff=4.0, max_neighbors=30)
  graphs = gemnet_graphs.BUILDER.build(structure, config)
  assert graphs.qint.offsets[:6].tolist() == [
    [-1, 0, 0],
    [0, -1, 0],
    [0, 0, -1],
    [0, 0, 1],
    [0, 1, 0],
    [1, 0, 0],
  ]
  # A ring: both neighbors of an atom are equally far up to less than the tolerance.
  positions = np.array([[0, 0, 0], [1.00004, 0, 0], [-1, 0, 0]])
  ring = helpers.make_structure(positions)
  config = graph_config.GraphConfig(cutoff=8.0, max_neighbors=4)
  graphs = gemnet_graphs.BUILDER.build(ring, config)
  assert (1, 0, 0, 0, 0) in helpers.edge_set(graphs.qint)  # source 1 before source 2
  positions[1, 0] += 1e-3
  graphs = gemnet_graphs.BUILDER.build(helpers.make_structure(positions), config)
  assert (2, 0, 0, 0, 0) in helpers.edge_set(graphs.qint)  # really nearer


def test_no_edges_single_atoms_and_no_qint_edges():
  alone = gemnet_graphs.BUILDER.build(helpers.make_structure([[0.0, 0, 0]]), CONFIG)
  apart = gemnet_graphs.BUILDER.build(
    helpers.make_structure([[0.0, 0, 0], [50, 0, 0]]), CONFIG
  )
  for graphs in (alone, apart):
    assert all(not len(getattr(graphs, graph)) for graph in GRAPHS)
    helpers.check_structure_graphs(graphs)
  crystal = gemnet_graphs.BUILDER.build(
    helpers.make_structure([[0.0, 0, 0]], cell=np.eye(3) * 2.5, pbc=True), CONFIG
  )
  # 26 in full shells, then the first four of six at 5 Å, three of them forward.
  assert len(crystal.main) == 2 * (13 + 3) and len(crystal.a2a_pairs) == 1
  helpers.check_structure_graphs(crystal)
  slab = helpers.random_structure(0, 6, True)
  buried = dataclasses.replace(slab, tags=np.zeros(6, np.int32))
  bare = gemnet_graphs.BUILDER.build(buried, CONFIG)
  assert len(bare.main) and not len(bare.qint)
  helpers.check_structure_graphs(bare)


def test_cutoff_is_strict_only_without_periodicity():
  pair = np.array([[0.0, 0, 0], [3.0, 0, 0]])
  config = graph_config.GraphConfig(cutoff=3.0)
  assert not len(gemnet_graphs.BUILDER.build(helpers.make_structure(pair), config).a2a)
  boxed = helpers.make_structure(pair, cell=20 * np.eye(3), pbc=True)
  assert len(gemnet_graphs.BUILDER.build(boxed, config).a2a) == 2


def test_edge_dropout_comes_before_selection_and_follows_the_seed():
  structure = helpers.golden_structures("tinyd_slab")[0][0][0]
  full = gemnet_graphs.BUILDER.build(structure, CONFIG)
  dropping = dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=0.1)
  drop = lambda seed: dropping.build(structure, CONFIG, np.random.default_rng(seed))
  first, again, other = drop(1), drop(1), drop(2)
  assert helpers.edge_set(first.main) == helpers.edge_set(again.main)
  assert helpers.edge_set(first.a2a) != helpers.edge_set(other.a2a)
  assert 0.85 < len(first.a2a) / len(full.a2a) < 0.95
  # The nearest of those that remain: as many as without dropout.
  assert len(first.a2ee2a) == len(full.a2ee2a)
  assert helpers.edge_set(first.a2ee2a) <= helpers.edge_set(first.a2a)
  helpers.check_structure_graphs(first)
  # Without draws all edges stay in, as in an evaluation.
  assert helpers.edge_set(dropping.build(structure, CONFIG).a2a) == helpers.edge_set(
    full.a2a
  )
  union = dataclasses.replace(gemnet_graphs.UNION, edge_dropout=0.5)
  helpers.check_structure_graphs(
    union.build(structure, CONFIG, np.random.default_rng(0))
  )


def test_bad_input_is_named():
  with pytest.raises(structure_lib.InvalidStructureError, match="test:0.*no volume"):
    gemnet_graphs.BUILDER.build(helpers.make_structure([[0.0, 0, 0]], pbc=True), CONFIG)
  with pytest.raises(structure_lib.InvalidStructureError, match="not finite"):
    gemnet_graphs.BUILDER.build(helpers.make_structure([[np.nan, 0, 0]]), CONFIG)
  with pytest.raises(ValueError, match="edge_dropout"):
    dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=1.0)
