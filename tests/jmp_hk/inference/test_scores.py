"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from jmp_hk.inference import scores


def test_regression():
  metrics = scores.regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0]))
  assert metrics["mae"] == pytest.approx(1.0)
  assert metrics["rmse"] == pytest.approx(math.sqrt(5 / 3))
  assert metrics["r2"] == pytest.approx(1 - 5 / 2)
  assert math.isnan(scores.regression(np.ones(2), np.ones(2))["r2"])


def test_vectors_count_by_component():
  labels = np.zeros((2, 3))
  metrics = scores.regression(labels, labels + np.array([0.0, 0.0, 6.0]))
  assert metrics["mae"] == pytest.approx(2.0)


def test_two_classes():
  probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
  metrics = scores.classification(np.array([0, 0, 1, 1]), probabilities)
  assert metrics["accuracy"] == 0.5
  assert metrics["f1"] == pytest.approx(0.5)
  assert metrics["auc"] == pytest.approx(3 / 4)
  expected = -np.log([0.9, 0.4, 0.8, 0.3]).mean()
  assert metrics["cross_entropy"] == pytest.approx(expected)


def test_more_classes_and_absent_ones():
  probabilities = np.eye(3) * 0.7 + 0.1
  metrics = scores.classification(np.array([0, 1, 2]), probabilities)
  assert metrics["accuracy"] == 1.0 and metrics["f1"] == 1.0 and metrics["auc"] == 1.0
  assert "auc" not in scores.classification(np.array([0, 1]), probabilities[:2])
