"""Reads a trained model from a checkpoint, without data pipeline or optimiser.

Prediction, the calculator, evaluation and fine-tuning get their models here; where the
weights may also lie in a PyTorch file, they use `jmp_hk.checkpoints.loading`.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
import pathlib
from typing import Any
from typing import NamedTuple

from jmp_hk import dataset_info as info_lib
from jmp_hk import serialization
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.checkpoints import manifest as manifest_lib
from jmp_hk.checkpoints import parts
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters

CHECKPOINTS = "checkpoints"  # The folder of a run's checkpoints.
# Model directories that come with the package and are known by their names.
_SHIPPED = pathlib.Path(__file__).parents[1] / "weights"
_ORBAX_FILE = "_CHECKPOINT_METADATA"  # Orbax makes it in every checkpoint.
_ORIGIN = ("licence", "provenance")


CheckpointError = manifest_lib.CheckpointError


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
      it, one checkpoint, or the name of a model that comes with the package, unless
      there is a file or folder of that name.
    ema: whether to take the averaged weights, where the run kept them.
    step: step of the checkpoint; None takes the best by its validation metric, or the
      newest where none has been validated.

  Returns:
    The model.

  Raises:
    CheckpointError: there is no checkpoint, it cannot be understood, or it is damaged:
      what is read is compared with the checksums in it.
  """
  path = find_checkpoint(directory, step)
  with _explained(path):
    manifest = manifest_lib.read(path)
    if manifest is None:
      manifest_lib.tell_unverified(path)
      own = [item for item in manifest_lib.ARRAYS if (path / item).is_dir()]
      step = int(path.name) if path.name.isdecimal() else 0  # A copy has any name.
    else:
      own, step = list(manifest.arrays), manifest.step
    items = {
      "params": "ema" if ema and "ema" in own else "params",
      **({"scales": "scales"} if "scales" in own else {}),
    }
    if manifest is not None:
      manifest_lib.check_parts(path, manifest, ["model", *items.values()])
    description = _read_description(path, manifest)
    config, infos = _parse(path, description)
    arrays = {
      name: parameters.to_haiku(parts.read_arrays(path, item, manifest))
      for name, item in items.items()
    }
  variables = model_lib.Variables(arrays["params"], arrays.get("scales", {}))
  return LoadedModel(config, infos, variables, step, path, _origin(description))


def shipped() -> tuple[str, ...]:
  """Names of the models that come with the package."""
  return tuple(sorted(path.name for path in _SHIPPED.glob("*/")))


def find_checkpoint(
  directory: str | os.PathLike[str], step: int | None = None
) -> pathlib.Path:
  """Directory of a checkpoint; arguments and errors as of `load_model_directory`."""
  directory = pathlib.Path(directory)
  if not directory.exists() and str(directory) in shipped():
    directory = _SHIPPED / directory
  if _is_checkpoint(directory):
    return directory
  root = directory / CHECKPOINTS if (directory / CHECKPOINTS).is_dir() else directory
  steps = checkpointer_lib.complete_steps(root)
  if not steps:
    raise CheckpointError(
      f"There is no checkpoint in {directory}: give a model directory, the working "
      "directory of a training run, a checkpoint in it, or the name of a model that "
      f"comes with the package ({', '.join(shipped())})."
    )
  if step is None:
    scores = {s: _score(root / str(s)) for s in steps} if len(steps) > 1 else {}
    step = min(steps, key=lambda s: (scores.get(s, 0.0), -s))
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
    CheckpointError: they cannot be understood, or are damaged.
  """
  return _parse(path, _read_json(path))


def _parse(
  path: pathlib.Path, data: Mapping[str, Any]
) -> tuple[model_lib.ModelConfig, dict[str, info_lib.DatasetInfo]]:
  """Model configuration and constants of the datasets in a description."""
  file = path / "model" / checkpointer_lib.MODEL_FILE
  try:
    config = serialization.from_json(model_lib.ModelConfig, data["model"], "model")
    infos = serialization.from_json(
      dict[str, info_lib.DatasetInfo], data["datasets"], "datasets"
    )
  except KeyError as error:
    raise CheckpointError(f"{file} lacks {error}.") from error
  except ValueError as error:
    raise CheckpointError(f"{file} cannot be understood: {error}") from error
  return config, infos


def _origin(description: Mapping[str, Any]) -> dict[str, Any]:
  """Licence and provenance in what `describe` gave."""
  return {name: description[name] for name in _ORIGIN if name in description}


def _is_checkpoint(directory: pathlib.Path) -> bool:
  """Whether a directory is one checkpoint, whole or not."""
  files = (
    directory / "model" / checkpointer_lib.MODEL_FILE,
    manifest_lib.path_of(directory),
    directory / _ORBAX_FILE,
  )
  return any(file.is_file() for file in files)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  """The description in a checkpoint."""
  with _explained(path):
    return _read_description(path, manifest_lib.read(path))


def _read_description(
  path: pathlib.Path, manifest: manifest_lib.Manifest | None
) -> dict[str, Any]:
  """The description in a checkpoint; one of a later version is not verified."""
  description = parts.read_document(path, "model", None)
  version = description.get("format_version")
  if type(version) is not int or not 1 <= version <= checkpointer_lib.FORMAT_VERSION:
    raise CheckpointError(
      f"{path} has format version {version!r}, but this program reads versions 1 to "
      f"{checkpointer_lib.FORMAT_VERSION}: update the program."
    )
  if manifest is not None:
    manifest.check_document("model", description)
  return description


def _score(path: pathlib.Path) -> float:
  """The metric that ranks a checkpoint; infinite without an evaluation."""
  try:
    metrics = parts.read_metrics(path, manifest_lib.read(path))
    return float(metrics.get(parts.BEST_KEY, "inf"))
  except manifest_lib.DamagedError as error:
    raise CheckpointError(
      f"Which checkpoint in {path.parent} is the best cannot be said, because "
      f"{path.name} is damaged: {error}. Name the step of another one, or move this "
      "one away."
    ) from error


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  """Says which checkpoint is damaged, and what can be done."""
  try:
    yield
  except manifest_lib.DamagedError as error:
    others = (
      checkpointer_lib.complete_steps(path.parent) if path.name.isdecimal() else []
    )
    others = [step for step in others if str(step) != path.name]
    advice = f", or load another step of the run, of {others}" if others else ""
    raise CheckpointError(
      f"{path} is damaged: {error}. Copy it again from where it is whole{advice}."
    ) from error
