"""The identity of a conversion: what is converted from what into which shards."""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from data.conversion import base
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import files
from jmp_hk import serialization
from jmp_hk.graphs import config as graph_config
from jmp_hk.runtime import console
from jmp_hk.runtime import workers

STATE = ".conversion"
DEATH_MESSAGE = (
  "A conversion process was killed, perhaps for lack of memory. Run the same command "
  "again to go on, with fewer --num_workers."
)
_EDGE = 1 << 16


class OtherConversionError(base.PlanError):
  """A directory holds what another conversion made.

  Attributes:
    changes: what differs, as "key was old, is new".
  """

  def __init__(self, message: str, changes: Sequence[str]) -> None:
    super().__init__(message)
    self.changes = list(changes)


def select(
  units: Sequence[base.Unit], split: str, source: pathlib.Path
) -> dict[str, list[base.Unit]]:
  """Groups the units of the wanted split, or of all splits for ""."""
  by_split: dict[str, list[base.Unit]] = {}
  for unit in units:
    by_split.setdefault(unit.split, []).append(unit)
  if not by_split:
    raise base.PlanError(f"--input={source} holds nothing to convert.")
  if split and split not in by_split:
    raise base.PlanError(
      f"--input={source} has no split {split!r}; it has {', '.join(by_split)}."
    )
  return {split: by_split[split]} if split else by_split


def check_and_store(
  converter: base.Converter,
  declaration: dataset_summary.Declaration,
  output: pathlib.Path,
  split: str,
  units: Sequence[base.Unit],
) -> None:
  """Stores the plan of a split, or checks that it equals the stored one.

  A stored plan of which no shard is finished is replaced.

  Raises:
    PlanError: `output` holds this split from another plan, or other splits of
      another dataset.
  """
  plan = _describe(converter, declaration, units)
  begun = shards.list_splits(output)
  mine = output / STATE / f"{split}.plan.json"
  for path in sorted((output / STATE).glob("*.plan.json")):
    other = path.name.removesuffix(".plan.json")
    if other not in begun:
      continue
    stored = _upgrade(json.loads(path.read_text(encoding="utf-8")), converter)
    keys = plan if path == mine else ("dataset",)
    changes = [
      f"{key} was {_brief(stored.get(key))}, is {_brief(plan[key])}"
      for key in keys
      if stored.get(key) != plan[key]
    ]
    if changes:
      raise OtherConversionError(
        f"{output} already holds the split {other!r} of another conversion "
        f"({'; '.join(changes)}). Choose another --output, or "
        + (
          "pass --overwrite to replace it."
          if path == mine
          else f"delete {output} first."
        ),
        changes,
      )
  if split not in begun:
    files.write_atomically(mine, json.dumps(plan, indent=1))
  elif not mine.exists():
    raise base.PlanError(
      f"{output} holds shards of split {split!r} without their plan. Choose "
      "another --output or pass --overwrite to replace them."
    )


def remove(output: pathlib.Path, split: str) -> None:
  """Deletes a split; `dataset_info.json` first, since it promises all shards."""
  (output / dataset_info.FILE_NAME).unlink(missing_ok=True)
  for name in (f"{split}.done.json", f"{split}.plan.json"):
    (output / STATE / name).unlink(missing_ok=True)
  if split in shards.list_splits(output):
    for path in output.glob(f"{split}-?????-of-?????*.tfrecord"):
      path.unlink()
  for path in (output / STATE).glob(f"{split}-?????-of-?????*.json"):
    path.unlink()


def checksums(
  converter: base.Converter,
  units: Sequence[base.Unit],
  num_workers: int,
  progress: bool,
) -> list[dict[str, Any]]:
  """Name, size and SHA-256 of every raw file of some units."""
  paths = [converter.root / name for name in _files(units)]
  with contextlib.ExitStack() as stack:
    if num_workers > 1 and len(paths) > num_workers:
      pool = stack.enter_context(workers.WorkerPool(num_workers, DEATH_MESSAGE))
      sums = pool.map(_sha256, paths, chunk_size=8)
    else:
      sums = map(_sha256, paths)
    update = stack.enter_context(
      console.progress("file", "Checksums", is_shown=progress)
    )
    found = []
    for path, value in zip(paths, sums, strict=True):
      name, size = converter.relative(path), path.stat().st_size
      found.append({"name": name, "bytes": size, "sha256": value})
      update(len(found), len(paths))
    return found


def _describe(
  converter: base.Converter,
  declaration: dataset_summary.Declaration,
  units: Sequence[base.Unit],
) -> dict[str, Any]:
  """Everything that shards depend on, for comparison and messages."""
  sources = [_fingerprint(converter.root / name) for name in _files(units)]
  described = [(u.name, u.files, u.payload) for u in units]
  options = dataclasses.asdict(converter.options)
  # Through JSON, so that a stored plan compares equal.
  return json.loads(
    json.dumps(
      {
        "dataset": {
          "name": declaration.name,
          "schema_version": dataset_info.SCHEMA_VERSION,
          "graph": serialization.to_json(declaration.graph),
          "energy": declaration.energy,
          "forces": declaration.forces,
          "targets": {k: dataclasses.asdict(v) for k, v in declaration.targets.items()},
        },
        "converter": converter.name,
        "options": options,
        "raw files": len(sources),
        "content of the raw files": _digest(sources),
        "shards": len(units),
        "division into shards": _digest(described),
      }
    )
  )


def _upgrade(stored: dict[str, Any], converter: base.Converter) -> dict[str, Any]:
  """A plan of an earlier version, with what was not an option or a setting then."""
  dataset = stored.get("dataset", {})
  if "graph" in dataset:
    defaults = serialization.to_json(graph_config.GraphConfig())
    dataset["graph"] = defaults | dataset["graph"]
  if stored.get("converter") == converter.name:
    defaults = dataclasses.asdict(converter.options_type())
    stored["options"] = defaults | stored["options"]
  return stored


def _files(units: Sequence[base.Unit]) -> list[str]:
  return sorted({name for unit in units for name in unit.files})


def _fingerprint(path: pathlib.Path) -> tuple[str, int, str]:
  """Name, size and a digest of both ends of a file, which is cheap for huge ones."""
  try:
    size = path.stat().st_size
    with open(path, "rb") as file:
      edges = file.read(_EDGE)
      file.seek(max(0, size - _EDGE))
      edges += file.read(_EDGE)
  except OSError as error:
    raise base.RawDataError(f"{path} cannot be read: {error}.") from error
  return path.name, size, hashlib.sha256(edges).hexdigest()


def _sha256(path: pathlib.Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _brief(value: Any) -> str:
  if isinstance(value, Mapping):
    return json.dumps(value)
  return str(value)
