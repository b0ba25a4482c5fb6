"""Writes a model directory: weights, config, datasets, licence and provenance.

The directory is that of a run with one checkpoint, `checkpoints/0`, so that everything
which reads a run's model reads it too (`jmp_hk.checkpoints.model_directory`):

  checkpoints/0/model/config.json  format version, model config, datasets, licence
  checkpoints/0/params, scales     arrays by path, as in any checkpoint
  checkpoints/0/manifest/manifest.json  their checksums, likewise
  README.md                        licence and provenance, for people
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import math
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import orbax.checkpoint as ocp

from jmp_hk import dataset_info
from jmp_hk import files
from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk.checkpoints import checkpointer as checkpointer_lib
from jmp_hk.checkpoints import manifest as manifest_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.models import model as model_lib

README = "README.md"
_GROUP_BYTES = 1 << 23  # Arrays of about this size are written together.


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """An array that is read when it is written, so that memory holds few at a time.

  Attributes:
    shape: shape of the array.
    dtype: data type of the array.
    read: returns the array.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def ndim(self) -> int:
    """Number of axes."""
    return len(self.shape)

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Size of the array in memory."""
    return self.size * self.dtype.itemsize

  def __array__(
    self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
  ) -> np.ndarray:
    del copy
    return self.read().astype(dtype or self.dtype, copy=False)


def check_new(directory: str | os.PathLike[str]) -> None:
  """Checks that a directory does not exist, or is empty.

  Raises:
    FileExistsError: it holds something.
  """
  directory = pathlib.Path(directory)
  if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
    raise FileExistsError(f"{directory} exists already: name a new directory.")


def write(
  directory: str | os.PathLike[str],
  config: model_lib.ModelConfig,
  infos: Mapping[str, dataset_info.DatasetInfo],
  params: Mapping[str, np.ndarray | LazyArray],
  scales: Mapping[str, np.ndarray | LazyArray],
  origin: Mapping[str, Any],
) -> None:
  """Writes a model directory, whole or not at all.

  Args:
    directory: the directory to make; it must not exist, or be empty.
    config: configuration of the model.
    infos: constants of its datasets by name.
    params: parameters by path, as `parameters.flatten` names them.
    scales: scale factors, likewise.
    origin: JSON values: "licence" are the terms under which the weights may be used,
      "provenance" says where they come from.

  Raises:
    FileExistsError: the directory holds something.
  """
  check_new(directory)
  directory = pathlib.Path(directory).absolute()
  directory.parent.mkdir(parents=True, exist_ok=True)
  temporary = pathlib.Path(
    tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-")
  )
  try:
    step = temporary / model_directory.CHECKPOINTS / "0"
    description = model_directory.describe(config, infos, origin=origin)
    serialization.save(description, step / "model" / checkpointer_lib.MODEL_FILE)
    manifest = manifest_lib.Manifest(
      0,
      {
        item: _write_arrays(step / item, arrays)
        for item, arrays in (("params", params), ("scales", scales))
      },
      {"model": strict_json.checksum(serialization.to_json(description))},
    )
    files.write_atomically(
      manifest_lib.path_of(step), serialization.dumps(manifest.to_json())
    )
    files.write_atomically(temporary / README, _readme(config, infos, origin))
    temporary.chmod(0o755)
    if directory.exists():
      directory.rmdir()
    temporary.rename(directory)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise


def _write_arrays(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray | LazyArray]
) -> dict[str, manifest_lib.ArrayEntry]:
  """Writes one item of a checkpoint; few arrays are in memory at a time.

  Returns:
    Shapes and checksums of the arrays, for the manifest.
  """
  entries: dict[str, manifest_lib.ArrayEntry] = {}
  watched = {name: _watched(array, name, entries) for name, array in arrays.items()}
  handler = _FewAtATime(deepcopy_host_arrays=False)
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler()),
    (np.ndarray, handler),
    (LazyArray, handler),
  )
  handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
  with ocp.Checkpointer(handler) as writer:
    writer.save(path, args=ocp.args.PyTreeSave(watched))
  return {name: entries[name] for name in arrays}


def _watched(
  array: np.ndarray | LazyArray, name: str, entries: dict[str, manifest_lib.ArrayEntry]
) -> np.ndarray | LazyArray:
  """An array whose entry is noted when it is read, so that it is read once."""
  if not isinstance(array, LazyArray):
    entries[name] = manifest_lib.describe_array(array)
    return array

  def read() -> np.ndarray:
    value = np.asarray(array)
    entries[name] = manifest_lib.describe_array(value)
    return value

  return dataclasses.replace(array, read=read)


class _FewAtATime(ocp.type_handlers.NumpyHandler):
  """Writes arrays in groups, each after the one before is written."""

  async def serialize(self, values, infos, args=None):
    args = args or [ocp.SaveArgs()] * len(values)
    futures = []
    for start, stop in _groups([value.nbytes for value in values]):
      part = slice(start, stop)
      futures = await super().serialize(values[part], infos[part], args[part])
      for future in futures:
        future.result()
    return futures


def _groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
  """Ranges of neighbors that together have about `_GROUP_BYTES`."""
  start, total = 0, 0
  for index, size in enumerate(sizes):
    if index > start and total + size > _GROUP_BYTES:
      yield start, index
      start, total = index, 0
    total += size
  yield start, len(sizes)


def _readme(
  config: model_lib.ModelConfig,
  infos: Mapping[str, dataset_info.DatasetInfo],
  origin: Mapping[str, Any],
) -> str:
  """Licence, provenance and datasets as Markdown."""
  provenance = origin.get("provenance", {})
  lines = [
    "# A JMP model",
    "",
    f"{config.backbone.describe()}. Use it with `jmp_hk.load`, with `python -m "
    "experiments.predict --checkpoint=` this directory, or as the start of a "
    "fine-tuning.",
    "",
    "## Licence",
    "",
    str(origin.get("licence", "Unknown.")),
    "",
    "## Provenance",
    "",
    *(f"- {name}: {_short(value)}" for name, value in provenance.items()),
    "",
    "## Heads",
    "",
    "| head | cutoff / Å | neighbors | energy scale / eV | force scale / eV/Å | "
    "references |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for name, info in infos.items():
    references = f"{len(info.energy_references)} elements"
    lines.append(
      f"| {name} | {info.graph.cutoff:g} | {info.graph.max_neighbors} | "
      f"{info.energy_scale:.6g} | {info.force_scale:.6g} | "
      f"{references if info.energy_references else 'none'} |"
    )
  return "\n".join(lines) + "\n"


def _short(value: object) -> str:
  """A value of the provenance in one line."""
  if isinstance(value, (list, tuple)):
    return ", ".join(map(str, value)) or "nothing"
  return str(value)
