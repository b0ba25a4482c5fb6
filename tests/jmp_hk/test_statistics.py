"""Statistics are exact, mergeable in any order and fit what NumPy fits."""

import json

import chex
import numpy as np
import pytest

from jmp_hk import serialization
from jmp_hk import statistics as statistics_lib
from jmp_hk import structure as structure_lib

_REFERENCES = {1: -13.6, 6: -1029.4, 8: -2041.8}


def _structures(count, seed=0, noise=1.0):
  rng = np.random.default_rng(seed)
  for _ in range(count):
    numbers = rng.choice(list(_REFERENCES), rng.integers(2, 30))
    energy = sum(_REFERENCES[z] for z in numbers) + noise * rng.normal()
    yield structure_lib.molecule(
      rng.normal(size=(len(numbers), 3)),
      numbers,
      "x",
      energy=float(energy),
      forces=rng.normal(size=(len(numbers), 3)),
      targets={
        "dipole": np.array(rng.normal()),
        "charges": rng.normal(size=(len(numbers), 1)),
      },
    )


def test_merging_does_not_depend_on_order_or_parts():
  structures = list(_structures(60))
  whole = statistics_lib.of_structures(structures)
  parts = [statistics_lib.of_structures(structures[i::7]) for i in range(7)]
  for order in (parts, parts[::-1]):
    merged = statistics_lib.Statistics()
    for part in order:
      # Through JSON, as sidecars are.
      text = json.dumps(serialization.to_json(part))
      merged.merge(serialization.from_json(statistics_lib.Statistics, json.loads(text)))
    assert merged.sizes == whole.sizes and merged.gram == whole.gram
    assert merged.energy == whole.energy and merged.targets == whole.targets


def test_fit_equals_lstsq():
  structures = list(_structures(400))
  statistics = statistics_lib.of_structures(structures)
  fit = statistics_lib.fit_references(statistics, statistics.energy)
  counts = np.array(
    [[np.sum(s.atomic_numbers == z) for z in _REFERENCES] for s in structures]
  )
  energies = np.array([s.energy for s in structures])
  expected, *_ = np.linalg.lstsq(counts.astype(float), energies, rcond=None)
  residual = energies - counts @ expected
  fitted = np.array(list(fit.references.values()))
  chex.assert_trees_all_close(fitted, expected, rtol=1e-10, atol=0)
  assert fit.mean == pytest.approx(residual.mean(), abs=1e-8)
  assert fit.std == pytest.approx(residual.std(), rel=1e-8)
  moments = statistics.targets["charges"].mean_std()
  values = np.concatenate([s.targets["charges"] for s in structures])
  assert moments == pytest.approx((values.mean(), values.std()), rel=1e-9)


def test_residuals_of_a_millionth_survive_energies_of_1e5():
  # In float64 the sum of squares (1e13) would lose residuals of 1e-6 altogether.
  structures = list(_structures(300, noise=1e-6))
  statistics = statistics_lib.of_structures(structures)
  fit = statistics_lib.fit_references(statistics, statistics.energy)
  assert fit.references == pytest.approx(_REFERENCES, abs=1e-6)
  assert fit.std == pytest.approx(1e-6, rel=0.15)


def test_one_composition_gives_a_solution_of_least_norm():
  structures = [
    structure_lib.molecule(np.zeros((3, 3)), [8, 1, 1], "x", energy=-2079.0 + d)
    for d in (-1, 1)
  ]
  statistics = statistics_lib.of_structures(structures)
  fit = statistics_lib.fit_references(statistics, statistics.energy)
  assert fit.references[8] + 2 * fit.references[1] == pytest.approx(-2079.0)
  assert fit.std == pytest.approx(1.0)


def test_nothing_to_fit():
  empty = statistics_lib.Statistics()
  assert statistics_lib.fit_references(empty, empty.energy).references == {}
  assert empty.forces.rms() == 0.0


def test_structures_without_a_label_are_left_out_of_its_fit():
  structures = list(_structures(200))
  # Sodium occurs only where there is no energy.
  bare = structure_lib.molecule(np.zeros((2, 3)), [11, 8], "x")
  labelled = statistics_lib.of_structures(structures, ("energy",))
  both = statistics_lib.of_structures([*structures, bare, bare], ("energy",))
  assert both.missing["energy"].structures == 2 and both.structures == 202
  expected = statistics_lib.fit_references(labelled, labelled.energy, "energy")
  assert statistics_lib.fit_references(both, both.energy, "energy") == expected
  assert set(expected.references) == set(_REFERENCES)
  # Through JSON and in parts, as sidecars are.
  merged = statistics_lib.Statistics()
  for part in (labelled, statistics_lib.of_structures([bare, bare], ("energy",))):
    stored = serialization.to_json(part)
    merged.merge(serialization.from_json(statistics_lib.Statistics, stored))
  assert merged == both
