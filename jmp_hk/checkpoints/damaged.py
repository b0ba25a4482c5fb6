"""What becomes of the checkpoints that a run cannot continue from."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import logging
import pathlib

from jmp_hk import files
from jmp_hk.checkpoints import manifest as manifest_lib
from jmp_hk.checkpoints import parts

logger = logging.getLogger(__name__)

FOLDER = "damaged_checkpoints"  # Beside the folder of the checkpoints.


def put_aside_unranked(directory: pathlib.Path, steps: Sequence[int]) -> None:
  """Deals with checkpoints whose metrics are damaged, which rank them.

  They are moved away, lest they are deleted as worse than they are; the newest stays,
  because the run goes on from it, and counts as the worst.

  Args:
    directory: directory of the checkpoints.
    steps: their steps, ascending.
  """
  for step in steps:
    path = directory / str(step)
    try:
      parts.read_metrics(path, _manifest_or_none(path))
    except manifest_lib.DamagedError as error:
      if step == steps[-1]:
        outcome = "it counts as the worst from now on"
        metrics = json.dumps(parts.ranked_metrics(step, None, None))
        files.write_atomically(path / parts.METRICS_FILE, metrics)
      else:
        folder = directory.parent / FOLDER
        outcome = f"it is moved to {folder}"
        move(path, folder)
      logger.warning(
        "How good the checkpoint of step %d is cannot be said: %s; %s.",
        step,
        error,
        outcome,
      )


def _manifest_or_none(path: pathlib.Path) -> manifest_lib.Manifest | None:
  """The manifest of a checkpoint, or None where it cannot be read."""
  try:
    return manifest_lib.read(path)
  except manifest_lib.DamagedError:
    return None


def move(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Moves a folder into another, under a name that is not taken."""
  folder.mkdir(exist_ok=True)
  target, number = folder / path.name, 1
  while target.exists():
    number += 1
    target = folder / f"{path.name}.{number}"
  path.rename(target)


def listed(problems: Mapping[int, str]) -> str:
  """What is wrong with checkpoints, a sentence for each."""
  return " ".join(
    f"The checkpoint of step {step} is damaged: {problem}."
    for step, problem in problems.items()
  )
