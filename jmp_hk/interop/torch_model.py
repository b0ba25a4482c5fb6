"""Reads a published PyTorch checkpoint as a model, without PyTorch."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import published
from jmp_hk.checkpoints import manifest
from jmp_hk.checkpoints import model_directory
from jmp_hk.checkpoints import model_writer
from jmp_hk.interop import recognise
from jmp_hk.interop import torch_file
from jmp_hk.interop import torch_names
from jmp_hk.interop import weights as weights_lib
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters
from jmp_hk.models import shapes as shapes_lib

# Usual endings of the names of PyTorch files.
SUFFIXES = (".pt", ".pth", ".ckpt")
# Relative; files may store the constants of the radial basis in half precision.
_CONSTANT_TOLERANCE = 1e-2
_HASH_CHUNK = 1 << 22

_PUBLISHED = tuple(dataset_info.PUBLISHED.values())

LazyArrays = dict[str, model_writer.LazyArray]


@dataclasses.dataclass(frozen=True)
class TorchModel:
  """A model whose weights are read from an open PyTorch file when they are used.

  Attributes:
    config: the recognised configuration.
    infos: constants of the datasets by name, in the order of the heads.
    params: parameters by path, float32.
    scales: scale factors by path, float32.
    averaged: whether the weights are the moving average.
    num_tensors: number of tensors of the file that are used.
    redundant: names of constants and aliases, which agree with the model.
    ignored: names in the file that are no weights.
  """

  config: model_lib.ModelConfig
  infos: Mapping[str, dataset_info.DatasetInfo]
  params: Mapping[str, model_writer.LazyArray]
  scales: Mapping[str, model_writer.LazyArray]
  averaged: bool
  num_tensors: int
  redundant: tuple[str, ...]
  ignored: tuple[str, ...]

  @property
  def num_parameters(self) -> int:
    """Number of learned numbers."""
    return sum(array.size for array in self.params.values())


def read(
  file: torch_file.TorchFile,
  infos: Sequence[dataset_info.DatasetInfo] | None = None,
  *,
  ema: bool | None = None,
) -> TorchModel:
  """Recognises the model in an open file and checks all of its tensors.

  Args:
    file: what `torch.save` wrote: a Lightning checkpoint or a state dict.
    infos: constants of the heads' datasets, in the file's order; None stands for the
      four datasets of the published models.
    ema: whether to take the moving average of the weights; None takes it where the file
      has one.

  Returns:
    The model; its weights can be read as long as the file is open.

  Raises:
    TorchFileError: a tensor cannot be read.
    WeightsError: the file holds no weights.
    RecognitionError: tensors are unknown, missing, of the wrong shape or not finite.
  """
  infos = _PUBLISHED if infos is None else tuple(infos)
  weights = weights_lib.find(file.root, ema)
  shapes = _shapes(weights)
  config = recognise.model_config(shapes, [info.name for info in infos])
  expected = recognise.weight_shapes(shapes_lib.abstract_variables(config))
  constants = recognise.radial_constants(config)
  redundant = recognise.redundant_shapes(expected, constants)
  recognise.check(shapes, expected, redundant)
  _check_constants(file, weights.tensors, constants)
  _check_finite(file, {name: weights.tensors[name] for name in expected})
  params, scales = _lazy_trees(file, weights.tensors, list(expected))
  return TorchModel(
    config=config,
    infos={info.name: info for info in infos},
    params=params,
    scales=scales,
    averaged=weights.averaged,
    num_tensors=len(expected),
    redundant=tuple(name for name in redundant if name in shapes),
    ignored=weights.ignored,
  )


def load(
  path: str | os.PathLike[str],
  infos: Sequence[dataset_info.DatasetInfo] | None = None,
  *,
  ema: bool | None = None,
) -> model_directory.LoadedModel:
  """Loads a model from a PyTorch file, as `load_model_directory` does from a directory.

  Args:
    path: name of the file.
    infos: see `read`.
    ema: see `read`.

  Returns:
    The model with all weights in memory.

  Raises:
    CheckpointError: the file cannot be read, or holds no model of this kind.
  """
  with _opened(path) as file:
    model = read(file, infos, ema=ema)
    variables = model_lib.Variables(
      *(
        parameters.to_haiku({name: np.asarray(x) for name, x in arrays.items()})
        for arrays in (model.params, model.scales)
      )
    )
  return model_directory.LoadedModel(
    model.config, dict(model.infos), variables, 0, file.path, origin(file.path, model)
  )


def read_description(
  path: str | os.PathLike[str],
) -> tuple[model_lib.ModelConfig, dict[str, dataset_info.DatasetInfo]]:
  """Configuration and datasets of a published model in a file; reads no weights.

  Args:
    path: name of the file.

  Raises:
    CheckpointError: the file cannot be read, or holds no model of this kind.
  """
  with _opened(path) as file:
    shapes = _shapes(weights_lib.find(file.root))
    config = recognise.model_config(shapes, [info.name for info in _PUBLISHED])
  return config, {info.name: info for info in _PUBLISHED}


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[torch_file.TorchFile]:
  """Opens a file; errors of reading it become a `CheckpointError` that names it."""
  try:
    with torch_file.TorchFile(path) as file:
      yield file
  except FileNotFoundError as error:
    raise model_directory.CheckpointError(f"There is no file {path}.") from error
  except (
    torch_file.TorchFileError,
    weights_lib.WeightsError,
    recognise.RecognitionError,
  ) as error:
    message = f"{path} cannot be loaded: {manifest.reason(error)}."
    raise model_directory.CheckpointError(message) from error


def _shapes(weights: weights_lib.Weights) -> dict[str, tuple[int, ...]]:
  return {name: tensor.shape for name, tensor in weights.tensors.items()}


def origin(path: pathlib.Path, model: TorchModel) -> dict[str, object]:
  """Licence and provenance of a model from a PyTorch file, as JSON values."""
  digest = hashlib.sha256()
  with open(path, "rb") as file:
    while chunk := file.read(_HASH_CHUNK):
      digest.update(chunk)
  provenance = {
    "imported_from": path.name,
    "bytes": path.stat().st_size,
    "sha256": digest.hexdigest(),
    "weights": "moving average" if model.averaged else "as trained",
    "parameters": model.num_parameters,
    "left_out": list(model.ignored),
  }
  return {"licence": published.LICENCE, "provenance": provenance}


def _lazy_trees(
  file: torch_file.TorchFile,
  tensors: Mapping[str, torch_file.Tensor],
  names: Sequence[str],
) -> tuple[LazyArrays, LazyArrays]:
  """Parameters and scale factors by path."""
  params: LazyArrays = {}
  scales: LazyArrays = {}
  for path, entries in torch_names.by_parameter(names).items():
    source = [(name, tensors[torch_name]) for name, torch_name in entries]
    tree = scales if entries[0][0].is_state else params
    tree[path] = _lazy_array(file, source)
  return params, scales


def _lazy_array(
  file: torch_file.TorchFile,
  source: Sequence[tuple[torch_names.HaikuName, torch_file.Tensor]],
) -> model_writer.LazyArray:
  """One parameter, stacked where it is a head of several datasets."""
  example = torch_names.to_haiku_layout(
    source[0][0], np.broadcast_to(np.float32(0), source[0][1].shape)
  )
  is_stacked = source[0][0].task is not None
  shape = (len(source), *example.shape) if is_stacked else example.shape

  def read_array() -> np.ndarray:
    arrays = [
      torch_names.to_haiku_layout(name, file.read(tensor).astype(np.float32))
      for name, tensor in source
    ]
    return np.stack(arrays) if is_stacked else arrays[0]

  return model_writer.LazyArray(shape, np.dtype(np.float32), read_array)


def _check_constants(
  file: torch_file.TorchFile,
  tensors: Mapping[str, torch_file.Tensor],
  constants: Mapping[str, np.ndarray],
) -> None:
  """Checks that the radial basis is the published one."""
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
  """Checks all weights before any is used; also finds corrupt storages."""
  wrong = [
    name for name, tensor in tensors.items() if not np.isfinite(file.read(tensor)).all()
  ]
  if wrong:
    raise recognise.RecognitionError(
      f"Weights must be finite, those of {', '.join(wrong)} are not."
    )
