"""Writes a model as a state dict of the published PyTorch implementation."""

from collections.abc import Callable
from collections.abc import Sequence
import os

import numpy as np

from jmp_hk.interop import recognise
from jmp_hk.interop import torch_names
from jmp_hk.interop import torch_writer
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import backbone as gemnet_oc

_PRETRAINING_KINDS = ("energy", "forces")


class ExportError(ValueError):
  """A model has no counterpart in the published implementation."""


def export_checkpoint(
  config: model_lib.ModelConfig,
  variables: model_lib.Variables,
  path: str | os.PathLike[str],
) -> list[str]:
  """Writes a file that `torch.load` reads and the published model loads strictly.

  Args:
    config: configuration of the model. Its backbone must be GemNet-OC and its targets
      the energy and direct forces of every dataset, as in the published pre-training
      model.
    variables: parameters and scale factors, NumPy or JAX arrays.
    path: the file to write.

  Returns:
    Names of the tensors that were written.

  Raises:
    ExportError: the published implementation has no such model.
  """
  if not isinstance(config.backbone, gemnet_oc.GemNetOCConfig):
    raise ExportError(
      f"The backbone is {config.backbone.describe()}; the published implementation is "
      "GemNet-OC."
    )
  for task in config.tasks:
    names = tuple(target.name for target in task.targets)
    if names != _PRETRAINING_KINDS or config.is_conservative:
      raise ExportError(
        f"The head {task.name!r} predicts {', '.join(names)}; the published "
        "pre-training model has the energy and direct forces of every dataset."
      )
  entries = state_dict_entries(config, variables)
  torch_writer.write_state_dict(path, entries)
  return [entry.name for entry in entries]


def state_dict_entries(
  config: model_lib.ModelConfig, variables: model_lib.Variables
) -> Sequence[torch_writer.Entry]:
  """All tensors of the published state dict: weights, constants and aliases."""
  shapes = recognise.weight_shapes(variables)
  constants = recognise.radial_constants(config)
  entries = []
  for name, shape in shapes.items():
    entries.append(torch_writer.Entry(name, shape, _reader(variables, name)))
    if alias := recognise.alias_of(name):
      entries.append(torch_writer.Entry(alias, shape, None, name))
  for name, shape in recognise.redundant_shapes({}, constants).items():
    end = ".".join(name.split(".")[-2:])
    entries.append(torch_writer.Entry(name, shape, lambda end=end: constants[end]))
  return entries


def _reader(variables: model_lib.Variables, name: str) -> Callable[[], np.ndarray]:
  """Reads one tensor in its published layout when it is written."""
  return lambda: np.asarray(
    torch_names.export_state_dict(variables.params, variables.scales, [name])[name]
  )
