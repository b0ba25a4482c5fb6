"""Loads a trained model from a checkpoint, without data pipeline or optimiser.

The calculator, prediction, evaluation and fine-tuning start here.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np
import orbax.checkpoint as ocp

from jmp_hk import dataset_info as info_lib
from jmp_hk import serialization
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters

CHECKPOINTS = "checkpoints"  # Below a run's working directory.


class CheckpointError(ValueError):
  """A checkpoint is missing, of a newer format or does not fit; says what to do."""


class LoadedModel(NamedTuple):
  """A trained model.

  Attributes:
    config: the model's configuration.
    infos: `DatasetInfo` of each task by its name: graph settings, scales, references.
    variables: parameters and scale factors, NumPy.
    step: training step of the checkpoint.
    directory: of the checkpoint.
  """

  config: model_lib.ModelConfig
  infos: dict[str, info_lib.DatasetInfo]
  variables: model_lib.Variables
  step: int
  directory: pathlib.Path


def describe(
  config: model_lib.ModelConfig,
  infos: Mapping[str, info_lib.DatasetInfo],
  budget: batch_lib.Budget | None = None,
  origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """JSON values that make a checkpoint self-contained.

  Args:
    config: of the model.
    infos: constants of each task's dataset by name.
    budget: sizes of the batches it was trained on.
    origin: `read_origin` of the model that training started from: its licence holds on.
  """
  return {
    "format_version": checkpointer_lib.FORMAT_VERSION,
    "model": serialization.to_json(config),
    "datasets": serialization.to_json(infos),
    "budget": serialization.to_json(budget),
    **(origin or {}),
  }


def read_origin(directory: str | pathlib.Path) -> dict[str, Any]:
  """Licence and provenance of a model, "licence" and "provenance", if it has any.

  Raises:
    CheckpointError: there is no model.
  """
  data = _read_json(find_checkpoint(directory))
  return {name: data[name] for name in ("licence", "provenance") if name in data}


def load_model_directory(
  directory: str | pathlib.Path, *, ema: bool = True, step: int | None = None
) -> LoadedModel:
  """Loads a model from a run's directory or a single checkpoint.

  Args:
    directory: a working directory, its `checkpoints`, or one checkpoint in there.
    ema: the averaged weights, where the run kept them; else the raw ones.
    step: which checkpoint; by default the best by its validation metric, or the
      newest where none has one.

  Returns:
    The model.

  Raises:
    CheckpointError: there is none, or it cannot be understood.
  """
  path = find_checkpoint(directory, step)
  config, infos = read_description(path)
  weights = "ema" if ema and (path / "ema").is_dir() else "params"
  params = parameters.to_haiku(_read_arrays(path / weights))
  has_scales = (path / "scales").is_dir()
  scales = parameters.to_haiku(_read_arrays(path / "scales")) if has_scales else {}
  variables = model_lib.Variables(params, scales)
  step = int(path.name) if path.name.isdigit() else 0  # A copy may be called anything.
  return LoadedModel(config, infos, variables, step, path)


def find_checkpoint(
  directory: str | pathlib.Path, step: int | None = None
) -> pathlib.Path:
  """Directory of the wanted checkpoint; arguments and errors as above."""
  directory = pathlib.Path(directory)
  if (directory / "model" / checkpointer_lib.MODEL_FILE).is_file():
    return directory
  root = directory / CHECKPOINTS if (directory / CHECKPOINTS).is_dir() else directory
  steps = checkpointer_lib.complete_steps(root)
  if not steps:
    raise CheckpointError(
      f"There is no checkpoint in {directory}: give the --workdir of a training run "
      "or a checkpoint in it."
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
  """Model config and dataset infos of one checkpoint; errors as above."""
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
