"""Synthetic checkpoints in the layout of the released ones, with golden weights."""

import collections
import re

import numpy as np

from jmp_hk.interop import recognise
from tests.jmp_hk.interop import torch_save
from tests.jmp_hk.parity import golden_case

_NO_AVERAGE = re.compile(
  r"rbf\.(offset|temps)$|scale_factor$|seq_energy_pre|^task_steps"
)


def state_dict(kind: str) -> dict[str, np.ndarray]:
  """The state dict of a golden kind: weights, constants, aliases, counters."""
  result = {}
  for name, value in golden_case.tensors(kind).items():
    result[name] = np.asarray(value, np.float32)
  for name in list(result):
    if alias := recognise.alias_of(name):
      result[alias] = result[name]
  for task in golden_case.TASKS:
    result[f"task_steps.{task}.sum_value"] = np.array(5, np.int64)
  return result


def averaged_names(state) -> list[str]:
  """Names that have a moving average, in its order."""
  return [name for name in state if not _NO_AVERAGE.search(name)]


def lightning(state, average=None):
  """A Lightning checkpoint with foreign objects, as the released files are.

  Args:
    state: the state dict, arrays by name.
    average: the moving average by name, or None.
  """
  named = collections.OrderedDict(
    (name, torch_save.Tensor(value)) for name, value in state.items()
  )
  optimizer = {"state": {0: {"step": torch_save.Tensor(np.array(7.0, np.float32))}}}
  if average is not None:
    optimizer["ema"] = tuple(
      torch_save.Tensor(average[name]) for name in averaged_names(state)
    )
  config = torch_save.Object(
    torch_save.Global("jmp.tasks.pretrain.module", "PretrainConfig"),
    (),
    {"backbone": torch_save.Object(torch_save.Global("jmp.models", "BackboneConfig"))},
  )
  return {
    "epoch": 2,
    "pytorch-lightning_version": "2.1.2",
    "state_dict": named,
    "optimizer_states": [optimizer],
    "hyper_parameters": config,
    "callbacks": {"ModelCheckpoint": {"best_model_path": "x.ckpt"}},
  }
