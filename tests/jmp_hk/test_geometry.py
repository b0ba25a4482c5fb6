"""Bounds on geometry: what is refused, and that the rest is searched."""

import dataclasses
import re

import ase
import numpy as np
import pytest

from jmp_hk import dataset_info
from jmp_hk import from_ase
from jmp_hk import geometry
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import neighbors

_NO_CELL, _NOT = np.zeros((3, 3)), np.zeros(3, bool)
_ALL = np.ones(3, bool)
_PAIR = np.array([[0.0, 0, 0], [1.0, 1, 1]])
_SLAB = np.array([True, True, False])


@pytest.mark.parametrize(
  "positions, cell, pbc, message",
  [
    (_PAIR, _NO_CELL, _NOT, ""),
    (_PAIR, np.eye(3), _ALL, ""),
    (_PAIR, np.diag([1000.0, 1000, 1000]), _ALL, ""),
    (_PAIR * 3000, _NO_CELL, _NOT, ""),
    (_PAIR * 5000, _NO_CELL, _NOT, "atoms within 3600 Å .* found 5000 Å"),
    (_PAIR * 1e6, _NO_CELL, _NOT, r"at most 100000 Å, found \[1000000.0, .* at atom 1"),
    (_PAIR * 1e6, 5 * np.eye(3), _ALL, "at most 100000 Å"),
    (_PAIR * 9e4, 5 * np.eye(3), _ALL, ""),
    (_PAIR * [1, 1, 1e4], 5 * np.eye(3), _SLAB, "found 10000 Å between them"),
    (_PAIR, np.diag([5.0, 5, 1e5]), _SLAB, ""),
    (_PAIR, np.diag([5.0, 5, 1e5]), _ALL, "a cell of at most 3600 Å .* found 100000 Å"),
    (_PAIR, 0.05 * np.eye(3), _ALL, "50000 atoms and images .* 2 atoms .* 0.05, 0.05"),
    (_PAIR, np.diag([0.001, 5, 5]), np.array([True, False, False]), ""),
    (_PAIR, np.diag([1e-5, 5, 5]), np.array([True, False, False]), "50000 atoms and"),
    # Vectors of usual lengths with hardly anything between two of them.
    (_PAIR, [[3, 0, 0], [3000, 0.3, 0], [0, 0, 3]], _ALL, "50000 atoms and images"),
  ],
)
def test_geometry_that_no_search_ends_on(positions, cell, pbc, message):
  problem = geometry.find_problem(positions, np.asarray(cell, float), pbc)
  if message:
    assert re.search(message, problem), problem
  else:
    assert problem == ""


def test_crowds_are_found_in_large_structures_alone():
  rng = np.random.default_rng(0)
  spread = rng.uniform(0, 40, (5000, 3))
  assert geometry.find_problem(spread, _NO_CELL, _NOT) == ""
  spread[:100] = rng.uniform(10.1, 11.9, (100, 3))
  assert "found 10" in geometry.find_problem(spread, _NO_CELL, _NOT)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_accepted_is_searched(seed):
  # Each was a floating-point exception of the search, or minutes, without the bounds.
  rng = np.random.default_rng(seed)
  cutoff = float(rng.choice([3.0, 6.0, 12.0]))
  count = int(rng.choice([1, 2, 30]))
  spread = rng.integers(0, 2, 3) * 10 ** rng.uniform(0, 6)
  positions = rng.uniform(0, 5, (count, 3)) + rng.integers(0, 2, (count, 1)) * spread
  structure = dataclasses.replace(
    structure_lib.molecule(positions, np.ones(count), "it"),
    cell=np.diag(10 ** rng.uniform(-2, 5, 3)),
    pbc=rng.integers(0, 2, 3).astype(bool),
  )
  problem = geometry.find_problem(positions, structure.cell, structure.pbc, cutoff)
  if problem:
    with pytest.raises(structure_lib.InvalidStructureError, match="^it: expected"):
      neighbors.find_neighbors(structure, cutoff)
  else:
    neighbors.find_neighbors(structure, cutoff)


@pytest.mark.parametrize("seed", range(60))
def test_atoms_at_one_point_are_found_in_any_image(seed):
  rng = np.random.default_rng(seed)
  pbc = rng.integers(0, 2, 3).astype(bool)
  cell = rng.normal(size=(3, 3)) + 8 * np.eye(3)
  positions = rng.uniform(0, 1, (20, 3)) @ cell
  assert geometry.find_coincidence(positions, cell, pbc) == ""
  first, second = rng.choice(20, 2, replace=False)
  if seed % 3 == 0:
    positions[first] = 0  # On the faces of the cell.
  direction = rng.normal(size=3)
  distance = float(rng.choice([0.0, 0.0099, 0.0101]))
  positions[second] = positions[first] + distance * direction / np.linalg.norm(
    direction
  )
  positions[second] += (rng.integers(-2, 3, 3) * pbc) @ cell
  problem = geometry.find_coincidence(positions, cell, pbc)
  if distance > geometry.MIN_DISTANCE:
    assert problem == ""
  else:
    low, high = sorted((first, second))
    assert f"atoms {low} and {high} at a distance of " in problem


@pytest.mark.parametrize(
  "atoms, message",
  [
    (ase.Atoms("CO", [[0, 0, 0], [1e6, 0, 0]]), "at most 100000 Å"),
    (ase.Atoms("CO", [[0, 0, 0], [0, 0, 0]]), "atoms 0 and 1 at a distance of 0 Å"),
    (ase.Atoms("C", cell=[0.05] * 3, pbc=True), "50000 atoms and images"),
    (ase.Atoms("CO", [[0, 0, 0], [5, 0, 5]], cell=[5] * 3, pbc=True), "distance of"),
  ],
)
def test_calculator_and_predictor_refuse_the_same(atoms, message):
  info = dataset_info.PUBLISHED["oc20"]
  with pytest.raises(structure_lib.InvalidStructureError, match=f"^mine: .*{message}"):
    from_ase.from_atoms(atoms, info, "mine")
