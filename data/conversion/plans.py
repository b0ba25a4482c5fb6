"""The identity of a conversion: what is converted from what into which shards."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from data.conversion import base
from data.conversion import jobs
from data.conversion import splits
from data.records import shards
from jmp_hk import dataset_info
from jmp_hk import dataset_summary
from jmp_hk import files
from jmp_hk import names
from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk.graphs import config as graph_config

DEATH_MESSAGE = (
  "A conversion process was killed, perhaps for lack of memory. Run the same command "
  "again to go on, with fewer --num_workers."
)


class OtherConversionError(base.PlanError):
  """A directory holds what another conversion made.

  Attributes:
    changes: what differs, as "key was old, is new".
  """

  def __init__(self, message: str, changes: Sequence[str]) -> None:
    super().__init__(message)
    self.changes = list(changes)


def check_name(name: str, what: str) -> None:
  """Checks a name that files of the converted dataset get.

  Raises:
    PlanError: files cannot be called so.
  """
  try:
    names.check(name, what)
  except names.InvalidNameError as error:
    raise base.PlanError(str(error)) from error


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
  splits.check_disjoint(units)
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
  mine = output / jobs.STATE / f"{split}.plan.json"
  for path in sorted((output / jobs.STATE).glob("*.plan.json")):
    other = path.name.removesuffix(".plan.json")
    if other not in begun:
      continue
    stored = _upgrade(strict_json.read(path), converter)
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


def sources_name(split: str) -> str:
  """File name of the list of the raw files of a split, with their checksums."""
  return f"{split}.sources.json"


def remove(output: pathlib.Path, split: str) -> None:
  """Deletes a split; `dataset_info.json` first, since it promises all shards."""
  (output / dataset_info.FILE_NAME).unlink(missing_ok=True)
  (output / sources_name(split)).unlink(missing_ok=True)
  for name in (f"{split}.done.json", f"{split}.plan.json"):
    (output / jobs.STATE / name).unlink(missing_ok=True)
  if split in shards.list_splits(output):
    for kind in ("tfrecord", "index"):
      for path in output.glob(f"{split}-?????-of-?????*.{kind}"):
        path.unlink()
  for path in (output / jobs.STATE).glob(f"{split}-?????-of-?????*.json"):
    path.unlink()


def _describe(
  converter: base.Converter,
  declaration: dataset_summary.Declaration,
  units: Sequence[base.Unit],
) -> dict[str, Any]:
  """Everything that shards depend on, for comparison and messages."""
  sources = {name for unit in units for name in unit.files}
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
          "stress": declaration.stress,
          "targets": {k: dataclasses.asdict(v) for k, v in declaration.targets.items()},
        },
        "converter": converter.name,
        "options": options,
        "raw files": len(sources),
        "shards": len(units),
        "division into shards": _digest(described),
      }
    )
  )


def _upgrade(stored: dict[str, Any], converter: base.Converter) -> dict[str, Any]:
  """A plan of an earlier version, with what was not an option or a setting then."""
  dataset = stored.get("dataset", {})
  dataset.setdefault("stress", False)
  if "graph" in dataset:
    defaults = serialization.to_json(graph_config.GraphConfig())
    dataset["graph"] = defaults | dataset["graph"]
  if stored.get("converter") == converter.name:
    defaults = dataclasses.asdict(converter.options_type())
    if "stress_key" in defaults:  # Of what was not read then.
      defaults["stress_key"] = "none"
    stored["options"] = defaults | stored["options"]
  return stored


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _brief(value: Any) -> str:
  if isinstance(value, Mapping):
    return json.dumps(value)
  return str(value)
