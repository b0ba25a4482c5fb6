"""Plateau and early stopping follow the published (torch) rules."""

import math

import chex

from jmp_hk.training import config as config_lib
from jmp_hk.training import stopping


def test_plateau_reduces_after_more_than_patience_bad_evaluations():
  config = config_lib.PlateauConfig(
    factor=0.5, patience=2, threshold=0.1, start_step=10
  )
  state, scales = stopping.init_plateau(), []
  # Step 0 lies before the cosine's end and is ignored. 0.95 is no improvement over 1
  # by a relative 0.1, 0.8 is. NaN is none.
  values = [1.0, 0.95, 0.95, 0.95, 0.8, 0.8, math.nan, 0.8, 0.8, 0.8, 0.8]
  state = stopping.update_plateau(config, state, 0, 1e-9)
  for i, value in enumerate(values):
    state = stopping.update_plateau(config, state, 10 + i, value)
    scales.append(float(state.scale))
  expected = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
  chex.assert_trees_all_close(scales, expected, rtol=1e-7)
  # Without a config nothing happens.
  assert stopping.update_plateau(None, state, 99, 5.0) is state


def test_early_stopping():
  config = config_lib.EarlyStoppingConfig(
    patience=3, min_delta=0.1, min_learning_rate=1e-6
  )
  state = stopping.EarlyStoppingState()
  for step, value in enumerate([1.0, 0.5, 0.45, 0.45]):
    state = stopping.update_early_stopping(config, state, step, value)
    assert stopping.stop_reason(config, state, 1e-3) is None
  assert (state.best, state.best_step, state.bad_evaluations) == (0.5, 1, 2)
  state = stopping.update_early_stopping(config, state, 4, math.nan)
  assert "3 evaluations since step 1" in stopping.stop_reason(config, state, 1e-3)
  fresh = stopping.EarlyStoppingState()
  assert "fell below" in stopping.stop_reason(config, fresh, 1e-7)
  assert stopping.stop_reason(None, state, 0.0) is None
