"""Where metrics go: a plain JSONL file and TensorBoard."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import math
import pathlib
from typing import Any
from typing import Protocol

from jmp_hk import files
from jmp_hk import serialization
from jmp_hk import strict_json

METRICS_FILE = "metrics.jsonl"
UNITS_FILE = "metric_units.json"
TENSORBOARD_DIRECTORY = "tensorboard"
# Of what is told of every run.
_UNITS = {
  "seconds": "s",
  "steps_per_second": "1/s",
  "structures_per_second": "1/s",
}


class MetricWriter(Protocol):
  """Takes metrics as they come."""

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Takes the metrics of one moment.

    Args:
      step: optimiser steps taken.
      kind: "train", "val", "val_raw" (validation of the raw weights, where they differ
        clearly from the averaged ones) or another name of a series of metrics.
      values: metrics by name.
    """

  def close(self) -> None:
    """Writes what is still held back."""


class JsonlWriter:
  """One JSON object a line: step, kind and the metrics; flushed at every line.

  Non-finite values are written as strings, so that every line is valid JSON.
  """

  def __init__(
    self, path: pathlib.Path, resume_step: int = 0, *, is_unvalidated: bool = False
  ) -> None:
    """Opens the file; lines after `resume_step` (of a run that was killed) go.

    Args:
      path: the file.
      resume_step: step at which the run continues; 0 empties the file.
      is_unvalidated: whether that step is validated once more, so that the lines of
        its validation go, too.
    """
    kept = [
      line
      for line in read_metrics(path)
      if line["step"] < resume_step
      or (line["step"] == resume_step and not (is_unvalidated and _is_validation(line)))
    ]
    lines = map(_line, kept) if resume_step else []
    files.write_atomically(path, "".join(lines))
    self._file = path.open("a", encoding="utf-8")

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """See `MetricWriter`."""
    self._file.write(_line({"step": step, "kind": kind, **values}))
    self._file.flush()

  def close(self) -> None:
    """See `MetricWriter`."""
    self._file.close()


class TensorBoardWriter:
  """Scalars as "kind/name" in TensorBoard's event files, described with their units."""

  def __init__(
    self,
    directory: pathlib.Path,
    resume_step: int = 0,
    units: Mapping[str, str] | None = None,
  ) -> None:
    """Opens a new event file; events after `resume_step` are hidden.

    Args:
      directory: where the event files lie.
      resume_step: step at which the run continues.
      units: units of metrics by name.
    """
    import tensorboardX  # Slow to import, and only runners write metrics.

    self._units = dict(units or {})
    self._writer = tensorboardX.SummaryWriter(
      str(directory), purge_step=resume_step + 1 if resume_step else None
    )

  def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """See `MetricWriter`."""
    for name, value in values.items():
      unit = self._units.get(name)
      self._writer.add_scalar(
        f"{kind}/{name}", value, step, summary_description=f"In {unit}." if unit else ""
      )

  def close(self) -> None:
    """See `MetricWriter`."""
    self._writer.close()


def open_writers(
  workdir: pathlib.Path,
  resume_step: int,
  units: Mapping[str, str] | None = None,
  *,
  is_unvalidated: bool = False,
) -> Sequence[MetricWriter]:
  """The writers of a run, below its working directory.

  Args:
    workdir: directory of the run.
    resume_step: step at which the run continues.
    units: units of metrics by name; they are stored beside the metrics.
    is_unvalidated: see `JsonlWriter`.
  """
  units = {**(units or {}), **_UNITS}
  files.write_atomically(workdir / UNITS_FILE, json.dumps(units, indent=2) + "\n")
  return (
    JsonlWriter(workdir / METRICS_FILE, resume_step, is_unvalidated=is_unvalidated),
    TensorBoardWriter(workdir / TENSORBOARD_DIRECTORY, resume_step, units),
  )


def read_units(workdir: pathlib.Path) -> dict[str, str]:
  """Units of a run's metrics by name; "" for pure numbers, empty if not stored."""
  path = workdir / UNITS_FILE
  if not path.exists():
    return {}
  return serialization.from_json(dict[str, str], strict_json.read(path), path.name)


class MetricsFileError(ValueError):
  """The metrics of a run cannot be read; names the line."""


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
  """Lines of a metrics file; a last line that was cut off by a kill is left out.

  Args:
    path: the file; it need not exist.

  Raises:
    MetricsFileError: a line before the last cannot be read; names it.
  """
  if not path.exists():
    return []
  lines = path.read_text(encoding="utf-8").splitlines()
  result = []
  for number, line in enumerate(lines, start=1):
    try:
      result.append(_parse_line(line))
    except ValueError as error:
      if number < len(lines):
        raise MetricsFileError(
          f"{path}, line {number} is no JSON as metrics are written: {error}."
        ) from error
  return result


def _parse_line(line: str) -> dict[str, Any]:
  """One line of a metrics file."""
  values = strict_json.parse(line)
  if not isinstance(values, dict) or not (
    type(values.get("step")) is int and isinstance(values.get("kind"), str)
  ):
    raise serialization.SerializationError("it has no step and kind")
  return values


def _is_validation(line: Mapping[str, Any]) -> bool:
  return line["kind"] != "train"


def _line(values: Mapping[str, Any]) -> str:
  plain = {
    k: str(v) if isinstance(v, float) and not math.isfinite(v) else v
    for k, v in values.items()
  }
  return json.dumps(plain) + "\n"
