import dataclasses
import math

import chex
import numpy as np
import pytest

from jmp_hk.pipeline import mixture


def _sized(datasets, sizes, weights=(None, None)):
  return [
    dataclasses.replace(d, num_structures=n, weight=w)
    for d, n, w in zip(datasets, sizes, weights)
  ]


def test_temperature_and_weights(datasets):
  sized = _sized(datasets, (100, 400))
  np.testing.assert_allclose(mixture.probabilities(sized, 1.0), [0.2, 0.8])
  np.testing.assert_allclose(mixture.probabilities(sized, 2.0), [1 / 3, 2 / 3])
  np.testing.assert_allclose(mixture.probabilities(sized, math.inf), [0.5, 0.5])
  weighted = _sized(datasets, (100, 400), (3, 1))
  np.testing.assert_allclose(mixture.probabilities(weighted, 2.0), [0.75, 0.25])
  with pytest.raises(ValueError, match="molecules"):
    mixture.probabilities(_sized(datasets, (1, 1), (3, None)), 2.0)


def test_an_epoch_loses_no_samples(datasets):
  # The large dataset decides: 400 / (2/3) draws.
  sized = _sized(datasets, (100, 400))
  assert mixture.epoch_length(sized, mixture.probabilities(sized, 2.0)) == 600
  assert mixture.epoch_length(sized, mixture.probabilities(sized, 1.0)) == 500
  assert mixture.epoch_length(sized, mixture.probabilities(sized, math.inf)) == 800


def test_draws_follow_the_probabilities_and_can_be_entered_anywhere():
  chances = np.array([0.1, 0.6, 0.3])
  schedule = mixture.Schedule(3, chances)
  draws = np.array([schedule.dataset_of(t) for t in range(20_000)])
  chex.assert_trees_all_close(
    np.bincount(draws) / len(draws), chances, atol=0.015, rtol=1e-7
  )
  for start in (0, 5, 8191, 8192, 17_000):
    chex.assert_trees_all_equal(
      schedule.counts_before(start), np.bincount(draws[:start], minlength=3)
    )
  other = mixture.Schedule(3, chances)
  for t in (19_000, 3, 8192):
    assert other.dataset_of(t) == draws[t]
  assert any(mixture.Schedule(4, chances).dataset_of(t) != draws[t] for t in range(99))


def test_one_dataset_is_drawn_always():
  schedule = mixture.Schedule(0, np.array([1.0]))
  assert {schedule.dataset_of(t) for t in range(100)} == {0}
