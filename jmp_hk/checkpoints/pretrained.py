"""Which weights of a trained model a fine-tuning starts from."""

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import enum
import pathlib

import numpy as np

from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters

# Top-level modules of the backbone; everything else belongs to heads.
BACKBONE_MODULES = ("atom_embedding", "backbone")
_HEADER = ("parameter", "shape", "status")


class PretrainedError(ValueError):
  """A checkpoint does not fit the model; the message names the parameters."""


class Status(enum.Enum):
  """What became of a parameter or scale factor."""

  LOADED = "loaded"  # Taken from the checkpoint.
  FRESH = "fresh"  # Newly drawn, because it belongs to a head of the new model.
  IGNORED = "ignored"  # Only in the checkpoint, e.g. in its heads.


@dataclasses.dataclass(frozen=True)
class Entry:
  """What became of one parameter or scale factor.

  Attributes:
    path: its path.
    shape: its shape.
    status: what became of it.
  """

  path: str
  shape: tuple[int, ...]
  status: Status

  @property
  def size(self) -> int:
    """Number of scalars."""
    return int(np.prod(self.shape, dtype=np.int64))


def load_backbone(
  source: model_lib.Variables, fresh: model_lib.Variables
) -> tuple[model_lib.Variables, list[Entry]]:
  """Puts the backbone of a trained model into a freshly drawn one.

  Atom embedding, backbone and scale factors are loaded. Heads stay as they were drawn,
  and those of the source are not used. Parts of the source's backbone that the new
  model does not have, such as the branch for direct forces, are not used either.

  Args:
    source: variables of the trained model.
    fresh: variables of the new model.

  Returns:
    The new model's variables with NumPy leaves, and what became of every parameter and
    scale factor: those of the new model in its order, then what was ignored.

  Raises:
    PretrainedError: a parameter or scale factor of the new model's backbone is missing
      in the source or has another shape; the message names all of them.
  """
  loaded, entries, problems = [], [], []
  for old, new in zip(source, fresh, strict=True):
    old, flat = parameters.flatten(old), parameters.flatten(new)
    for path, value in flat.items():
      status = Status.LOADED if is_backbone(path) else Status.FRESH
      entries.append(Entry(path, value.shape, status))
      if status is Status.LOADED:
        problems += _problems(path, value, old)
    entries += [
      Entry(path, value.shape, Status.IGNORED)
      for path, value in old.items()
      if path not in flat or not is_backbone(path)
    ]
    chosen = {
      path: old.get(path, value) if is_backbone(path) else value
      for path, value in flat.items()
    }
    loaded.append((chosen, new))
  if problems:
    raise PretrainedError(
      "The checkpoint does not fit the model: " + "; ".join(problems) + "."
    )
  variables = model_lib.Variables(*(parameters.unflatten(*pair) for pair in loaded))
  return variables, sorted(entries, key=lambda entry: entry.status is Status.IGNORED)


def is_backbone(path: str) -> bool:
  """Whether a parameter belongs to the atom embedding or the backbone."""
  return path.partition("/")[0] in BACKBONE_MODULES


def write_table(entries: Sequence[Entry], path: pathlib.Path) -> None:
  """Writes a CSV file with one row a parameter: parameter, shape, status."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("w", encoding="utf-8", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(_HEADER)
    for entry in entries:
      shape = "×".join(map(str, entry.shape)) or "scalar"
      writer.writerow((entry.path, shape, entry.status.value))


def overview(entries: Sequence[Entry]) -> str:
  """A short table: number of parameters by part of the model and status."""
  parts: dict[str, dict[Status, list[int]]] = {}
  for entry in entries:
    by_status = parts.setdefault(_part(entry.path), {})
    by_status.setdefault(entry.status, []).append(entry.size)
  rows = [("part", *(status.value for status in Status))]
  for part, by_status in sorted(parts.items()):
    cells = [by_status.get(status, []) for status in Status]
    rows.append((part, *(f"{len(c)} ({sum(c):,} values)" if c else "" for c in cells)))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  padded = [
    [cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows
  ]
  return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _problems(
  path: str, wanted: np.ndarray, source: Mapping[str, np.ndarray]
) -> list[str]:
  """What is wrong with one parameter of the source."""
  if path not in source:
    return [f"{path} is missing in the checkpoint"]
  if source[path].shape != wanted.shape:
    return [
      f"{path} has shape {source[path].shape} in the checkpoint, the model needs "
      f"{wanted.shape}"
    ]
  return []


def _part(path: str) -> str:
  """The part of the model that a parameter is counted with."""
  modules = path.split("/")
  return "/".join(modules[:2]) if modules[0] == "backbone" else modules[0]
