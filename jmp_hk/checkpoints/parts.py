"""The files of a checkpoint, read one by one and compared with its manifest."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import gc
import logging
import math
import pathlib
import sys
import time
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk.checkpoints import manifest as manifest_lib

Arrays = dict[str, np.ndarray]

METRICS_FILE = "metrics/metrics"
BEST_KEY = "primary"  # The metric that ranks checkpoints.
_MOST_SHOWN = 300  # Characters of an error of Orbax.
_STRAGGLER_SECONDS = 0.1  # In which what else is read of a damaged folder fails.


def read_document(
  checkpoint: pathlib.Path, item: str, manifest: manifest_lib.Manifest | None
) -> dict[str, Any]:
  """Reads a JSON file of a checkpoint.

  Args:
    checkpoint: directory of the checkpoint.
    item: folder of the file, "model" or "host".
    manifest: what belongs to the checkpoint; None verifies nothing.

  Raises:
    DamagedError: it is missing, cannot be read, or is not what was saved.
  """
  name = f"{item}/{manifest_lib.DOCUMENTS[item]}"
  try:
    values = strict_json.read(checkpoint / name, non_finite=True)
  except FileNotFoundError as error:
    raise manifest_lib.DamagedError(f"{name} is missing") from error
  except (OSError, serialization.SerializationError) as error:
    raise manifest_lib.DamagedError(
      f"{name} cannot be read: {manifest_lib.reason(error)}"
    ) from error
  if manifest is not None:
    manifest.check_document(item, values)
  if not isinstance(values, dict):
    raise manifest_lib.DamagedError(f"{name} holds no mapping")
  return values


def read_arrays(
  checkpoint: pathlib.Path, item: str, manifest: manifest_lib.Manifest | None
) -> Arrays:
  """Reads the arrays of a checkpoint that lie in one folder.

  Args:
    checkpoint: directory of the checkpoint.
    item: name of the folder.
    manifest: what belongs to the checkpoint; None verifies nothing.

  Returns:
    The arrays by name.

  Raises:
    DamagedError: they cannot be read, or are not what was saved; names them.
  """
  try:
    with _only_one_error(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
      restored = reader.restore((checkpoint / item).absolute())
    arrays = {name: np.asarray(value) for name, value in restored.items()}
  except MemoryError:
    raise
  except Exception as error:  # Orbax and TensorStore raise errors of any class.
    reason = manifest_lib.reason(error).partition(" [tensorstore_spec")[0]
    if len(reason) > _MOST_SHOWN:
      reason = f"{reason[:_MOST_SHOWN]}…"
    raise manifest_lib.DamagedError(
      f"{item}/ cannot be read: {reason or type(error).__name__}"
    ) from error
  if manifest is not None:
    manifest.check_arrays(item, arrays)
  return arrays


def read_metrics(
  checkpoint: pathlib.Path, manifest: manifest_lib.Manifest | None
) -> dict[str, float]:
  """Validation metrics of a checkpoint.

  Args:
    checkpoint: directory of the checkpoint.
    manifest: what belongs to the checkpoint; None verifies nothing.

  Returns:
    Metrics by name; `BEST_KEY` ranks the checkpoint. Empty where there are none.

  Raises:
    DamagedError: they are missing, cannot be read, or are not those of the checkpoint.
  """
  try:
    values = strict_json.read(checkpoint / METRICS_FILE, non_finite=True)
  except FileNotFoundError as error:
    if manifest is None or not manifest.has_metrics:
      return {}
    raise manifest_lib.DamagedError(f"{METRICS_FILE} is missing") from error
  except (OSError, serialization.SerializationError) as error:
    raise manifest_lib.DamagedError(
      f"{METRICS_FILE} cannot be read: {manifest_lib.reason(error)}"
    ) from error
  if not isinstance(values, dict) or type(values.get(BEST_KEY)) not in (int, float):
    raise manifest_lib.DamagedError(f"{METRICS_FILE} has no number {BEST_KEY!r}")
  if manifest is not None:
    wanted = manifest_lib.checksum_of_metrics(manifest.step, values)
    if values.get(manifest_lib.METRICS_CHECKSUM) != wanted:
      raise manifest_lib.DamagedError(
        f"the content of {METRICS_FILE} is not what was saved: its checksum is wrong"
      )
  return values


@contextlib.contextmanager
def _only_one_error() -> Iterator[None]:
  """Keeps Orbax from printing the errors of all arrays that it reads beside the first.

  They arrive in tasks that nobody waits for any more, as logs of asyncio and as errors
  in callbacks, each with its traceback.
  """
  log, hook = logging.getLogger("asyncio"), sys.unraisablehook
  refuse = lambda record: False

  def ignore_closed_loops(unraisable: Any) -> None:
    if "Event loop is closed" not in str(unraisable.exc_value):
      hook(unraisable)

  log.addFilter(refuse)
  sys.unraisablehook = ignore_closed_loops
  try:
    yield
  except BaseException:
    time.sleep(_STRAGGLER_SECONDS)
    gc.collect()
    raise
  finally:
    sys.unraisablehook = hook
    log.removeFilter(refuse)


def ranked_metrics(
  step: int, metrics: Mapping[str, float] | None, primary: float | None
) -> dict[str, float]:
  """Metrics of a checkpoint as its file has them, with their checksum.

  Args:
    step: step of the checkpoint.
    metrics: validation metrics by name, if there are any.
    primary: the metric that ranks the checkpoint, less is better; None and NaN count as
      infinitely bad.
  """
  value = math.inf if primary is None or math.isnan(primary) else float(primary)
  values = {**(metrics or {}), BEST_KEY: value}
  checksum = manifest_lib.checksum_of_metrics(step, values)
  return values | {manifest_lib.METRICS_CHECKSUM: checksum}
