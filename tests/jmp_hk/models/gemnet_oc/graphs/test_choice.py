"""Which edges the limits and truncations of graphs choose."""

import dataclasses

import ase.build
import numpy as np
import pytest

from jmp_hk.graphs import config as graph_config
from jmp_hk.models.gemnet_oc.graphs import choice
from tests import gemnet_graphs
from tests.jmp_hk.graphs import helpers

GRAPHS = ("main", "a2a", "a2ee2a", "qint")
Truncation = graph_config.Truncation


def _config(truncation: Truncation, **changes) -> graph_config.GraphConfig:
  fields = {"cutoff": 6.0, "max_neighbors": 30, "truncation": truncation}
  return graph_config.GraphConfig(**fields | changes)


def _copper(repeats: int = 2, rattle: float = 0.0):
  atoms = ase.build.bulk("Cu", a=3.6, cubic=True).repeat(repeats)
  if rattle:
    atoms.rattle(rattle, seed=0)
  return helpers.make_structure(
    atoms.positions, atoms.numbers.astype(np.int32), atoms.cell.array, True
  )


def _degrees(edges, num_atoms: int) -> set[int]:
  return set(np.bincount(edges.receivers, minlength=num_atoms).tolist())


@pytest.mark.parametrize("truncation", [Truncation.SHELLS, Truncation.SMOOTH])
@pytest.mark.parametrize("seed", range(4))
def test_graphs_of_random_structures_are_consistent(truncation, seed):
  structure = helpers.random_structure(seed, 5, seed % 2 == 0, 2)
  graphs = gemnet_graphs.BUILDER.build(
    structure, _config(truncation, cutoff=5.0, max_neighbors=9)
  )
  helpers.check_structure_graphs(graphs)
  main, a2a = helpers.edge_set(graphs.main), helpers.edge_set(graphs.a2a)
  assert main and main == {helpers.reverse(edge) for edge in main}
  assert helpers.edge_set(graphs.a2ee2a) <= main & a2a
  assert helpers.edge_set(graphs.qint) <= helpers.edge_set(graphs.a2ee2a)


def test_shells_are_taken_whole_and_the_nearer_count_wins():
  # The shells of fcc hold 12, 6, 24, 12, 24 atoms: 12, 18, 42, 54, 78 together.
  structure = _copper()
  for wanted, expected in ((29, 18), (30, 42), (5, 12), (18, 18), (48, 54), (99, 78)):
    config = _config(Truncation.SHELLS, max_neighbors=wanted)
    graphs = gemnet_graphs.BUILDER.build(structure, config)
    assert _degrees(graphs.main, 32) == {expected}, wanted
  graphs = gemnet_graphs.BUILDER.build(structure, _config(Truncation.SHELLS))
  assert _degrees(graphs.a2ee2a, 32) == {18}
  assert _degrees(graphs.qint, 32) == {12}
  published = gemnet_graphs.BUILDER.build(structure, _config(Truncation.PUBLISHED))
  assert len(_degrees(published.main, 32)) > 1


def test_shells_do_not_depend_on_the_order_of_atoms():
  structure = _copper(rattle=0.1)
  order = np.random.default_rng(0).permutation(32)
  place = np.argsort(order)
  permuted = dataclasses.replace(structure, positions=structure.positions[order])
  config = _config(Truncation.SHELLS, max_neighbors=12)
  for name in GRAPHS:
    first, other = (
      helpers.edge_set(getattr(gemnet_graphs.BUILDER.build(s, config), name))
      for s in (structure, permuted)
    )
    moved = {(int(place[s]), int(place[t]), *offset) for s, t, *offset in first}
    assert moved == other, name


def test_smooth_edges_lie_within_the_cutoffs_of_their_ends():
  structure = _copper(rattle=0.1)
  graphs = gemnet_graphs.BUILDER.build(structure, _config(Truncation.SMOOTH))
  distances = helpers.brute_force_edges(structure, 6.0)
  for column, name in enumerate(GRAPHS):
    r = graphs.cutoffs[:, column]
    of_either = name == "main"
    expected = {
      edge
      for edge, d in distances.items()
      if d < r[edge[1]] or (of_either and d < r[edge[0]])
    }
    assert helpers.edge_set(getattr(graphs, name)) == expected, name
  assert (np.diff(graphs.cutoffs[:, [3, 2, 0, 1]], axis=1) > 0).all()


def test_no_neighbors_are_wanted_or_there():
  config = _config(Truncation.SMOOTH, max_neighbors=1)  # No qint, no a2ee2a edges.
  graphs = gemnet_graphs.BUILDER.build(_copper(), config)
  assert len(graphs.main) and not len(graphs.qint) and not len(graphs.a2ee2a)
  alone = helpers.make_structure([[0.0, 0, 0], [9.0, 0, 0]])
  for truncation in Truncation:
    graphs = gemnet_graphs.BUILDER.build(alone, _config(truncation))
    assert not any(len(getattr(graphs, name)) for name in GRAPHS)


def test_dropout_leaves_edges_out_with_their_reverses_where_smooth():
  builder = dataclasses.replace(gemnet_graphs.BUILDER, edge_dropout=0.3)
  config = _config(Truncation.SMOOTH, cutoff=4.0, max_neighbors=60)
  full = gemnet_graphs.BUILDER.build(_copper(), config)
  dropped = builder.build(_copper(), config, np.random.default_rng(0))
  a2a = helpers.edge_set(dropped.a2a)
  assert a2a == {helpers.reverse(edge) for edge in a2a}
  assert 0.6 < len(a2a) / len(full.a2a) < 0.8


@pytest.mark.parametrize("truncation", list(Truncation))
def test_structures_fit_into_the_limits(truncation):
  config = _config(truncation, max_neighbors=14)
  builder = gemnet_graphs.BUILDER
  for structure in (_copper(rattle=0.1), helpers.random_structure(0, 9, False)):
    sizes = builder.build(structure, config).sizes
    for name, limit in builder.limits(structure, config).items():
      assert getattr(sizes, name) <= limit, name
  assert sizes.num_cutoffs == (4 if truncation is Truncation.SMOOTH else 0)


@pytest.mark.parametrize("truncation", list(Truncation))
def test_limits_that_make_no_sense_are_refused_everywhere(truncation):
  for limit in (0, -1):
    with pytest.raises(ValueError, match="max_neighbors must be .* from 1 to"):
      _config(truncation, max_neighbors=limit)


def test_a2a_cap_and_caps_by_size():
  rng = np.random.default_rng(0)
  structure = helpers.make_structure(rng.uniform(0, 6, (50, 3)))
  config = graph_config.GraphConfig(cutoff=20.0, max_neighbors=1)
  graphs = gemnet_graphs.BUILDER.build(structure, config)
  assert choice.neighbor_limits(config, 50).a2a == 33
  assert (np.bincount(graphs.a2a.receivers) == 33).all()
  assert helpers.edge_set(graphs.a2a) == helpers.nearest(
    helpers.brute_force_edges(structure, 20.0), 33
  )
  by_size = dataclasses.replace(
    config, max_neighbors=30, max_neighbors_by_size=((40, 20), (100, 10))
  )
  caps = [choice.neighbor_limits(by_size, n).main for n in (40, 41, 100, 101)]
  assert caps == [30, 20, 20, 10]


def test_unknown_rules_of_symmetrisation_are_refused():
  with pytest.raises(ValueError, match="union"):
    choice.GraphOptions(symmetrize="both")
