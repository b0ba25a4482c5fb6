"""Loads a trained model from wherever it lies: a directory or a PyTorch file."""

from collections.abc import Sequence
import os
import pathlib

from jmp_hk import dataset_info
from jmp_hk.checkpoints import model_directory
from jmp_hk.interop import torch_model
from jmp_hk.models import model as model_lib


def load_model(
  path: str | os.PathLike[str],
  *,
  ema: bool = True,
  step: int | None = None,
  tasks: Sequence[str | dataset_info.DatasetInfo] | None = None,
) -> model_directory.LoadedModel:
  """Loads a model.

  Args:
    path: a model directory, the working directory of a training run, a checkpoint in
      it, a PyTorch file such as jmp-s.pt, or the name "jmp-mini".
    ema: whether to take the averaged weights, where there are some.
    step: step of the checkpoint of a run; None takes the best by its validation metric,
      or the newest where none has been validated.
    tasks: datasets of a PyTorch file's heads, in their order: constants, or names of
      the published ones. None stands for the four published ones.

  Returns:
    The model.

  Raises:
    CheckpointError: there is no model, or it cannot be understood.
    ValueError: `step` or `tasks` does not go with the kind of model, or a name in
      `tasks` is not known.
  """
  path = pathlib.Path(path)
  if not is_torch_file(path):
    if tasks is not None:
      raise ValueError(
        f"{path} is a directory, which says itself what its heads are called: `tasks` "
        "is only for PyTorch files."
      )
    return model_directory.load_model_directory(path, ema=ema, step=step)
  if step is not None:
    raise ValueError(
      f"{path} is a PyTorch file and holds one model: `step` is only for the "
      "directories of training runs."
    )
  infos = None if tasks is None else [_info(task) for task in tasks]
  # A file without averaged weights gives its raw ones.
  return torch_model.load(path, infos, ema=None if ema else False)


def read_description(
  path: str | os.PathLike[str],
) -> tuple[model_lib.ModelConfig, dict[str, dataset_info.DatasetInfo]]:
  """Configuration and constants of a model's datasets, without its weights.

  Args:
    path: see `load_model`.

  Raises:
    CheckpointError: there is no model, or it cannot be understood.
  """
  path = pathlib.Path(path)
  if is_torch_file(path):
    return torch_model.read_description(path)
  return model_directory.read_description(model_directory.find_checkpoint(path))


def is_torch_file(path: pathlib.Path) -> bool:
  """Whether a path is that of a PyTorch file, existing or not."""
  return path.is_file() or (path.suffix in torch_model.SUFFIXES and not path.exists())


def _info(task: str | dataset_info.DatasetInfo) -> dataset_info.DatasetInfo:
  """Constants of the dataset of one head."""
  if isinstance(task, dataset_info.DatasetInfo):
    return task
  if task not in dataset_info.PUBLISHED:
    raise ValueError(
      f"{task!r} is not one of the published datasets, "
      f"{', '.join(dataset_info.PUBLISHED)}; give its constants instead, "
      "jmp_hk.dataset_info.load(directory of the converted data)."
    )
  return dataset_info.PUBLISHED[task]
