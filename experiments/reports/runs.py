"""Fine-tuning runs as they lie on disk: found, read, and those that cannot be used."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
import pathlib
from typing import Any
from typing import NamedTuple

from experiments.command_line import command
from experiments.reports import origins
from experiments.reports import result as result_lib
from experiments.reports import settings as settings_lib
from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.training import run_directory
from jmp_hk.training import writers

_HOUR = 3600.0
_MARK = "--test_split="  # Only flag files of fine-tuning have it.


class UnfinishedRunError(ValueError):
  """A directory holds no finished fine-tuning run."""


class DamagedRunError(ValueError):
  """Files of a run cannot be read; names them."""


class Validation(NamedTuple):
  """One validation in the course of a run.

  Attributes:
    device_hours: training time on all devices so far.
    step: optimiser steps so far.
    value: the metric that chooses the weights; lower is better.
  """

  device_hours: float
  step: int
  value: float


@dataclasses.dataclass(frozen=True)
class Run:
  """One finished run.

  Attributes:
    directory: its working directory.
    result: its result.
    model: name of the backbone, that of a preset where it is one.
    sizes: sizes of the backbone by dotted names.
    settings: all other settings that decide its error, see `settings.of_run`.
    seed: its seed; None where it is not known.
    origin: where its initial weights come from; None from scratch.
    validations: all validations in their order.
  """

  directory: pathlib.Path
  result: result_lib.Result
  model: str
  sizes: settings_lib.Settings
  settings: settings_lib.Settings
  seed: int | None
  origin: origins.Origin | None
  validations: tuple[Validation, ...]

  @property
  def device_hours(self) -> float:
    """Training time on all devices."""
    return self.result.seconds * self.result.num_devices / _HOUR

  @property
  def seeds(self) -> tuple[int | None, int | None]:
    """Seeds of the run and of the pre-training that it started from."""
    return self.seed, self.origin.seed if self.origin else None

  @property
  def best(self) -> float:
    """Best validation metric."""
    values = [v.value for v in self.validations if math.isfinite(v.value)]
    return min(values, default=math.nan)

  def first_at(self, value: float) -> Validation | None:
    """The first validation that was this good; None if there was none."""
    return next((v for v in self.validations if v.value <= value), None)

  def is_alike(self, other: "Run") -> bool:
    """Whether two runs differ in fold and seed only."""
    mine, others = self.result, other.result
    return (
      (mine.task, mine.unit, self.model) == (others.task, others.unit, other.model)
      and settings_lib.is_same_count(mine.num_structures, others.num_structures)
      and not settings_lib.differences(self.sizes, other.sizes)
      and not settings_lib.differences(self.settings, other.settings)
      and self.starts_alike(other)
    )

  def starts_alike(self, other: "Run") -> bool:
    """Whether two runs started from scratch, or from weights of the same origin."""
    if self.origin is None or other.origin is None:
      return self.origin is other.origin
    return self.origin.is_same(other.origin)


@dataclasses.dataclass(frozen=True)
class Found:
  """Runs that were looked for.

  Attributes:
    runs: the finished ones.
    left_out: why others cannot be used, by directory.
  """

  runs: tuple[Run, ...]
  left_out: Mapping[pathlib.Path, str]


def find(directories: Iterable[str | pathlib.Path]) -> Found:
  """Reads the runs in directories, which are working directories or hold some.

  A run that is found twice counts once.
  """
  runs: dict[pathlib.Path, Run] = {}
  left_out: dict[pathlib.Path, str] = {}
  for directory in map(pathlib.Path, directories):
    for path in _run_directories(directory) or [directory]:
      try:
        runs[path.resolve()] = load(path)
      except (UnfinishedRunError, DamagedRunError) as error:
        left_out[path] = str(error)
  return Found(tuple(runs.values()), left_out)


def load(directory: pathlib.Path) -> Run:
  """Reads a run.

  Raises:
    UnfinishedRunError: it has not been finished, or was no fine-tuning.
    DamagedRunError: its files cannot be read.
  """
  path = directory / result_lib.FILE
  if not path.is_file():
    what = f"there is no {path.name}" if directory.exists() else "it does not exist"
    raise UnfinishedRunError(
      f"{directory} holds no finished fine-tuning run: {what}. Run "
      "experiments.finetune with this --workdir to its end."
    )
  try:
    result = serialization.load(result_lib.Result, path)
    config_file = directory / run_directory.CONFIG_FILE
    config = strict_json.read(config_file)
    records = writers.read_metrics(directory / writers.METRICS_FILE)
    return _run(directory, result, config, records)
  except (OSError, ValueError, KeyError, TypeError) as error:
    reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    raise DamagedRunError(
      f"The run in {directory} cannot be read: {reason}. Leave it out, or run "
      "experiments.finetune in another directory."
    ) from error


def _run(
  directory: pathlib.Path,
  result: result_lib.Result,
  config: Mapping[str, Any],
  records: Sequence[Mapping[str, Any]],
) -> Run:
  validations = tuple(
    Validation(
      record["seconds"] * result.num_devices / _HOUR,
      record["step"],
      float(record[result.validation_metric]),
    )
    for record in records
    if record["kind"] == "val"
  )
  return Run(
    directory,
    result,
    _model_name(config["trainer"]["model"]["backbone"], result),
    settings_lib.of_model(config),
    settings_lib.of_run(config),
    config["trainer"]["train"].get("seed"),
    _origin(result, directory),
    validations,
  )


def _origin(
  result: result_lib.Result, directory: pathlib.Path
) -> origins.Origin | None:
  if not result.initial:
    return None
  return result.origin or _described(result.initial, directory.resolve().parent)


@functools.cache
def _described(checkpoint: str, directory: pathlib.Path) -> origins.Origin:
  """The origin of a run of an earlier version, which did not store it.

  Relative paths began in the directory in which the run was started; it was a parent
  of that of the run, or is the present one.
  """
  starts = (pathlib.Path(), directory, *directory.parents)
  for path in dict.fromkeys(str(start / checkpoint) for start in starts):
    try:
      return origins.describe(path)
    except model_directory.CheckpointError:
      continue
  return origins.unknown(checkpoint)


def _model_name(stored: serialization.Json, result: result_lib.Result) -> str:
  """Name of the preset that a stored backbone is, else the backbone in words."""
  try:
    own = serialization.from_json(backbone_lib.BackboneConfig, stored)
  except ValueError:  # Of another version, or registered by somebody else's module.
    return result.model
  for name in backbone_lib.presets():
    preset = backbone_lib.preset(name)
    parts = [settings_lib.of_backbone(serialization.to_json(b)) for b in (preset, own)]
    if parts[0] == parts[1]:
      return name
  return result.model or own.describe()


def _run_directories(directory: pathlib.Path) -> list[pathlib.Path]:
  """The directory itself where it is a run's, else those of the runs below it."""
  if (directory / run_directory.CONFIG_FILE).exists() or (
    directory / result_lib.FILE
  ).exists():
    return [directory]
  found = {path.parent for path in directory.rglob(result_lib.FILE)}
  found |= {
    path.parent
    for path in directory.rglob(command.FLAGS_FILE)
    if _MARK in path.read_text(encoding="utf-8", errors="replace")
  }
  return sorted(found)
