"""One head of a model as functions that are compiled once for each budget."""

from collections.abc import Mapping
import contextlib
import dataclasses
from typing import Any

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
from jmp_hk.models import heads
from jmp_hk.models import model as model_lib
from jmp_hk.models import precision as precision_lib
from jmp_hk.runtime import compilation
from jmp_hk.targets import config as tasks_lib

# (function, model with unnamed head, precision, budget) → executable.
Programs = dict[tuple[Any, ...], jax.stages.Compiled]


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
    self._programs: Programs = {} if programs is None else programs
    self._signature = _signature(self._model.config), precision

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
    same = [key for key in self._programs if key[1:-1] == self._signature]
    return list(dict.fromkeys(budget for *_, budget in same))

  def predict(self, batch: batch_lib.Batch) -> dict[str, jax.Array]:
    """Normalised predictions of a batch, see `Model.apply`; returns at once."""
    return self._run("predict", batch)

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
    return self._run("embed", batch)

  def _run(self, name: str, batch: batch_lib.Batch) -> dict[str, jax.Array]:
    function = {"predict": self._predict, "embed": self._embed}[name]
    with self._precision():
      key = (name, *self._signature, batch.budget)
      if key not in self._programs:
        self._programs[key] = compilation.compile_for(
          jax.jit(function), self._variables, batch
        )
      return self._programs[key](self._variables, batch)

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


def _signature(config: model_lib.ModelConfig) -> model_lib.ModelConfig:
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
