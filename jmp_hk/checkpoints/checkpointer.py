"""Checkpoints of a run: atomic and self-contained; the last and the best are kept.

A checkpoint is a directory CHECKPOINTS/STEP with

  model/config.json  format version, model configuration, constants of every dataset
  params, ema        weights and their moving average, by parameter path
  scales             fitted scale factors of the model
  optimizer          state of the optimiser and what else a step changes
  host/state.json    data position, early stopping and other host state (JSON)
  metrics/metrics    validation metrics, where the step had an evaluation
  manifest/manifest.json  checksums of all of this, see `jmp_hk.checkpoints.manifest`

which appears under its name only when it is complete, and does not change any more but
for metrics that a signal has prevented. Whoever needs the model alone
reads it with `jmp_hk.checkpoints.model_directory`.
"""

from collections.abc import Mapping
import json
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from jmp_hk import files
from jmp_hk import strict_json
from jmp_hk.checkpoints import damaged as damaged_lib
from jmp_hk.checkpoints import manifest as manifest_lib
from jmp_hk.checkpoints import parts
from jmp_hk.models import parameters
from jmp_hk.runtime import processes
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
MODEL_FILE = manifest_lib.DOCUMENTS["model"]
HOST_FILE = manifest_lib.DOCUMENTS["host"]
_ARRAY_ITEMS = manifest_lib.ARRAYS
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

    What a killed program has left half written is removed. Checkpoints whose
    metrics are damaged are moved into `damaged.FOLDER`, but for the newest.

    Args:
      directory: directory of the checkpoints.
      model: JSON values that describe the model, see `model_directory.describe`.
      keep_last: how many of the newest checkpoints are kept.
      keep_best: how many of the best checkpoints are kept besides.
    """
    self._directory = directory
    self._model = model
    if processes.is_first():
      damaged_lib.put_aside_unranked(directory, complete_steps(directory))
    processes.wait_for_all("metrics checked")
    metric = lambda metrics: metrics[parts.BEST_KEY]
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
        manifest_lib.ITEM: ocp.JsonCheckpointHandler(manifest_lib.FILE),
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
    documents = {"model": dict(self._model), "host": dict(host)}
    arrays = {k: parameters.flatten(tree) for k, tree in _array_items(state).items()}
    manifest = _manifest(step, arrays, documents) if processes.is_first() else {}
    documents |= {manifest_lib.ITEM: manifest}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        **{name: ocp.args.JsonSave(values) for name, values in documents.items()},
        **{name: ocp.args.StandardSave(flat) for name, flat in arrays.items()},
      ),
      metrics=parts.ranked_metrics(step, metrics, primary),
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
        self.path(step) / parts.METRICS_FILE,
        json.dumps(parts.ranked_metrics(step, metrics, primary)),
      )
    processes.wait_for_all("metrics added")
    self._manager.reload()  # It ranks checkpoints by what it has read.

  def path(self, step: int) -> pathlib.Path:
    """Directory of a checkpoint."""
    return self._directory / str(step)

  def restore(
    self, target: state_lib.TrainState
  ) -> tuple[state_lib.TrainState, dict[str, Any]]:
    """Reads the newest checkpoint that is whole.

    Newer ones that are damaged are moved out of the way, into `damaged.FOLDER` beside
    the folder of the checkpoints, and a warning says what is wrong with them.

    Args:
      target: a state of the same structure, e.g. a fresh one; its values are not
        used.

    Returns:
      The state with NumPy leaves, and the host's JSON values.

    Raises:
      ValueError: the weights do not match; the message names them.
      CheckpointError: all checkpoints are damaged; says what is wrong with each.
      FileNotFoundError: there is no checkpoint.
    """
    self.wait()
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(f"There is no checkpoint in {self._manager.directory}.")
    problems: dict[int, str] = {}
    for step in steps:
      items, host, problem = self._read_or_explain(step, list(_array_items(target)))
      # What one process cannot read no process uses.
      problem = next(filter(None, sharding.gather_json(problem)), None)
      if problem is None:
        self._move_away(problems, step)
        return _restored(items, target), host
      problems[step] = problem
    raise manifest_lib.DamagedError(
      f"No checkpoint in {self._directory} is whole. {damaged_lib.listed(problems)} "
      "Copy one of them again from where there is a whole one, or start a new run in "
      "another directory."
    )

  def _read_or_explain(
    self, step: int, items: list[str]
  ) -> tuple[dict[str, parts.Arrays], dict[str, Any], str | None]:
    """Arrays and host values of a checkpoint, or empty ones and what is wrong."""
    path = self.path(step)
    try:
      manifest = manifest_lib.read(path)
      if manifest is None:
        manifest_lib.tell_unverified(path)
      else:
        own = [*manifest.documents, *manifest.arrays]
        manifest_lib.check_parts(path, manifest, own)
      parts.read_document(path, "model", manifest)
      host = parts.read_document(path, "host", manifest)
      items = [item for item in items if manifest is None or item in manifest.arrays]
      return (
        {item: parts.read_arrays(path, item, manifest) for item in items},
        host,
        None,
      )
    except manifest_lib.DamagedError as error:
      return {}, {}, str(error)

  def _move_away(self, problems: Mapping[int, str], step: int) -> None:
    """Makes a step the newest checkpoint, and says why."""
    if not problems:
      return
    if processes.is_first():
      folder = self._directory.parent / damaged_lib.FOLDER
      logger.warning(
        "%s The run goes on from step %d; %s moved to %s.",
        damaged_lib.listed(problems),
        step,
        "what is damaged is" if len(problems) == 1 else "the damaged ones are",
        folder,
      )
      for damaged in problems:
        damaged_lib.move(self.path(damaged), folder)
    processes.wait_for_all("damaged checkpoints moved")
    self._manager.reload()

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


def _manifest(
  step: int,
  arrays: Mapping[str, parts.Arrays],
  documents: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
  """The manifest of a checkpoint as JSON values."""
  return manifest_lib.Manifest(
    step,
    {item: manifest_lib.describe_arrays(flat) for item, flat in arrays.items()},
    {item: strict_json.checksum(values) for item, values in documents.items()},
    has_metrics=True,
  ).to_json()


def _restored(
  items: Mapping[str, parts.Arrays], target: state_lib.TrainState
) -> state_lib.TrainState:
  """The state whose arrays were read."""
  values = {
    name: parameters.unflatten(items.get(name, {}), tree)
    for name, tree in _array_items(target).items()
  }
  optimizer = values.pop("optimizer")
  return target.replace(**values, **optimizer)  # pyright: ignore[reportAttributeAccessIssue]


def _array_items(state: state_lib.TrainState) -> dict[str, Any]:
  """The trees that make up a state, by item; empty ones are left out."""
  optimizer = {name: getattr(state, name) for name in _OPTIMIZER_FIELDS}
  trees = (state.params, state.ema, state.scales, optimizer)
  items = dict(zip(_ARRAY_ITEMS, trees, strict=True))
  return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
