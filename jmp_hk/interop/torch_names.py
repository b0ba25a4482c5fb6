"""Names and layouts of the published PyTorch tensors in the Haiku tree.

The Haiku modules carry the published names, so the mapping is short:
`backbone.int_blocks.0.trip_interaction.dense_ba.linear.weight` is parameter `w` of
`backbone/int_blocks_0/trip_interaction/dense_ba`. Layouts differ in three ways: linear
weights are transposed; a three-dimensional basis weight is the same memory under
another shape (fact 16 of the published implementation); heads are stacked over tasks.
"""

import dataclasses
import re

import numpy as np

# Tensors of a checkpoint that hold no information of their own: constants of the
# radial basis and a second name of `out_blocks.N.layers`.
_REDUNDANT = re.compile(r"\.rbf\.(offset|temps)$|\.seq_energy_pre\.")
_HEAD = re.compile(r"^output\.out_(\w+)\.(\d+)\.(\d+)\.(weight|bias)$")
_BASIS = re.compile(r"\.bases\.mlp_[cs]bf_\w+\.weight$")


@dataclasses.dataclass(frozen=True)
class HaikuName:
  """Where a PyTorch tensor lives in the Haiku trees.

  Attributes:
    module: module path.
    name: parameter name, or "scale_factor" for Haiku state.
    task: index along axis 0 of a head stacked over tasks, or None.
    layout: "transpose", "basis" or "same".
  """

  module: str
  name: str
  task: int | None = None
  layout: str = "same"

  @property
  def is_state(self) -> bool:
    return self.name == "scale_factor"


def is_redundant(torch_name: str) -> bool:
  """Whether a tensor repeats what others hold (see `_REDUNDANT`)."""
  return bool(_REDUNDANT.search(torch_name))


def to_haiku(torch_name: str) -> HaikuName:
  """Maps a name of the published state dict.

  Args:
    torch_name: e.g. "embedding.atom_embedding.weight"; must not be redundant.

  Returns:
    Its place in the Haiku trees.

  Raises:
    KeyError: the name does not belong to the published model.
  """
  if torch_name == "embedding.atom_embedding.weight":
    return HaikuName("atom_embedding", "embeddings")
  if match := _HEAD.match(torch_name):
    target, task, layer, kind = match.groups()
    module = f"out_{target}/linear_{int(layer) // 2}"
    if kind == "bias":
      return HaikuName(module, "b", int(task))
    return HaikuName(module, "w", int(task), "transpose")
  if not torch_name.startswith("backbone."):
    raise KeyError(f"{torch_name!r} is no tensor of a JMP model.")
  path, _, kind = torch_name.rpartition(".")
  if kind == "scale_factor":
    return HaikuName(_module(path), kind)
  if kind != "weight":
    raise KeyError(f"{torch_name!r} is no tensor of a JMP model.")
  if _BASIS.search(torch_name):
    return HaikuName(_module(path), "w", layout="basis")
  return HaikuName(_module(path), "w", layout="transpose")


def _module(path: str) -> str:
  path = path.removesuffix(".linear")
  path = re.sub(r"(mlp_[cs]bf)\.bilinear$", r"\1", path)
  path = re.sub(r"\.(\d+)(?=\.|$)", r"_\1", path)
  return path.replace(".", "/")


def to_torch(module: str, name: str) -> str:
  """Inverse of `to_haiku`.

  Args:
    module: Haiku module path.
    name: "w", "b", "embeddings" or "scale_factor".

  Returns:
    The published name; of a head stacked over tasks with "{task}" for its index.
  """
  if module == "atom_embedding":
    return "embedding.atom_embedding.weight"
  if match := re.match(r"out_(\w+)/linear_(\d+)$", module):
    target, layer = match.groups()
    kind = "bias" if name == "b" else "weight"
    return f"output.out_{target}.{{task}}.{2 * int(layer)}.{kind}"
  path = ".".join(re.sub(r"_(\d+)$", r".\1", part) for part in module.split("/"))
  if name == "scale_factor":
    return f"{path}.{name}"
  if ".bases.mlp_" in path and ("bf_aint" in path or "mlp_rbf" not in path):
    return f"{path}.weight"
  path = re.sub(r"int_blocks\.\d+\.\w+\.mlp_[cs]bf$", _bilinear, path)
  return f"{path}.linear.weight"


def _bilinear(match: re.Match) -> str:
  """The quadruplets' circular projection alone is a plain linear layer."""
  path = match.group()
  plain = path.endswith("quad_interaction.mlp_cbf")
  return path if plain else f"{path}.bilinear"


def torch_shapes(params, state) -> dict[str, tuple[int, ...]]:
  """Published names and shapes of the tensors that Haiku trees hold.

  Args:
    params: Haiku parameters (arrays or shapes).
    state: Haiku state with the scale factors.

  Returns:
    PyTorch name to shape, one entry per task for stacked heads.
  """
  result = {}
  for tree in (params, state):
    for module, leaves in tree.items():
      for name, leaf in leaves.items():
        torch_name = to_torch(module, name)
        stacked = "{task}" in torch_name
        for task in range(leaf.shape[0] if stacked else 1):
          full_name = torch_name.format(task=task)
          shape = leaf.shape[1:] if stacked else leaf.shape
          layout = to_haiku(full_name).layout
          if layout == "transpose":
            shape = shape[::-1]
          elif layout == "basis":
            shape = (shape[0], shape[2], shape[1])
          result[full_name] = tuple(shape)
  return result


def to_haiku_layout(name: HaikuName, tensor: np.ndarray) -> np.ndarray:
  """Converts one tensor (one task's slice of a head) to its Haiku layout."""
  if name.layout == "transpose":
    return tensor.T
  if name.layout == "basis":
    num_radial, num_angular, channels = tensor.shape
    return tensor.reshape(num_radial, channels, num_angular)
  return tensor


def to_torch_layout(name: HaikuName, array: np.ndarray) -> np.ndarray:
  """Inverse of `to_haiku_layout`."""
  if name.layout == "transpose":
    return array.T
  if name.layout == "basis":
    num_radial, channels, num_angular = array.shape
    return array.reshape(num_radial, num_angular, channels)
  return array


def import_state_dict(tensors) -> tuple[dict, dict]:
  """Converts a published state dict to Haiku parameters and state.

  Args:
    tensors: PyTorch name to array; redundant names are left out of the result.

  Returns:
    Parameters and state, {module: {name: array}}.

  Raises:
    KeyError: a name does not belong to the published model.
  """
  params, state, stacks = {}, {}, {}
  for torch_name, tensor in tensors.items():
    if is_redundant(torch_name):
      continue
    name = to_haiku(torch_name)
    array = to_haiku_layout(name, np.asarray(tensor))
    if name.task is not None:
      stacks.setdefault((name.module, name.name), {})[name.task] = array
    else:
      tree = state if name.is_state else params
      tree.setdefault(name.module, {})[name.name] = array
  for (module, name), by_task in stacks.items():
    arrays = [by_task[task] for task in sorted(by_task)]
    params.setdefault(module, {})[name] = np.stack(arrays)
  return params, state


def export_state_dict(params, state, torch_names) -> dict[str, np.ndarray]:
  """Converts Haiku trees back to the published layout.

  Args:
    params: Haiku parameters.
    state: Haiku state with the scale factors.
    torch_names: names to produce (without redundant ones).

  Returns:
    PyTorch name to array.

  Raises:
    KeyError: a name does not belong to the model, or the trees lack it.
  """
  result = {}
  for torch_name in torch_names:
    name = to_haiku(torch_name)
    tree = state if name.is_state else params
    array = np.asarray(tree[name.module][name.name])
    if name.task is not None:
      array = array[name.task]
    result[torch_name] = to_torch_layout(name, array)
  return result
