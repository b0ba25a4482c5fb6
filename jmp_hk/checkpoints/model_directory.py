"""Reads a trained model from a checkpoint, without data pipeline or optimiser.

Prediction, the calculator, evaluation and fine-tuning get their models here; where the
weights may also lie in a PyTorch file, they use `jmp_hk.checkpoints.loading`.
"""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from jmp_hk import dataset_info as info_lib
from jmp_hk import serialization
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters

CHECKPOINTS = "checkpoints"  # The folder of a run's checkpoints.
_ORIGIN = ("licence", "provenance")


class CheckpointError(ValueError):
  """A checkpoint is missing or cannot be understood; the message says what to do."""


class LoadedModel(NamedTuple):
  """A trained model.

  Attributes:
    config: the model's configuration.
    infos: constants of each task's dataset by name.
    variables: parameters and scale factors, NumPy.
    step: training step of the checkpoint; 0 where nothing says.
    path: the checkpoint's directory, or the PyTorch file.
    origin: "licence" and "provenance" of the weights, JSON values; empty where nothing
      is known.
  """

  config: model_lib.ModelConfig
  infos: dict[str, info_lib.DatasetInfo]
  variables: model_lib.Variables
  step: int
  path: pathlib.Path
  origin: dict[str, Any]


def describe(
  config: model_lib.ModelConfig,
  infos: Mapping[str, info_lib.DatasetInfo],
  budget: budget_lib.Budget | None = None,
  origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """JSON values that make a checkpoint self-contained.

  Args:
    config: configuration of the model.
    infos: constants of each task's dataset by name.
    budget: sizes of the batches that the model was trained on.
    origin: licence and provenance of the weights that training started from, see
      `read_origin`; the licence applies to what is trained from them, too.
  """
  return {
    "format_version": checkpointer_lib.FORMAT_VERSION,
    "model": serialization.to_json(config),
    "datasets": serialization.to_json(infos),
    "budget": serialization.to_json(budget),
    **(origin or {}),
  }


def read_origin(directory: str | os.PathLike[str]) -> dict[str, Any]:
  """Licence and provenance of a model's weights.

  Args:
    directory: see `load_model_directory`.

  Returns:
    JSON values "licence" and "provenance"; empty where nothing is known.

  Raises:
    CheckpointError: there is no model.
  """
  return _origin(_read_json(find_checkpoint(directory)))


def load_model_directory(
  directory: str | os.PathLike[str], *, ema: bool = True, step: int | None = None
) -> LoadedModel:
  """Loads a model from a run's directory or a single checkpoint.

  Args:
    directory: a model directory, the working directory of a run, the `checkpoints` in
      it, or one checkpoint.
    ema: whether to take the averaged weights, where the run kept them.
    step: step of the checkpoint; None takes the best by its validation metric, or the
      newest where none has been validated.

  Returns:
    The model.

  Raises:
    CheckpointError: there is no checkpoint, or it cannot be understood.
  """
  path = find_checkpoint(directory, step)
  config, infos = read_description(path)
  weights = "ema" if ema and (path / "ema").is_dir() else "params"
  params = parameters.to_haiku(_read_arrays(path / weights))
  has_scales = (path / "scales").is_dir()
  scales = parameters.to_haiku(_read_arrays(path / "scales")) if has_scales else {}
  variables = model_lib.Variables(params, scales)
  step = int(path.name) if path.name.isdigit() else 0  # A copy may be called anything.
  return LoadedModel(config, infos, variables, step, path, _origin(_read_json(path)))


def find_checkpoint(
  directory: str | os.PathLike[str], step: int | None = None
) -> pathlib.Path:
  """Directory of a checkpoint; arguments and errors as of `load_model_directory`."""
  directory = pathlib.Path(directory)
  if (directory / "model" / checkpointer_lib.MODEL_FILE).is_file():
    return directory
  root = directory / CHECKPOINTS if (directory / CHECKPOINTS).is_dir() else directory
  steps = checkpointer_lib.complete_steps(root)
  if not steps:
    raise CheckpointError(
      f"There is no checkpoint in {directory}: give a model directory, the working "
      "directory of a training run, or a checkpoint in it."
    )
  if step is None:
    scores = {s: _score(root / str(s)) for s in steps}
    step = min(steps, key=lambda s: (scores[s], -s))
  if step not in steps:
    raise CheckpointError(f"{root} has no checkpoint of step {step}, only of {steps}.")
  return root / str(step)


def read_description(
  path: pathlib.Path,
) -> tuple[model_lib.ModelConfig, dict[str, info_lib.DatasetInfo]]:
  """Model configuration and constants of the datasets, without the weights.

  Args:
    path: directory of one checkpoint, see `find_checkpoint`.

  Raises:
    CheckpointError: they cannot be understood.
  """
  file = path / "model" / checkpointer_lib.MODEL_FILE
  data = _read_json(path)
  version = data.get("format_version")
  if not isinstance(version, int) or version > checkpointer_lib.FORMAT_VERSION:
    raise CheckpointError(
      f"{path} has format version {version}, but this program reads versions up to "
      f"{checkpointer_lib.FORMAT_VERSION}: update the program."
    )
  try:
    config = serialization.from_json(model_lib.ModelConfig, data["model"], "model")
    infos = serialization.from_json(
      dict[str, info_lib.DatasetInfo], data["datasets"], "datasets"
    )
  except (KeyError, ValueError) as error:
    raise CheckpointError(f"{file} cannot be understood: {error}") from error
  return config, infos


def _origin(description: Mapping[str, Any]) -> dict[str, Any]:
  """Licence and provenance in what `describe` gave."""
  return {name: description[name] for name in _ORIGIN if name in description}


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """The description in a checkpoint."""
  file = path / "model" / checkpointer_lib.MODEL_FILE
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise CheckpointError(
      f"{path} is no checkpoint of this program: {error}"
    ) from error


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """One item of a checkpoint, by parameter path."""
  with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
    return {
      name: np.asarray(value) for name, value in reader.restore(path.absolute()).items()
    }


def _score(path: pathlib.Path) -> float:
  """The metric that ranks a checkpoint; infinite without an evaluation."""
  try:
    text = (path / "metrics" / "metrics").read_text(encoding="utf-8")
    return float(json.loads(text)[checkpointer_lib.BEST_KEY])
  except (OSError, ValueError, KeyError):
    return float("inf")
