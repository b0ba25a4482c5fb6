"""Names and layouts of the published PyTorch tensors in the Haiku tree.

The Haiku modules carry the published names, so the mapping is short:
`backbone.int_blocks.0.trip_interaction.dense_ba.linear.weight` is parameter `w` of
`backbone/int_blocks_0/trip_interaction/dense_ba`. Layouts differ in three ways: linear
weights are transposed; heads are stacked over tasks; and the three-dimensional weight
of a projection of a basis keeps its numbers in memory but has another shape. The
published code creates that weight with the shape (radial, angular, channels) and reads
it as (radial, channels, angular), by `reshape` and not by exchanging axes.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import re

import haiku as hk
import numpy as np

# Tensors that hold no information of their own: constants of the radial basis, and
# second names of the tensors of `out_blocks.N.layers`.
_REDUNDANT = re.compile(r"\.rbf\.(offset|temps)$|\.seq_energy_pre\.")
_HEAD = re.compile(r"^output\.out_(\w+)\.(\d+)\.(\d+)\.(weight|bias)$")
_BASIS = re.compile(r"\.bases\.mlp_[cs]bf_\w+\.weight$")


@dataclasses.dataclass(frozen=True)
class HaikuName:
  """Where a PyTorch tensor lives in the Haiku trees.

  Attributes:
    module: path of the module.
    name: name of the parameter, or "scale_factor" for Haiku state.
    task: index along axis 0 of a head that is stacked over tasks, or None.
    layout: how the layouts differ: "transpose", "basis" or "same".
  """

  module: str
  name: str
  task: int | None = None
  layout: str = "same"

  @property
  def is_state(self) -> bool:
    """Whether it lives in Haiku's state rather than in the parameters."""
    return self.name == "scale_factor"


def is_redundant(torch_name: str) -> bool:
  """Whether a tensor is a constant or repeats another one."""
  return bool(_REDUNDANT.search(torch_name))


def to_haiku(torch_name: str) -> HaikuName:
  """Maps a name of the published state dict.

  Args:
    torch_name: name of a tensor that is not redundant, e.g.
      "embedding.atom_embedding.weight".

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
  """Path of the Haiku module of a published layer."""
  path = path.removesuffix(".linear")
  path = re.sub(r"(mlp_[cs]bf)\.bilinear$", r"\1", path)
  path = re.sub(r"\.(\d+)(?=\.|$)", r"_\1", path)
  return path.replace(".", "/")


def to_torch(module: str, name: str) -> str:
  """Inverse of `to_haiku`.

  Args:
    module: path of the Haiku module.
    name: "w", "b", "embeddings" or "scale_factor".

  Returns:
    The published name. That of a head that is stacked over tasks has "{task}" in place
    of the index.
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


def _bilinear(match: re.Match[str]) -> str:
  """Name of a projection of a basis; that of quadruplets' circular basis is plain."""
  path = match.group()
  plain = path.endswith("quad_interaction.mlp_cbf")
  return path if plain else f"{path}.bilinear"


def torch_shapes(params: hk.Params, state: hk.State) -> dict[str, tuple[int, ...]]:
  """Published names and shapes of the tensors that Haiku trees hold.

  Args:
    params: Haiku parameters, arrays or their shapes.
    state: Haiku state with the scale factors, likewise.

  Returns:
    Shapes by published name, with one entry a task for stacked heads.
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


def by_parameter(names: Iterable[str]) -> dict[str, list[tuple[HaikuName, str]]]:
  """Groups tensors by the parameter that they make up.

  Args:
    names: published names that are not redundant.

  Returns:
    By path in the Haiku trees, places and names of the tensors: one, or those of all
    tasks in their order.

  Raises:
    KeyError: a name does not belong to the published model.
  """
  result: dict[str, list[tuple[HaikuName, str]]] = {}
  for torch_name in names:
    name = to_haiku(torch_name)
    result.setdefault(f"{name.module}/{name.name}", []).append((name, torch_name))
  for entries in result.values():
    entries.sort(key=lambda entry: entry[0].task or 0)
  return result


def import_state_dict(
  tensors: Mapping[str, np.ndarray],
) -> tuple[hk.MutableParams, hk.MutableState]:
  """Converts a published state dict to Haiku parameters and state.

  Args:
    tensors: arrays by published name; redundant ones are not used.

  Returns:
    Parameters and state.

  Raises:
    KeyError: a name does not belong to the published model.
  """
  params: hk.MutableParams = {}
  state: hk.MutableState = {}
  names = [name for name in tensors if not is_redundant(name)]
  for entries in by_parameter(names).values():
    arrays = [to_haiku_layout(name, np.asarray(tensors[key])) for name, key in entries]
    first = entries[0][0]
    tree = state if first.is_state else params
    value = arrays[0] if first.task is None else np.stack(arrays)
    # Haiku takes NumPy's arrays as well as jax's.
    tree.setdefault(first.module, {})[first.name] = value  # pyright: ignore[reportArgumentType]
  return params, state


def export_state_dict(
  params: hk.Params, state: hk.State, names: Iterable[str]
) -> dict[str, np.ndarray]:
  """Converts Haiku trees to the published layout.

  Args:
    params: Haiku parameters.
    state: Haiku state with the scale factors.
    names: published names of the tensors to convert, without redundant ones.

  Returns:
    Arrays by published name.

  Raises:
    KeyError: a name does not belong to the model, or the trees lack it.
  """
  result = {}
  for torch_name in names:
    name = to_haiku(torch_name)
    tree = state if name.is_state else params
    array = np.asarray(tree[name.module][name.name])
    if name.task is not None:
      array = array[name.task]
    result[torch_name] = to_torch_layout(name, array)
  return result
