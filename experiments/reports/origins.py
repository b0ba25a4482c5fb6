"""Where initial weights come from: what they were trained on, wherever they lie."""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from experiments.reports import settings as settings_lib
from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk.checkpoints import loading
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import parameters
from jmp_hk.training import run_directory

_SHORT = 12  # Characters of a digest that tell weights apart.
# What an origin may have besides settings of training: None where it has not, because
# a setting that is missing is taken for equal.
_MARKS: Mapping[str, Any] = dict.fromkeys(
  ("weights", "path", "step", "from", "structures")
)


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where initial weights come from.

  Copies of a checkpoint have the same origin, and so have checkpoints of the same
  pre-training with other seeds, whose spread is of interest.

  Attributes:
    name: the file that weights were imported from, or the datasets that the model was
      trained on, joined by "+".
    settings: settings of its training by dotted names, apart from the seed; of weights
      whose training is not known, the digest that tells them apart.
    seed: seed of its training; None where it is not known.
  """

  name: str
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  seed: int | None = None

  def is_same(self, other: "Origin") -> bool:
    """Whether two origins differ in nothing but the seed."""
    return self.name == other.name and not settings_lib.differences(
      self.settings, other.settings
    )


def describe(checkpoint: str) -> Origin:
  """The origin of the model that a run started from.

  Args:
    checkpoint: as `training.config.InitialConfig` has it.

  Raises:
    CheckpointError: there is no such model any more, or it cannot be understood.
  """
  path = pathlib.Path(checkpoint)
  found = _find(path)
  if found is not None and found.parent.name == model_directory.CHECKPOINTS:
    config_file = found.parent.parent / run_directory.CONFIG_FILE
    if config_file.is_file():
      # One of several checkpoints only counts where it was chosen by name.
      step = int(found.name) if path.name == found.name else None
      return _of_run(found, config_file, step)
  loaded = loading.load_model(checkpoint)
  provenance = loaded.origin.get("provenance")
  known = provenance if isinstance(provenance, Mapping) else {}
  name = known.get("imported_from") or _name(loaded.infos)
  if not path.exists():  # A model that is known by its name.
    name = checkpoint
  digest = known.get("sha256") or _digest(loaded)
  return Origin(str(name), {**_MARKS, "weights": digest[:_SHORT]})


def _find(path: pathlib.Path) -> pathlib.Path | None:
  """The checkpoint in a directory; None for models that are no directory."""
  try:
    return model_directory.find_checkpoint(path)
  except model_directory.CheckpointError:
    return None


def unknown(checkpoint: str) -> Origin:
  """The origin of weights of which nothing but their path is left."""
  path = pathlib.Path(checkpoint)
  return Origin(path.name or checkpoint, {**_MARKS, "path": checkpoint})


def _of_run(found: pathlib.Path, config_file: pathlib.Path, step: int | None) -> Origin:
  """The origin of a checkpoint in the directory of its run."""
  _, infos = model_directory.read_description(found)
  try:
    config = strict_json.read(config_file)
    settings = {
      **_MARKS,
      **settings_lib.of_run(config),
      **settings_lib.of_model(config),
    }
    train, initial = config["trainer"]["train"], config["trainer"].get("initial") or {}
  except (ValueError, KeyError, TypeError) as error:
    raise model_directory.CheckpointError(
      f"{config_file} is no configuration of a run: {error!r}"
    ) from error
  if "structures" in config:  # Of jmp_hk.fine_tune, which knows no names of datasets.
    settings["structures"] = str(config["structures"])[:_SHORT]
  datasets = {entry["name"]: entry for entry in config.get("datasets", ())}
  for name, info in infos.items():
    dataset = datasets.get(name, {})
    split = dataset.get("split", "train")
    settings[f"{name}.num_structures"] = info.num_structures.get(split, 0)
    settings[f"{name}.weight"] = dataset.get("weight")
  if step is not None:
    settings["step"] = step
  if "checkpoint" in initial:
    settings["from"] = _identity(initial["checkpoint"])
  return Origin(_name(infos), settings, train.get("seed"))


def _identity(checkpoint: str) -> str:
  """Tells apart what the initial weights were trained from in their turn."""
  try:
    origin = describe(checkpoint)
  except model_directory.CheckpointError:
    return pathlib.Path(checkpoint).name
  text = json.dumps(serialization.to_json(origin.settings), sort_keys=True)
  return f"{origin.name}-{hashlib.sha256(text.encode()).hexdigest()[:_SHORT]}"


def _name(infos: Mapping[str, dataset_info.DatasetInfo]) -> str:
  return "+".join(infos)


def _digest(loaded: model_directory.LoadedModel) -> str:
  """Tells weights apart."""
  digest = hashlib.sha256()
  for name, value in sorted(parameters.flatten(loaded.variables.params).items()):
    digest.update(name.encode() + value.tobytes())
  return digest.hexdigest()
