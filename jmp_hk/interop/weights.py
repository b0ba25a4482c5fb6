"""Finds the model's weights in an unpickled checkpoint of the published code.

Lightning checkpoints hold the weights by name under `state_dict`. Their moving average
lies under `optimizer_states[0]["ema"]` without names, in the order of the state dict
without buffers, aliases and counters. A file may also hold a state dict alone.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import re
from typing import Any

from jmp_hk.interop import inert
from jmp_hk.interop import torch_file

# Counters and metrics of the training run, which are no part of the model.
_NOT_WEIGHTS = re.compile(r"^(task_steps|\w*metrics?)\.")
# Tensors of the state dict that have no moving average.
_NOT_AVERAGED = re.compile(r"rbf\.(offset|temps)$|scale_factor$|\.seq_energy_pre\.")


class WeightsError(ValueError):
  """A checkpoint holds no usable weights; the message says what is wrong."""


@dataclasses.dataclass(frozen=True)
class Weights:
  """The weights of a checkpoint.

  Attributes:
    tensors: tensors by published name, with buffers and aliases.
    ignored: names in the file that are no weights.
    averaged: whether the weights are the moving average.
  """

  tensors: Mapping[str, torch_file.Tensor]
  ignored: tuple[str, ...]
  averaged: bool


def find(root: Any, ema: bool | None = None) -> Weights:
  """Finds the weights.

  Args:
    root: the object in the file.
    ema: whether to take the moving average; None takes it where there is one.

  Returns:
    The weights.

  Raises:
    WeightsError: there are no weights, one is no plain tensor of floating-point
      numbers, or the moving average is missing or does not match the names.
  """
  state = _state_dict(root)
  ignored = tuple(name for name in state if _NOT_WEIGHTS.match(name))
  tensors = {name: value for name, value in state.items() if name not in set(ignored)}
  _check_plain(tensors)
  average = _average(root)
  if ema and average is None:
    raise WeightsError(
      "The file holds no moving average of the weights "
      '(optimizer_states[0]["ema"]): take the weights themselves, ema=False.'
    )
  if average is None or ema is False:
    return Weights(tensors, ignored, averaged=False)
  names = [name for name in tensors if not _NOT_AVERAGED.search(name)]
  tensors |= _named_average(names, tensors, average)
  return Weights(tensors, ignored, averaged=True)


def _state_dict(root: Any) -> Mapping[str, Any]:
  """The state dict in a checkpoint."""
  state = root
  if isinstance(root, Mapping) and isinstance(root.get("state_dict"), Mapping):
    state = root["state_dict"]
  is_state = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
  tensors = is_state and any(isinstance(v, torch_file.Tensor) for v in state.values())
  if not tensors:
    raise WeightsError(
      "The file holds neither a Lightning checkpoint with a state_dict nor a state "
      f"dict itself, but {_describe(root)}."
    )
  return state


def _check_plain(tensors: Mapping[str, Any]) -> None:
  """Checks that all weights are tensors of floating-point numbers."""
  wrong = [
    f"{name} is {_describe(value)}"
    for name, value in tensors.items()
    if not isinstance(value, torch_file.Tensor) or not value.dtype.is_floating
  ]
  if wrong:
    raise WeightsError(
      "Weights must be plain tensors of floating-point numbers: "
      + "; ".join(wrong)
      + "."
    )


def _average(root: Any) -> Sequence[Any] | None:
  """The moving average in a Lightning checkpoint, or None."""
  states = root.get("optimizer_states")
  if not isinstance(states, (list, tuple)) or not states:
    return None
  average = states[0].get("ema") if isinstance(states[0], Mapping) else None
  if average is not None and type(average) not in (list, tuple):
    raise WeightsError(
      f"The moving average is {_describe(average)}, no list of tensors."
    )
  return average


def _named_average(
  names: Sequence[str],
  tensors: Mapping[str, torch_file.Tensor],
  average: Sequence[Any],
) -> dict[str, torch_file.Tensor]:
  """The moving average by name."""
  if len(names) != len(average):
    raise WeightsError(
      f"The moving average has {len(average)} tensors for {len(names)} weights."
    )
  named = dict(zip(names, average, strict=True))
  _check_plain({f"the moving average of {k}": v for k, v in named.items()})
  wrong = [
    f"{name} {value.shape} instead of {tensors[name].shape}"
    for name, value in named.items()
    if value.shape != tensors[name].shape
  ]
  if wrong:
    raise WeightsError(
      "The moving average does not match the weights: " + "; ".join(wrong) + "."
    )
  return named


def _describe(value: Any) -> str:
  """What a value from a file is, in a few words."""
  if isinstance(value, torch_file.Tensor):
    return f"a tensor of {value.dtype.name}"
  if isinstance(value, Mapping):
    keys = ", ".join(inert.describe(key) for key in list(value)[:8])
    return f"a dictionary with the keys {keys or 'none'}"
  if isinstance(value, (list, tuple)):
    return f"a {type(value).__name__} of {len(value)} values"
  if isinstance(value, (inert.Inert, inert.Name)):
    return inert.describe(value)
  return f"a {type(value).__name__}"
