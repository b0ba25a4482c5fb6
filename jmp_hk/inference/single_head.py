"""One head of a model as functions that are compiled once for each budget."""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any
from typing import Literal
from typing import NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import structure as structure_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.inference import prediction
from jmp_hk.inference import spreading
from jmp_hk.models import heads
from jmp_hk.models import model as model_lib
from jmp_hk.models import precision as precision_lib
from jmp_hk.runtime import compilation
from jmp_hk.runtime import devices as devices_lib
from jmp_hk.targets import config as tasks_lib

Function = Literal["predict", "embed"]


class ProgramKey(NamedTuple):
  """What a program is compiled for.

  Attributes:
    function: what it computes.
    model: configuration of the model with an unnamed head.
    precision: what it computes in.
    num_devices: on how many devices, each with a batch.
    budget: static sizes of a batch.
  """

  function: Function
  model: model_lib.ModelConfig
  precision: str
  num_devices: int
  budget: budget_lib.Budget


Programs = dict[ProgramKey, jax.stages.Compiled]


class SingleHead:
  """The backbone with the targets of one task, ready to run on packed batches.

  Attributes:
    task: the head's task with its targets.
    info: constants of the task's dataset.
    builder: the backbone's builder of graphs.
    dtype: data type of the batches it takes.
  """

  def __init__(
    self,
    config: model_lib.ModelConfig,
    variables: model_lib.Variables,
    info: dataset_info.DatasetInfo,
    name: str,
    precision: str = "float32",
    programs: Programs | None = None,
  ) -> None:
    """Takes one task out of a model; compiles nothing yet.

    Args:
      config: configuration of the model.
      variables: parameters and scale factors of the model.
      info: constants of the task's dataset.
      name: name of the task.
      precision: one of `precision.INFERENCE`; "float64" computes everything in it.
      programs: programs that are compiled already, to which those of this head are
        added. Heads that differ in weights alone share programs, so all heads of a
        model should be given the same dictionary.

    Raises:
      ValueError: the model has no such task, or the precision is not known.
    """
    precision_lib.check_precision(precision, precision_lib.INFERENCE)
    config, params = select(config, variables.params, name)
    config = dataclasses.replace(
      config, precision="float32" if precision == "float64" else precision
    )
    self.task = config.tasks[0]
    self.info = info
    self.builder = config.backbone.graph_builder
    self.dtype = np.dtype("float64" if precision == "float64" else "float32")
    self._model = model_lib.build_model(
      dataclasses.replace(config, stress=self.task.is_conservative)
    )
    with self._precision():
      self._variables = jax.tree.map(
        lambda x: jnp.asarray(x, self.dtype),
        model_lib.Variables(params, variables.scales),
      )
    self._copies = spreading.DeviceCopies(self._variables)
    self._programs: Programs = {} if programs is None else programs
    self._unnamed = _unnamed(self._model.config)
    self._precision_name = precision

  @property
  def num_compilations(self) -> int:
    """Number of programs compiled so far, for this head and others of the model."""
    return len(self._programs)

  @property
  def per_atom(self) -> frozenset[str]:
    """Names of the targets with one row per atom."""
    return self.task.per_atom

  @property
  def budgets(self) -> list[budget_lib.Budget]:
    """Budgets for which something is compiled, oldest first."""
    found = [
      key.budget
      for key in self._programs
      if key == self._key(key.function, key.num_devices, key.budget)
    ]
    return list(dict.fromkeys(found))

  def compiled_for(self, name: Function, budget: budget_lib.Budget) -> list[int]:
    """Numbers of devices for which a function is compiled with a budget.

    Args:
      name: the function.
      budget: static sizes of the batches.
    """
    return [
      key.num_devices
      for key in self._programs
      if key == self._key(name, key.num_devices, budget)
    ]

  def predict(self, batch: batch_lib.Batch) -> dict[str, jax.Array]:
    """Normalised predictions of a batch, see `Model.apply`; returns at once."""
    return self.run("predict", [batch])[0]

  def denormalise(
    self, structure: structure_lib.Structure, values: Mapping[str, np.ndarray]
  ) -> prediction.Prediction:
    """One structure's part of what `predict` gave, in physical units."""
    return prediction.denormalise(self.task, self.info, structure, values)

  def embed(self, batch: batch_lib.Batch) -> dict[str, jax.Array]:
    """Mean embeddings of a batch's structures.

    Returns:
      "nodes" [G, atom channels] and, where the backbone has embeddings of edges,
      "edges" [G, edge channels]; zero for padding and for structures without edges.
    """
    return self.run("embed", [batch])[0]

  def run(
    self,
    name: Function,
    batches: Sequence[batch_lib.Batch],
    devices: Sequence[devices_lib.Device] = (),
  ) -> list[dict[str, jax.Array]]:
    """`predict` or `embed` for a batch on each of some devices; returns at once.

    Args:
      name: which of them.
      batches: one batch or several of one budget.
      devices: as many devices; not used for one batch, which goes to jax's default
        device.

    Returns:
      What the function returns for each batch.
    """
    function = self._predict if name == "predict" else self._embed
    is_spread = len(batches) > 1
    key = self._key(name, len(batches), batches[0].budget)
    with self._precision():
      arguments: tuple[Any, ...] = self._variables, batches[0]
      if is_spread:
        arguments = self._copies.on(devices), spreading.put(batches, devices)
      if key not in self._programs:
        jitted = jax.jit(function)
        if is_spread:
          jitted = spreading.on_each_device(function, devices)
        self._programs[key] = compilation.compile_for(jitted, *arguments)
      outputs = self._programs[key](*arguments)
    return spreading.split(outputs, devices) if is_spread else [outputs]

  def _key(
    self, name: Function, num_devices: int, budget: budget_lib.Budget
  ) -> ProgramKey:
    return ProgramKey(name, self._unnamed, self._precision_name, num_devices, budget)

  def _predict(
    self, variables: model_lib.Variables, batch: batch_lib.Batch
  ) -> dict[str, jax.Array]:
    return self._model.apply(variables, None, batch)

  def _embed(
    self, variables: model_lib.Variables, batch: batch_lib.Batch
  ) -> dict[str, jax.Array]:
    embeddings = self._model.embed(variables, batch)
    result = {"nodes": _means(embeddings.nodes, batch.node_graph, batch.n_node)}
    if embeddings.edges is not None and embeddings.receivers is not None:
      graph = batch.node_graph[embeddings.receivers]
      is_real = batch.atom_mask[embeddings.receivers].astype(jnp.int32)
      counts = jraph.segment_sum(
        is_real, graph, len(batch.n_node), indices_are_sorted=True
      )
      result["edges"] = _means(embeddings.edges, graph, counts)
    return jax.tree.map(
      lambda x: jnp.where(batch.graph_mask[:, None], x, 0).astype(self.dtype), result
    )

  def _precision(self) -> contextlib.AbstractContextManager[Any]:
    """Arrays of 64 bits while something of this head runs, if it needs them."""
    if self.dtype == np.float64:
      return jax.enable_x64(True)
    return contextlib.nullcontext()


def select(
  config: model_lib.ModelConfig, params: hk.Params, name: str
) -> tuple[model_lib.ModelConfig, hk.Params]:
  """Leaves the heads of one task in a model.

  Args:
    config: configuration of the model.
    params: its Haiku parameters.
    name: name of the task.

  Returns:
    Configuration and parameters of a model with that task alone.

  Raises:
    ValueError: the model has no such task; the message names those it has.
  """
  names = [task.name for task in config.tasks]
  if name not in names:
    raise ValueError(f"The model has no head {name!r}; it has {', '.join(names)}.")
  index = names.index(name)
  selected = dict(params)
  for plan in heads.plan_heads(config.tasks):
    prefix = f"out_{plan.target.name}/"
    row = plan.task_head[index]
    for module in [module for module in selected if module.startswith(prefix)]:
      leaves = selected.pop(module)
      if row >= 0:
        selected[module] = {key: leaf[row : row + 1] for key, leaf in leaves.items()}
  return dataclasses.replace(config, tasks=(config.tasks[index],)), selected


def _unnamed(config: model_lib.ModelConfig) -> model_lib.ModelConfig:
  """The configuration without names and factors that do not change the program."""
  tasks = [
    tasks_lib.TaskConfig(
      "head",
      tuple(dataclasses.replace(t, loss_coefficient=1.0) for t in task.targets),
    )
    for task in config.tasks
  ]
  return dataclasses.replace(config, tasks=tuple(tasks))


def _means(x: jax.Array, graph: jax.Array, counts: jax.Array) -> jax.Array:
  """Mean of the rows of each structure, in float32 or wider.

  Args:
    x: [rows, channels] values, zero for padding.
    graph: [rows] structure of each row, ascending.
    counts: [G] number of rows of each structure.
  """
  chex.assert_rank([x, graph, counts], [2, 1, 1])
  chex.assert_equal_shape_prefix([x, graph], 1)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  sums = jraph.segment_sum(x, graph, counts.shape[0], indices_are_sorted=True)
  return sums / jnp.maximum(counts, 1)[:, None]
