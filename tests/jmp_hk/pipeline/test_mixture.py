import dataclasses
import json
import math

import hypothesis
from hypothesis import strategies as st
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


def _mixture(datasets, chances=(0.3, 0.7), seed=3):
  return mixture.Mixture(tuple(datasets), chances, seed)


def test_draws_follow_the_probabilities(datasets):
  found = mixture.Walk(_mixture(datasets)).find(range(20_000))
  share = np.mean([draw.dataset for draw in found])
  assert abs(share - 0.7) < 0.015
  other = mixture.Walk(_mixture(datasets, seed=4)).find(range(99))
  assert [draw.dataset for draw in other] != [draw.dataset for draw in found[:99]]


def test_every_dataset_goes_through_its_epochs(datasets):
  found = mixture.Walk(_mixture(datasets)).find(range(20_000))
  for number, dataset in enumerate(datasets):
    count = dataset.num_structures
    indices = [draw.index for draw in found if draw.dataset == number]
    epochs = [indices[i : i + count] for i in range(0, len(indices) - count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == len(epochs) > 100


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(st.data())
def test_a_draw_is_the_same_wherever_a_walk_begins(datasets, data):
  drawn = _mixture(datasets)
  everything = mixture.Walk(drawn).find(range(30_000))
  stride = data.draw(st.integers(1, 9000))
  numbers = list(range(data.draw(st.integers(0, stride)), 30_000, stride))
  cut = data.draw(st.integers(0, len(numbers)))
  walk = mixture.Walk(drawn)
  first = walk.find(numbers[:cut])
  assert first == [everything[number] for number in numbers[:cut]]
  # What is still needed reaches back from where the walk has come to.
  needed = max(0, cut - data.draw(st.integers(0, 5)))
  position = json.loads(json.dumps(walk.position((numbers + [30_000])[needed])))
  rest = mixture.Walk(drawn, position).find(numbers[needed:])
  assert rest == [everything[number] for number in numbers[needed:]]


def test_one_dataset_is_drawn_always(datasets):
  found = mixture.Walk(_mixture(datasets[:1], (1.0,))).find([*range(100), 10**12])
  assert {draw.dataset for draw in found} == {0}
