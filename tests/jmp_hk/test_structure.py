"""Rules that every structure keeps."""

import dataclasses
import re

import numpy as np
import pytest

from jmp_hk import structure as structure_lib


def _crystal(**changes) -> structure_lib.Structure:
  structure = structure_lib.molecule(
    np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
    [11, 17],
    "salt",
    energy=-1.0,
    forces=np.zeros((2, 3)),
    targets={"gap": np.array(1.0), "charges": np.zeros((2, 1))},
  )
  periodic = dataclasses.replace(structure, cell=4 * np.eye(3), pbc=np.ones(3, bool))
  return dataclasses.replace(periodic, **changes)


def test_only_whole_numbers_become_int32():
  for given in (np.array([8.0, 1.0], "f4"), np.array([8, 1], "u1"), [8, 1]):
    found = structure_lib.as_int32(given)
    assert found.dtype == np.int32 and found.tolist() == [8, 1]
  for given in ([1.5], [2.0**40], [2**32 + 6], [np.nan], [1j], ["8"], [True]):
    found = structure_lib.as_int32(given)
    assert found.dtype == np.asarray(given).dtype, given
    molecule = structure_lib.molecule(np.zeros((1, 3)), np.asarray(given), "x")
    assert "expected" in (structure_lib.find_problem(molecule) or ""), given


def test_molecules_are_adsorbates_without_cell():
  molecule = structure_lib.molecule(np.eye(2, 3), [1, 1], "h2", energy=-31.0)
  assert molecule.num_atoms == 2 and molecule.energy == -31.0
  assert not molecule.pbc.any() and not molecule.cell.any() and not molecule.fixed.any()
  assert set(molecule.tags) == {structure_lib.TAG_ADSORBATE}
  assert structure_lib.find_problem(dataclasses.replace(molecule)) is None


@pytest.mark.parametrize(
  "changes, message",
  [
    ({}, None),
    ({"atomic_numbers": np.zeros(0, np.int32)}, "at least one atom"),
    ({"forces": np.zeros((3, 3))}, r"forces of shape \(2, 3\), found \(3, 3\)"),
    ({"atomic_numbers": np.array([11, 119])}, "1 to 118, found 119 at atom 1"),
    ({"tags": np.array([0, 3])}, "tags 0, 1 or 2"),
    ({"energy": float("nan")}, "a finite energy"),
    ({"positions": np.array([[0, 0, 0], [1, np.inf, 1]])}, "finite positions.*row 1"),
    ({"forces": np.full((2, 3), 1e39)}, "finite forces"),
    ({"cell": np.zeros((3, 3))}, "zero volume"),
    ({"cell": np.ones((3, 3)), "pbc": np.array([True, True, False])}, "zero volume"),
    ({"cell": np.diag([4.0, 4, 0]), "pbc": np.array([True, True, False])}, None),
    ({"targets": {"charges": np.zeros((3, 1))}}, r"per atom \(\[2, k\]\)"),
    ({"targets": {"gap": np.array(np.nan)}}, "a finite target 'gap'"),
  ],
)
def test_broken_rules_are_named(changes, message):
  problem = structure_lib.find_problem(_crystal(**changes))
  if message is None:
    assert problem is None
  else:
    assert problem is not None and re.search(message, problem), problem
