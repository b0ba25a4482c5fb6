"""Training steps of small models, lowered for CUDA: needs no GPU, compiles nothing."""

import functools
import re
from typing import Any
from typing import NamedTuple

import haiku as hk
import jax
from jaxlib.mlir import ir
import numpy as np

from jmp_hk.models import grouped_mlp
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import compilation
from jmp_hk.training import config as config_lib
from jmp_hk.training import losses
from jmp_hk.training import objective as objective_lib
from jmp_hk.training import optimizer as optimizer_lib
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib
from jmp_hk.training import step as step_lib
from tests.jmp_hk.models.gemnet_oc import small_model

KINDS = ("direct", "conservative")


class Product(NamedTuple):
  """A matrix product of a lowered program.

  Attributes:
    scope: path of the module it belongs to, "/backbone/int_blocks_0/dense_ca/…".
    precisions: the precisions of both operands.
    dtypes: the data types of both operands.
  """

  scope: str
  precisions: frozenset[str]
  dtypes: frozenset[str]

  @property
  def is_exact(self) -> bool:
    """Whether no card may compute it in less than the precision of its operands."""
    return self.precisions == {"HIGHEST"}


class Step(NamedTuple):
  """A lowered training step.

  Attributes:
    module: the program, StableHLO.
    dense: paths of the model's dense layers.
  """

  module: ir.Module
  dense: frozenset[str]


def make_batch(structures, tasks=None, budget=small_model.BUDGET):
  """Packs structures, with labels that are zero."""
  batch = small_model.make_batch(
    structures, tasks=tasks, budget=budget, dtype=np.float32
  )
  labels = {
    "energy": np.zeros(budget.num_graphs, np.float32),
    "forces": np.zeros((budget.num_atoms, 3), np.float32),
  }
  return batch.replace(targets=labels)


def make_model(kind: str, precision: str) -> model_lib.Model:
  """A small model, direct or conservative."""
  make = getattr(small_model, f"{kind}_config")
  return model_lib.build_model(make(precision=precision))


@functools.cache
def lowered(kind: str, precision: str) -> Step:
  """The whole step: forward and backward pass, clipping, AdamW, moving average."""
  model = make_model(kind, precision)
  batch = make_batch([small_model.molecule(), small_model.crystal()])
  key = jax.random.PRNGKey(0)
  params, scales = jax.eval_shape(model.init, key, batch)
  optimizer = optimizer_lib.make_optimizer(config_lib.OptimizerConfig(), params)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (params, scales))
  step = step_lib.make_train_step(
    objective_lib.make_objective(model, losses.LossConfig(), {}),
    optimizer,
    config_lib.TrainConfig(num_steps=1, batch_size=1),
    sharding.make_mesh(jax.devices()[:1]),
  )
  dense: set[str] = set()
  classes = (grouped_mlp.TaskLinear, *model.config.backbone.dense_modules)

  def record(next_call, args, kwargs, context):
    if type(context.module) in classes and context.method_name != "__init__":
      dense.add(context.module.module_name)
    return next_call(*args, **kwargs)

  with compilation.trace_for("gpu"), hk.intercept_methods(record):
    program = step.lower(
      state_lib.create(*zeros, optimizer, key, use_ema=True),
      jax.tree.map(lambda x: x[None], batch),
      platforms=("cuda",),
    )
  return Step(program.compiler_ir("stablehlo"), frozenset(dense))


def operations(module: ir.Module, name: str = "") -> list[Any]:
  """All operations of a program, or those of one name, e.g. "dot_general"."""
  found = []

  def visit(operation) -> ir.WalkResult:
    if not name or operation.name == f"stablehlo.{name}":
      found.append(operation)
    return ir.WalkResult.ADVANCE

  module.operation.walk(visit)
  return found


def products(module: ir.Module) -> list[Product]:
  """All matrix products of a program."""
  return [
    Product(
      scope=scope(operation),
      precisions=frozenset(
        re.findall(r"precision (\w+)", str(operation.attributes["precision_config"]))
      ),
      dtypes=frozenset(dtype(operand) for operand in operation.operands),
    )
    for operation in operations(module, "dot_general")
  ]


def scope(operation) -> str:
  """Where an operation was traced: names of modules, without jax's transformations."""
  match = re.match(r'loc\("([^"]*)"', str(operation.location))
  return "/" + re.sub(r"\w+\(|\)", "", match[1] if match else "") + "/"


def dtype(value) -> str:
  """Data type of the elements of an array in a program."""
  return str(ir.RankedTensorType(value.type).element_type)
