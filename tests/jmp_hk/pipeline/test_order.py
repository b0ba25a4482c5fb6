"""The order of an epoch is a permutation, another one in every epoch."""

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from jmp_hk.pipeline import order as order_lib


@hypothesis.settings(deadline=None)
@hypothesis.given(
  count=st.integers(1, 3000),
  seed=st.integers(0, 2**64 - 1),
  epoch=st.integers(0, 10**6),
)
def test_every_epoch_has_every_structure_once(count, seed, epoch):
  order = order_lib.Order(seed, count)
  found = order.indices(np.arange(epoch * count, (epoch + 1) * count))
  assert sorted(found.tolist()) == list(range(count))


@hypothesis.settings(deadline=None)
@hypothesis.given(
  count=st.integers(1, 2**40),
  seed=st.integers(0, 2**64 - 1),
  positions=st.lists(st.integers(0, 2**50), min_size=1, max_size=20),
)
def test_a_place_depends_on_seed_and_position_alone(count, seed, positions):
  together = order_lib.Order(seed, count).indices(positions)
  assert 0 <= together.min() <= together.max() < count
  order = order_lib.Order(seed, count)
  assert [order.index(position) for position in positions] == together.tolist()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_permutations_are_equally_likely(count):
  epochs = 6000
  found = order_lib.Order(7, count).indices(np.arange(epochs * count))
  _, times = np.unique(found.reshape(epochs, count), axis=0, return_counts=True)
  assert len(times) == math.factorial(count)
  expected = epochs / len(times)
  # Chi-squared over its degrees of freedom, less than five deviations above one.
  freedom = len(times) - 1
  chi_squared = ((times - expected) ** 2 / expected).sum() / freedom
  assert chi_squared < 1 + 5 * np.sqrt(2 / freedom)


@pytest.mark.parametrize("other", ["epoch", "seed", "order of the files"])
def test_orders_are_not_correlated(other):
  count, epochs = 200, 400
  found = order_lib.Order(1, count).indices(np.arange(epochs * count))
  first = found.reshape(epochs, count)
  second = {
    "epoch": np.roll(first, 1, axis=0),
    "seed": order_lib.Order(2, count)
    .indices(np.arange(epochs * count))
    .reshape(epochs, count),
    "order of the files": np.tile(np.arange(count), (epochs, 1)),
  }[other]
  correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
  # Of independent permutations, with standard deviation 1 / sqrt(count - 1).
  assert abs(np.mean(correlation)) < 5 / np.sqrt(epochs * (count - 1))
  assert np.max(np.abs(correlation)) < 5 / np.sqrt(count - 1)


def test_neighbors_in_an_epoch_have_nothing_in_common():
  count, epochs = 50, 4000
  found = order_lib.Order(3, count).indices(np.arange(epochs * count))
  found = found.reshape(epochs, count)
  pairs = np.zeros((count, count))
  np.add.at(pairs, (found[:, :-1], found[:, 1:]), 1)
  apart = pairs[~np.eye(count, dtype=bool)]
  expected = epochs / count
  chi_squared = ((apart - expected) ** 2 / expected).mean()
  assert abs(chi_squared - 1) < 5 * np.sqrt(2 / len(apart))


def test_nothing_to_order_is_refused():
  with pytest.raises(ValueError, match="at least one"):
    order_lib.Order(0, 0)
