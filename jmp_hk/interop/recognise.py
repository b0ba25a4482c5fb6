"""Recognises the sizes of a published model from names and shapes of its tensors.

The published implementation is GemNet-OC, so that this module knows that backbone.
"""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import re

import numpy as np

from jmp_hk.interop import torch_names
from jmp_hk.models import model as model_lib
from jmp_hk.models.gemnet_oc import backbone as gemnet_oc
from jmp_hk.models.gemnet_oc import config as gemnet_config
from jmp_hk.targets import config as tasks_lib

Shapes = Mapping[str, tuple[int, ...]]

_BASES = "backbone.bases"
_BLOCK = "backbone.int_blocks.0"
# Modules of the published implementation that hold the constants of the radial basis.
_RADIAL_BASES = (
  "radial_basis",
  "cbf_basis_qint.radial_basis",
  "sbf_basis_qint.radial_basis",
  "radial_basis_aeaint",
  "cbf_basis_aeint.radial_basis",
  "cbf_basis_eaint.radial_basis",
  "radial_basis_aint",
  "cbf_basis_tint.radial_basis",
)
_FORCES, _ENERGY = "forces", "energy"
# Bounds of the models that are built to compare shapes with: layers of one kind, and
# channels. JMP-L has 6 blocks and up to 1,024 channels.
_MAX_LAYERS = 100
_MAX_WIDTH = 1 << 16
_MAX_SPHERICAL = 32  # Orders of the spherical basis; JMP has 7.


class RecognitionError(ValueError):
  """Tensors are not those of a known model; the message names them."""


def backbone(shapes: Shapes) -> gemnet_oc.GemNetOCConfig:
  """Sizes of the backbone.

  Args:
    shapes: shapes of the tensors by published name.

  Returns:
    The configuration; settings that shapes do not tell have their published values.

  Raises:
    RecognitionError: a tensor that tells a size is missing or has another rank.
  """
  size = _Sizes(shapes)
  num_elements, atom = size("embedding.atom_embedding.weight", 2)
  (edge, _) = size(f"{_BASES}.edge_emb.dense.linear.weight", 2)
  num_radial, num_spherical, circular = size(f"{_BASES}.mlp_cbf_tint.weight", 3)
  if num_spherical > _MAX_SPHERICAL:
    raise RecognitionError(
      f"This is no GemNet-OC as published: its spherical basis has {num_spherical} "
      f"orders, more than {_MAX_SPHERICAL}."
    )
  first_layer = int(atom != edge)  # A first layer changes the width if it has to.
  num_atom_update = _count(shapes, rf"{_BLOCK}\.atom_update\.layers\.(\d+)\.")
  return gemnet_oc.GemNetOCConfig(
    num_blocks=_count(shapes, r"backbone\.int_blocks\.(\d+)\."),
    atom_channels=atom,
    edge_channels=edge,
    num_elements=num_elements,
    direct_vectors=any(".out_mlp_F." in name for name in shapes),
    bases=gemnet_config.BasesConfig(
      num_radial=num_radial,
      num_spherical=num_spherical,
      radial_channels=size.out(f"{_BASES}.mlp_rbf_tint"),
      circular_channels=circular,
      spherical_channels=size(f"{_BASES}.mlp_sbf_qint.weight", 3)[2],
    ),
    interaction=gemnet_config.InteractionConfig(
      triplet=size.bilinear("trip_interaction", "mlp_cbf.bilinear"),
      quadruplet=size.bilinear("quad_interaction", "mlp_sbf.bilinear"),
      pair=size.bilinear("atom_interaction", "bilinear"),
      num_before_skip=_count(shapes, rf"{_BLOCK}\.layers_before_skip\.(\d+)\."),
      num_after_skip=_count(shapes, rf"{_BLOCK}\.layers_after_skip\.(\d+)\."),
      num_concat=_count(shapes, rf"{_BLOCK}\.residual_m\.(\d+)\."),
      num_atom_update=num_atom_update - first_layer,
      num_atom_embedding=_count(shapes, rf"{_BLOCK}\.atom_emb_layers\.(\d+)\."),
    ),
    output=gemnet_config.OutputConfig(
      # Published models have as many layers here as in the atom update.
      num_before_skip=num_atom_update - first_layer,
      num_after_skip=_count(shapes, r"backbone\.out_blocks\.0\.seq_energy2\.(\d+)\."),
      num_combined=_count(shapes, r"backbone\.out_mlp_E\.out_mlp\.(\d+)\.") - 1,
    ),
  )


def num_tasks(shapes: Shapes) -> int:
  """Number of datasets that the checkpoint has energy heads for."""
  return _count(shapes, rf"output\.out_{_ENERGY}\.(\d+)\.")


def model_config(shapes: Shapes, tasks: Sequence[str]) -> model_lib.ModelConfig:
  """Configuration of the whole model.

  Args:
    shapes: shapes of the tensors by published name.
    tasks: names of the model's tasks, in the order of its heads.

  Raises:
    RecognitionError: see `backbone`, or there are more or fewer heads than tasks.
  """
  count = num_tasks(shapes)
  if len(tasks) != count:
    raise RecognitionError(
      f"The file has heads for {count} datasets, but the tasks are {len(tasks)} "
      f"({', '.join(tasks)}); name one for each head, in the file's order."
    )
  has_forces = any(name.startswith(f"output.out_{_FORCES}.") for name in shapes)
  make = tasks_lib.pretraining_task
  configs = [make(name) for name in tasks]
  if not has_forces:
    configs = [tasks_lib.TaskConfig(task.name, task.targets[:1]) for task in configs]
  try:
    return model_lib.ModelConfig(backbone=backbone(shapes), tasks=tuple(configs))
  except RecognitionError:
    raise
  except ValueError as error:
    raise RecognitionError(f"No model has these shapes: {error}") from error


def check(shapes: Shapes, expected: Shapes, optional: Shapes) -> None:
  """Checks that every tensor is known and none is missing.

  Args:
    shapes: shapes of the file's tensors by published name.
    expected: shapes of the recognised model's tensors, likewise.
    optional: shapes of the constants and aliases that a file may hold besides.

  Raises:
    RecognitionError: a tensor is unknown, missing or of another shape; the message
      lists all of them.
  """
  known = {**expected, **optional}
  problems = [
    f"{name} {shape} is unknown" for name, shape in shapes.items() if name not in known
  ]
  problems += [
    f"{name} {shape} is missing"
    for name, shape in expected.items()
    if name not in shapes
  ]
  problems += [
    f"{name} has shape {shape} instead of {known[name]}"
    for name, shape in shapes.items()
    if name in known and tuple(shape) != tuple(known[name])
  ]
  if problems:
    raise RecognitionError(
      f"{len(problems)} tensors do not fit the model that the others describe: "
      + "; ".join(problems)
      + "."
    )


def redundant_shapes(
  expected: Shapes, constants: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]]:
  """Constants and aliases that a published state dict holds besides the weights.

  Args:
    expected: shapes of the weights by published name.
    constants: see `radial_constants`.

  Returns:
    Shapes by published name.
  """
  result: dict[str, tuple[int, ...]] = {}
  for basis in _RADIAL_BASES:
    for end, values in constants.items():
      result[f"{_BASES}.{basis}.{end}"] = values.shape
  for name, shape in expected.items():
    if alias := alias_of(name):
      result[alias] = shape
  return result


def alias_of(name: str) -> str | None:
  """The second name under which a state dict holds a tensor, or None."""
  alias, count = re.subn(
    r"^(backbone\.out_blocks\.\d+)\.layers\.", r"\1.seq_energy_pre.", name
  )
  return alias if count else None


def radial_constants(config: model_lib.ModelConfig) -> dict[str, np.ndarray]:
  """Constants of a model's radial basis, which state dicts hold under eight names.

  The basis is exp(-temps (x - offset)²) with x from 0 to 1.

  Args:
    config: a model with a GemNet-OC as its backbone.

  Returns:
    The constants by the end of their published names.
  """
  if not isinstance(config.backbone, gemnet_oc.GemNetOCConfig):
    raise TypeError(
      f"The published implementation is GemNet-OC, not {config.backbone.describe()}."
    )
  num_radial = config.backbone.bases.num_radial
  return {
    "rbf.offset": np.linspace(0, 1, num_radial, dtype=np.float32),
    "rbf.temps": np.full(num_radial, (num_radial - 1) ** 2 / 2, np.float32),
  }


def weight_shapes(variables: model_lib.Variables) -> dict[str, tuple[int, ...]]:
  """Published names and shapes of a model's weights and scale factors."""
  return torch_names.torch_shapes(variables.params, variables.scales)


class _Sizes:
  """Looks shapes up, with errors that name the tensor."""

  def __init__(self, shapes: Shapes) -> None:
    self._shapes = shapes

  def __call__(self, name: str, rank: int) -> tuple[int, ...]:
    shape = self._shapes.get(name)
    if shape is not None and max(shape, default=0) > _MAX_WIDTH:
      raise RecognitionError(
        f"This is no GemNet-OC as published: {name} is of shape {shape}, more than "
        f"{_MAX_WIDTH} along one direction."
      )
    if shape is None or len(shape) != rank:
      raise RecognitionError(
        f"This is no GemNet-OC as published: {name} is "
        f"{'missing' if shape is None else f'of shape {shape}'}."
      )
    return tuple(shape)

  def bilinear(self, interaction: str, layer: str) -> gemnet_config.BilinearConfig:
    """Widths around the bilinear layer of an interaction of the first block."""
    path = f"{_BLOCK}.{interaction}"
    return gemnet_config.BilinearConfig(
      self.out(f"{path}.down_projection"), self.out(f"{path}.{layer}")
    )

  def out(self, layer: str) -> int:
    """Output width of a linear layer."""
    return self(f"{layer}.linear.weight", 2)[0]


def _count(names: Collection[str], pattern: str) -> int:
  """One more than the largest number in the names.

  Raises:
    RecognitionError: there are more layers than any model has.
  """
  matches = (re.match(pattern, name) for name in names)
  found = [match.group(1) for match in matches if match]
  if wrong := [text for text in found if len(text) > 3 or int(text) >= _MAX_LAYERS]:
    raise RecognitionError(
      f"This is no GemNet-OC as published: a layer has the number {wrong[0][:20]}; "
      f"there are at most {_MAX_LAYERS}."
    )
  return max((int(text) + 1 for text in found), default=0)
