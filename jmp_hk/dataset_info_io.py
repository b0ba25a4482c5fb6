"""`DatasetInfo` ↔ human-readable JSON, for converted datasets and checkpoints."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import re

from jmp_hk import dataset_info
from jmp_hk.graphs import config as graph_config

FILE_NAME = "dataset_info.json"
# No string of this file spans lines, so only lists match.
_NUMBER_LIST = re.compile(r"\[\n\s*[-+.\de]+(?:,\n\s*[-+.\de]+)*\n\s*\]")


class DatasetInfoError(ValueError):
  """A `dataset_info.json` is missing, malformed or of another version."""


def to_dict(info: dataset_info.DatasetInfo) -> dict[str, object]:
  """Plain JSON types for a `DatasetInfo`; `from_dict` inverts it exactly."""
  return _plain(dataclasses.asdict(info))


def from_dict(
  values: Mapping[str, object], origin: str = "dataset info"
) -> dataset_info.DatasetInfo:
  """Rebuilds a `DatasetInfo` from what `to_dict` gave.

  Args:
    values: the plain values.
    origin: file or checkpoint they came from, for messages.

  Raises:
    DatasetInfoError: a field is missing, unknown or of the wrong type, or the
      schema version is newer than this program.
  """
  version = values.get("schema_version")
  if not isinstance(version, int):
    raise DatasetInfoError(f"{origin} has no schema_version; convert the data again.")
  if version > dataset_info.SCHEMA_VERSION:
    raise DatasetInfoError(
      f"{origin} has schema version {version}, but this program reads versions up "
      f"to {dataset_info.SCHEMA_VERSION}: update the program, or convert the raw "
      "data again with this one."
    )
  _check_fields(dataset_info.DatasetInfo, values, origin)
  try:
    return dataset_info.DatasetInfo(
      **{
        **values,
        "graph": _graph(values["graph"], origin),
        "num_structures": {k: int(v) for k, v in values["num_structures"].items()},
        "elements": tuple(int(z) for z in values["elements"]),
        "size_histogram": _by_int(values["size_histogram"], int),
        "energy_references": _by_int(values["energy_references"], float),
        "energy_scale": float(values["energy_scale"]),
        "force_scale": float(values["force_scale"]),
        "targets": {
          name: _target(target, origin)
          for name, target in values.get("targets", {}).items()
        },
      }
    )
  except (TypeError, ValueError, AttributeError, KeyError) as error:
    if isinstance(error, DatasetInfoError):
      raise
    raise DatasetInfoError(f"{origin} holds a wrong value: {error}") from error


def to_json(info: dataset_info.DatasetInfo) -> str:
  """JSON text, two-space indented, lists of numbers on one line, final newline."""
  text = json.dumps(to_dict(info), indent=2, ensure_ascii=False, allow_nan=False)
  return _NUMBER_LIST.sub(lambda match: " ".join(match[0].split()), text) + "\n"


def from_json(text: str, origin: str = "dataset info") -> dataset_info.DatasetInfo:
  """Inverse of `to_json`; raises `DatasetInfoError` as `from_dict` does."""
  try:
    values = json.loads(text)
  except json.JSONDecodeError as error:
    raise DatasetInfoError(f"{origin} is not JSON: {error}") from error
  if not isinstance(values, dict):
    raise DatasetInfoError(f"{origin} is not a JSON object.")
  return from_dict(values, origin)


def load(path: str | pathlib.Path) -> dataset_info.DatasetInfo:
  """Reads `dataset_info.json` from a converted directory, or the file itself.

  Raises:
    DatasetInfoError: it is missing or invalid; the message says what to do.
  """
  path = pathlib.Path(path)
  file = path / FILE_NAME if path.is_dir() else path
  try:
    text = file.read_text(encoding="utf-8")
  except FileNotFoundError as error:
    if path.is_dir():
      hint = "the conversion there is unfinished; run `python -m data.convert` again"
    else:
      hint = "convert the raw files with `python -m data.convert`"
    raise DatasetInfoError(f"{file} does not exist: {hint}.") from error
  return from_json(text, str(file))


def _plain(value: object) -> object:
  if isinstance(value, Mapping):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if hasattr(value, "item") and not isinstance(value, (str, bytes)):
    return value.item()
  return value


def _check_fields(kind: type, values: Mapping[str, object], origin: str) -> None:
  fields = dataclasses.fields(kind)
  unknown = sorted(set(values) - {field.name for field in fields})
  missing = sorted(
    field.name
    for field in fields
    if field.name not in values
    and field.default is dataclasses.MISSING
    and field.default_factory is dataclasses.MISSING
  )
  if unknown or missing:
    raise DatasetInfoError(
      f"{origin}: {kind.__name__} lacks {missing} and does not know {unknown}."
    )


def _by_int(values: Mapping[str, object], kind: type) -> dict[int, object]:
  return {int(key): kind(value) for key, value in values.items()}


def _graph(values: Mapping[str, object], origin: str) -> graph_config.GraphConfig:
  _check_fields(graph_config.GraphConfig, values, origin)
  values = dict(values)
  if "max_neighbors_by_size" in values:
    values["max_neighbors_by_size"] = tuple(
      (int(size), int(cap)) for size, cap in values["max_neighbors_by_size"]
    )
  if "qint_tags" in values:
    values["qint_tags"] = tuple(int(tag) for tag in values["qint_tags"])
  return graph_config.GraphConfig(**values)


def _target(values: Mapping[str, object], origin: str) -> dataset_info.TargetStatistics:
  _check_fields(dataset_info.TargetStatistics, values, origin)
  values = dict(values)
  values["references"] = _by_int(values.get("references", {}), float)
  return dataset_info.TargetStatistics(**values)
