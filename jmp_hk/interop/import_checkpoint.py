"""Turns a published PyTorch checkpoint into a model directory."""

from collections.abc import Sequence
import os

from jmp_hk import dataset_info
from jmp_hk.checkpoints import model_writer
from jmp_hk.interop import torch_file
from jmp_hk.interop import torch_model


def import_checkpoint(
  path: str | os.PathLike[str],
  output: str | os.PathLike[str],
  *,
  ema: bool | None = None,
  infos: Sequence[dataset_info.DatasetInfo] | None = None,
) -> torch_model.TorchModel:
  """Imports a checkpoint; memory holds about one tensor at a time.

  Args:
    path: a file that `torch.save` wrote: a Lightning checkpoint or a state dict.
    output: the directory to make; it must not exist, or be empty.
    ema: whether to take the moving average of the weights; None takes it where the file
      has one.
    infos: constants of the heads' datasets, in the file's order; None stands for the
      four datasets of the published models.

  Returns:
    What was imported. The file is closed, so that its weights cannot be read from it
    any more.

  Raises:
    TorchFileError: the file cannot be read.
    WeightsError: it holds no weights.
    RecognitionError: tensors are unknown, missing, of the wrong shape or not finite.
    FileExistsError: `output` exists.
  """
  model_writer.check_new(output)
  with torch_file.TorchFile(path) as file:
    model = torch_model.read(file, infos, ema=ema)
    origin = torch_model.origin(file.path, model)
    model_writer.write(
      output, model.config, model.infos, model.params, model.scales, origin
    )
  return model
