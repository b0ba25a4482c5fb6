"""Checkpoints of a run: atomic and self-contained; the last and the best are kept.

A checkpoint is a directory CHECKPOINTS/STEP with

  model/config.json  format version, model configuration, constants of every dataset
  params, ema        weights and their moving average, by parameter path
  scales             fitted scale factors of the model
  optimizer          state of the optimiser and what else a step changes
  host/state.json    data position, early stopping and other host state (JSON)
  metrics/metrics    validation metrics, where the step had an evaluation

which appears under its name only when it is complete, and does not change any more but
for metrics that a signal has prevented. Whoever needs the model alone
reads it with `jmp_hk.checkpoints.model_directory`.
"""

from collections.abc import Mapping
import json
import math
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from jmp_hk import files
from jmp_hk.models import parameters
from jmp_hk.runtime import processes
from jmp_hk.training import state as state_lib

FORMAT_VERSION = 1
MODEL_FILE = "config.json"
HOST_FILE = "state.json"
BEST_KEY = "primary"
_ARRAY_ITEMS = ("params", "ema", "scales", "optimizer")
# Fields of `TrainState` that go into the item "optimizer".
_OPTIMIZER_FIELDS = ("step", "opt_state", "key", "plateau", "halted")

policies = ocp.checkpoint_managers


class Checkpointer:
  """Writes checkpoints in the background, and restores the newest."""

  def __init__(
    self,
    directory: pathlib.Path,
    model: Mapping[str, Any],
    *,
    keep_last: int = 2,
    keep_best: int = 1,
  ) -> None:
    """Opens a directory; makes it if it does not exist.

    What a killed program has left half written is removed.

    Args:
      directory: directory of the checkpoints.
      model: JSON values that describe the model, see `model_directory.describe`.
      keep_last: how many of the newest checkpoints are kept.
      keep_best: how many of the best checkpoints are kept besides.
    """
    self._directory = directory
    self._model = model
    metric = lambda metrics: metrics[BEST_KEY]
    keep: list[policies.PreservationPolicy] = [policies.LatestN(keep_last)]
    if keep_best:
      keep.append(policies.BestN(get_metric_fn=metric, reverse=True, n=keep_best))
    self._manager = ocp.CheckpointManager(
      directory.absolute(),
      options=ocp.CheckpointManagerOptions(
        best_fn=metric,
        best_mode="min",
        preservation_policy=policies.AnyPreservationPolicy(keep),
        cleanup_tmp_directories=True,
      ),
      item_handlers={
        "model": ocp.JsonCheckpointHandler(MODEL_FILE),
        "host": ocp.JsonCheckpointHandler(HOST_FILE),
        **{name: ocp.StandardCheckpointHandler() for name in _ARRAY_ITEMS},
      },
    )

  @property
  def latest_step(self) -> int | None:
    """Step of the newest complete checkpoint, or None."""
    return self._manager.latest_step()

  def save(
    self,
    state: state_lib.TrainState,
    host: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    primary: float | None = None,
  ) -> None:
    """Saves a state; returns once it is copied and writes in the background.

    Args:
      state: the state; it may be donated as soon as this returns.
      host: JSON values that belong to the same moment.
      metrics: validation metrics of this step, if it had an evaluation.
      primary: value of the metric that decides which checkpoint is best; less is
        better.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        model=ocp.args.JsonSave(dict(self._model)),
        host=ocp.args.JsonSave(dict(host)),
        **{
          name: ocp.args.StandardSave(parameters.flatten(tree))
          for name, tree in _array_items(state).items()
        },
      ),
      metrics=_metrics(metrics, primary),
    )

  def add_metrics(
    self, step: int, metrics: Mapping[str, float], primary: float
  ) -> None:
    """Adds the metrics of an evaluation to a checkpoint that was saved before it.

    Args:
      step: step of the checkpoint.
      metrics: as of `save`.
      primary: likewise.
    """
    if processes.is_first():
      files.write_atomically(
        self.path(step) / "metrics" / "metrics", json.dumps(_metrics(metrics, primary))
      )
    processes.wait_for_all("metrics added")
    self._manager.reload()  # It ranks checkpoints by what it has read.

  def path(self, step: int) -> pathlib.Path:
    """Directory of a checkpoint."""
    return self._directory / str(step)

  def restore(
    self, target: state_lib.TrainState
  ) -> tuple[state_lib.TrainState, dict[str, Any]]:
    """Reads the newest checkpoint.

    Args:
      target: a state of the same structure, e.g. a fresh one; its values are not
        used.

    Returns:
      The state with NumPy leaves, and the host's JSON values.

    Raises:
      ValueError: the weights do not match; the message names them.
      FileNotFoundError: there is no checkpoint.
    """
    step = self.latest_step
    if step is None:
      raise FileNotFoundError(f"There is no checkpoint in {self._manager.directory}.")
    items = _array_items(target)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        host=ocp.args.JsonRestore(),
        **{name: ocp.args.StandardRestore() for name in items},
      ),
    )
    values = {
      name: parameters.unflatten(restored[name], tree) for name, tree in items.items()
    }
    optimizer = values.pop("optimizer")
    state = target.replace(**values, **optimizer)  # pyright: ignore[reportAttributeAccessIssue]
    return state, dict(restored["host"])

  def wait(self) -> None:
    """Waits until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits until everything is on disk, and stops the background threads."""
    self._manager.wait_until_finished()
    self._manager.close()


def complete_steps(directory: pathlib.Path) -> list[int]:
  """Steps of the complete checkpoints in a directory, ascending; needs no Orbax."""
  if not directory.is_dir():
    return []
  names = [path.name for path in directory.iterdir() if path.is_dir()]
  return sorted(int(name) for name in names if name.isdigit())


def _array_items(state: state_lib.TrainState) -> dict[str, Any]:
  """The trees that make up a state, by item; empty ones are left out."""
  optimizer = {name: getattr(state, name) for name in _OPTIMIZER_FIELDS}
  trees = (state.params, state.ema, state.scales, optimizer)
  items = dict(zip(_ARRAY_ITEMS, trees, strict=True))
  return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _metrics(
  metrics: Mapping[str, float] | None, primary: float | None
) -> dict[str, float]:
  """Metrics as Orbax ranks them: infinitely bad where there are none."""
  value = math.inf if primary is None or math.isnan(primary) else float(primary)
  return {**(metrics or {}), BEST_KEY: value}
