"""Turns a published PyTorch checkpoint into a model directory."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import published
from jmp_hk.checkpoints import model_writer
from jmp_hk.interop import recognise
from jmp_hk.interop import torch_file
from jmp_hk.interop import torch_names
from jmp_hk.interop import weights as weights_lib
from jmp_hk.models import model as model_lib

_CONSTANT_TOLERANCE = 1e-2  # Relative; constants may be stored in half precision.
_HASH_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class ImportSummary:
  """What an import did.

  Attributes:
    config: the recognised model.
    infos: constants of its datasets by name.
    averaged: whether the weights are the moving average.
    num_tensors: tensors of the file that were used.
    num_parameters: learned numbers.
    redundant: constants and aliases, checked but not stored.
    ignored: names in the file that are no weights.
  """

  config: model_lib.ModelConfig
  infos: Mapping[str, dataset_info.DatasetInfo]
  averaged: bool
  num_tensors: int
  num_parameters: int
  redundant: tuple[str, ...]
  ignored: tuple[str, ...]


def import_checkpoint(
  path: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  ema: bool | None = None,
  infos: Sequence[dataset_info.DatasetInfo] = tuple(dataset_info.PUBLISHED.values()),
  on_tensor: Callable[[str], None] = lambda name: None,
) -> ImportSummary:
  """Imports a checkpoint; memory holds about one tensor at a time.

  Args:
    path: a file that `torch.save` wrote: a Lightning checkpoint or a state dict.
    output: directory to make; must not exist.
    ema: whether to take the moving average of the weights; if None, where there is one.
    infos: datasets of the heads, in the file's order.
    on_tensor: called with the path of each parameter that is written.

  Returns:
    What was done.

  Raises:
    TorchFileError: the file cannot be read.
    WeightsError: it holds no weights.
    RecognitionError: tensors are unknown, missing or of the wrong shape.
    FileExistsError: `output` exists.
  """
  model_writer.check_new(output)
  with torch_file.TorchFile(path) as file:
    weights = weights_lib.find(file.root, ema)
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    config = recognise.model_config(shapes, [info.name for info in infos])
    expected = recognise.weight_shapes(recognise.abstract_variables(config))
    redundant = recognise.redundant_shapes(expected, config.backbone.num_radial)
    recognise.check(shapes, expected, redundant)
    _check_constants(file, weights.tensors, config.backbone.num_radial)
    _check_finite(file, {name: weights.tensors[name] for name in expected})
    trees = _lazy_trees(file, weights.tensors, expected, on_tensor)
    summary = ImportSummary(
      config=config,
      infos={info.name: info for info in infos},
      averaged=weights.averaged,
      num_tensors=len(expected),
      num_parameters=sum(array.size for array in trees[0].values()),
      redundant=tuple(name for name in redundant if name in shapes),
      ignored=weights.ignored,
    )
    provenance = _provenance(file.path, summary)
    model_writer.write(
      output, config, summary.infos, *trees, provenance, published.LICENCE
    )
  return summary


def _lazy_trees(
  file: torch_file.TorchFile,
  tensors: Mapping[str, torch_file.Tensor],
  names: Sequence[str],
  on_tensor: Callable[[str], None],
) -> tuple[dict[str, model_writer.LazyArray], dict[str, model_writer.LazyArray]]:
  """Parameters and scale factors by path, read when they are written."""
  places: dict[str, list[tuple[torch_names.HaikuName, str]]] = {}
  for torch_name in names:
    name = torch_names.to_haiku(torch_name)
    places.setdefault(f"{name.module}/{name.name}", []).append((name, torch_name))
  params, scales = {}, {}
  for path, entries in places.items():
    entries.sort(key=lambda entry: -1 if entry[0].task is None else entry[0].task)
    source = [(name, tensors[torch_name]) for name, torch_name in entries]
    tree = scales if entries[0][0].is_state else params
    tree[path] = _lazy_array(file, path, source, on_tensor)
  return params, scales


def _lazy_array(
  file: torch_file.TorchFile,
  path: str,
  source: Sequence[tuple[torch_names.HaikuName, torch_file.Tensor]],
  on_tensor: Callable[[str], None],
) -> model_writer.LazyArray:
  """One parameter, stacked where it is a head of several datasets."""
  example = torch_names.to_haiku_layout(
    source[0][0], np.broadcast_to(np.float32(0), source[0][1].shape)
  )
  is_stacked = source[0][0].task is not None
  shape = (len(source), *example.shape) if is_stacked else example.shape

  def read() -> np.ndarray:
    on_tensor(path)
    arrays = [
      torch_names.to_haiku_layout(name, file.read(tensor).astype(np.float32))
      for name, tensor in source
    ]
    return np.stack(arrays) if is_stacked else arrays[0]

  return model_writer.LazyArray(shape, np.dtype(np.float32), read)


def _check_constants(
  file: torch_file.TorchFile,
  tensors: Mapping[str, torch_file.Tensor],
  num_radial: int,
) -> None:
  """Checks that the radial basis is the published one."""
  constants = recognise.radial_constants(num_radial)
  for name, tensor in tensors.items():
    for end, values in constants.items():
      if not name.endswith(end):
        continue
      tolerance = _CONSTANT_TOLERANCE * np.abs(values).max()
      if not np.allclose(file.read(tensor), values, rtol=0, atol=tolerance):
        raise recognise.RecognitionError(
          f"{name} is not that of the published radial basis; a model with another "
          "basis cannot be imported."
        )


def _check_finite(
  file: torch_file.TorchFile, tensors: Mapping[str, torch_file.Tensor]
) -> None:
  """Checks all weights before anything is written; also finds corrupt storages."""
  wrong = [
    n for n, tensor in tensors.items() if not np.isfinite(file.read(tensor)).all()
  ]
  if wrong:
    raise recognise.RecognitionError(
      f"Weights must be finite, those of {', '.join(wrong)} are not."
    )


def _provenance(path: pathlib.Path, summary: ImportSummary) -> dict[str, object]:
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(_HASH_CHUNK):
      digest.update(chunk)
  return {
    "imported_from": path.name,
    "bytes": path.stat().st_size,
    "sha256": digest.hexdigest(),
    "weights": "moving average" if summary.averaged else "as trained",
    "parameters": summary.num_parameters,
    "left_out": list(summary.ignored),
  }
