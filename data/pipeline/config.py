"""Which converted datasets a run reads, and how the command line names them."""

from collections.abc import Sequence
import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
  """One dataset of a mixture.

  Attributes:
    name: name of its task; the task of that name says what is learned on it.
    directory: folder that `data.convert` wrote.
    weight: relative probability of a draw from it. Either all datasets of a mixture
      have one, or none, and then sizes and temperature decide.
    split: split to read.
  """

  name: str
  directory: str
  weight: float | None = None
  split: str = "train"


def parse_datasets(
  entries: Sequence[str], split: str = "train"
) -> tuple[DatasetConfig, ...]:
  """Reads "NAME=DIR[:WEIGHT]" entries, as the flag `--datasets` gives them.

  Args:
    entries: one string per dataset.
    split: split to read of each.

  Returns:
    The datasets in the given order.

  Raises:
    ValueError: an entry cannot be read, a name occurs twice, or there is none.
  """
  datasets = []
  for entry in entries:
    name, equals, rest = entry.strip().partition("=")
    directory, weight = rest, None
    head, colon, tail = rest.rpartition(":")
    if colon and head:
      try:
        directory, weight = head, float(tail)
      except ValueError:
        directory = rest  # A colon inside the path.
    if not (equals and name and directory):
      raise ValueError(f"Dataset {entry!r} does not read NAME=DIRECTORY[:WEIGHT].")
    if weight is not None and not (weight > 0 and math.isfinite(weight)):
      raise ValueError(f"The weight of dataset {name!r} must be positive, got {tail}.")
    datasets.append(DatasetConfig(name, directory, weight, split))
  if not datasets:
    raise ValueError("No dataset was given: name at least one as NAME=DIRECTORY.")
  names = [dataset.name for dataset in datasets]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(f"The datasets {twice} were given more than once.")
  return tuple(datasets)
