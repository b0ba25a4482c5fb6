"""Predicts structures with a trained model."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import os
from typing import Any
from typing import NamedTuple

import numpy as np

from jmp_hk import dataset_info
from jmp_hk import reference_energies
from jmp_hk import structure as structure_lib
from jmp_hk.checkpoints import loading
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import batching
from jmp_hk.inference import execution
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import preparation
from jmp_hk.inference import single_head
from jmp_hk.models import model as model_lib
from jmp_hk.models import parameters
from jmp_hk.models import precision as precision_lib
from jmp_hk.runtime import configuration
from jmp_hk.runtime import devices as devices_lib

BATCH_EDGES = 4096  # Main edges of a batch; more does not pay on a CPU.


class Embedding(NamedTuple):
  """Mean embeddings of one structure.

  Attributes:
    nodes: [atom channels] mean over its atoms.
    edges: [edge channels] mean over its main edges, zero if it has none; None where the
      backbone has no embeddings of edges.
  """

  nodes: np.ndarray
  edges: np.ndarray | None


class Predictor:
  """A trained model that predicts structures; compiles programs and keeps them.

  Attributes:
    config: configuration of the model.
    infos: constants of each head's dataset by name.
    variables: parameters and scale factors.
    origin: licence and provenance of the weights, see `model_directory.LoadedModel`.
    precision: what it computes in, see `jmp_hk.load`.
    batch_edges: about how many main edges a batch has.
    num_devices: how many devices of this process are used; zero uses all.
    num_workers: processes that build the graphs of many structures.
  """

  def __init__(
    self,
    config: model_lib.ModelConfig,
    infos: Mapping[str, dataset_info.DatasetInfo],
    variables: model_lib.Variables,
    *,
    origin: Mapping[str, Any] | None = None,
    precision: str = "float32",
    batch_edges: int = BATCH_EDGES,
    num_devices: int = 0,
    num_workers: int = 0,
  ) -> None:
    """Takes a model that is in memory; `load` reads one from disk.

    Args:
      config: configuration of the model.
      infos: constants of each task's dataset by name.
      variables: parameters and scale factors.
      origin: licence and provenance of the weights, where they are known.
      precision: what is computed in, see `jmp_hk.load`.
      batch_edges: about how many main edges a batch has.
      num_devices: how many devices of this process are used, see `jmp_hk.load`.
      num_workers: processes that build the graphs of many structures, likewise.

    Raises:
      DevicesError: there are fewer devices.
      ValueError: the precision is not known.
    """
    configuration.configure()
    precision_lib.check_precision(precision, precision_lib.INFERENCE)
    self.config = config
    self.infos = dict(infos)
    self.variables = variables
    self.origin = dict(origin or {})
    self.precision = precision
    self.batch_edges = batch_edges
    self.num_devices = num_devices
    self.num_workers = num_workers
    if num_devices:
      devices_lib.local_devices(num_devices)
    self._heads: dict[str, single_head.SingleHead] = {}
    self._programs: single_head.Programs = {}

  def __repr__(self) -> str:
    """Backbone, number of parameters, and what each head predicts in which unit."""
    count = parameters.count(self.variables.params)
    lines = [
      f"Predictor: {self.config.backbone.describe()}",
      f"  {count:,} parameters, computes in {self.precision}",
    ]
    for task in self.config.tasks:
      units = self.infos[task.name].units
      targets = [
        f"{target.name} ({unit})" if (unit := target.spec.unit(units)) else target.name
        for target in task.targets
      ]
      lines.append(f"  head {task.name!r}: {', '.join(targets)}")
    return "\n".join(lines)

  @property
  def heads(self) -> tuple[str, ...]:
    """Names of the heads."""
    return tuple(task.name for task in self.config.tasks)

  @property
  def num_compilations(self) -> int:
    """Number of programs compiled so far, over all heads."""
    return len(self._programs)

  def head(self, name: str | None = None) -> single_head.SingleHead:
    """One head, ready to run.

    Args:
      name: name of the head; may be None if the model has one.

    Raises:
      ValueError: there is no such head, or there are several and none is named.
    """
    name = self.head_name(name)
    if name not in self._heads:
      self._heads[name] = single_head.SingleHead(
        self.config,
        self.variables,
        self.infos[name],
        name,
        self.precision,
        self._programs,
      )
    return self._heads[name]

  def head_name(self, name: str | None) -> str:
    """The name of a head after a check; arguments and errors as of `head`."""
    if name is None and len(self.heads) == 1:
      return self.heads[0]
    if name is None or name not in self.heads:
      problem = "Name one of" if name is None else f"There is no head {name!r} among"
      raise ValueError(f"{problem} the model's heads: {', '.join(self.heads)}.")
    return name

  def notices(self, name: str | None = None) -> list[str]:
    """What a reader of a head's predictions has to know, as sentences."""
    runner = self.head(name)
    names = [target.name for target in runner.task.targets]
    if "energy" in names and not runner.info.energy_references:
      return [
        f"Energies of the head {runner.task.name!r} are relative to per-element "
        "reference energies, which the model does not hold."
      ]
    return []

  def predict(
    self,
    structures: preparation.Structures,
    head: str | None = None,
    *,
    skip_invalid: bool = False,
    on_progress: batching.OnProgress | None = None,
    on_invalid: preparation.OnInvalid | None = None,
  ) -> list[prediction_lib.Prediction | None]:
    """Predicts structures.

    Args:
      structures: any number of structures; a single one counts as a list of one.
      head: name of the head; may be left out if the model has one.
      skip_invalid: whether to predict the others where some cannot be predicted.
      on_progress: called after each batch.
      on_invalid: called for each structure that is skipped.

    Returns:
      One prediction a structure, in their order; None where it was skipped.

    Raises:
      InvalidStructuresError: some structures cannot be predicted; raised before any is,
        unless the model itself gives numbers that are not finite.
      ValueError: see `head`.
    """
    job = self._execution(head, on_progress)
    policy = preparation.InvalidPolicy(skip_invalid, on_invalid)
    return [
      None if result is None else job.head.denormalise(*result)
      for result in job.run_atoms(structures, policy)
    ]

  def predict_structures(
    self,
    structures: Iterable[structure_lib.Structure],
    head: str | None = None,
    *,
    on_progress: batching.OnProgress | None = None,
  ) -> list[prediction_lib.Prediction]:
    """Predicts records of a converted dataset, whose conventions they have already.

    Only some thousand records have their graphs in memory at a time.

    Args:
      structures: valid structures; their labels are not used.
      head: see `predict`.
      on_progress: see `predict`.

    Returns:
      One prediction a structure, in their order.

    Raises:
      InvalidStructureError: a structure has no usable cell or positions.
      InvalidStructuresError: the model gives numbers that are not finite.
      ValueError: see `head`.
    """
    job = self._execution(head, on_progress)
    return [job.head.denormalise(*result) for result in job.run_records(structures)]

  def embed(
    self,
    structures: preparation.Structures,
    head: str | None = None,
    *,
    skip_invalid: bool = False,
    on_progress: batching.OnProgress | None = None,
    on_invalid: preparation.OnInvalid | None = None,
  ) -> list[Embedding | None]:
    """Mean embeddings of structures.

    Args:
      structures: see `predict`.
      head: head whose dataset decides about graphs; the backbone is the same for all.
      skip_invalid: see `predict`.
      on_progress: see `predict`.
      on_invalid: see `predict`.

    Returns:
      One embedding a structure, in their order; None where it was skipped.

    Raises:
      InvalidStructuresError: see `predict`.
      ValueError: see `head`.
    """
    job = self._execution(head, on_progress, embed=True)
    policy = preparation.InvalidPolicy(skip_invalid, on_invalid)
    return [
      None if result is None else _embedding(*result)
      for result in job.run_atoms(structures, policy)
    ]

  def embed_structures(
    self,
    structures: Iterable[structure_lib.Structure],
    head: str | None = None,
    *,
    graph: graph_config.GraphConfig | None = None,
    on_progress: batching.OnProgress | None = None,
  ) -> list[Embedding]:
    """Mean embeddings of records of a converted dataset.

    Args:
      structures: see `predict_structures`.
      head: any head; its programs are used.
      graph: graph settings; None stands for those of the head's dataset.
      on_progress: see `predict`.

    Returns:
      One embedding a structure, in their order.

    Raises:
      InvalidStructureError: see `predict_structures`.
      InvalidStructuresError: see `predict_structures`.
      ValueError: see `head`.
    """
    job = self._execution(head, on_progress, embed=True, graph=graph)
    return [_embedding(*result) for result in job.run_records(structures)]

  def _execution(
    self,
    head: str | None,
    on_progress: batching.OnProgress | None,
    *,
    embed: bool = False,
    graph: graph_config.GraphConfig | None = None,
  ) -> execution.Execution:
    runner = self.head(head)
    graph = graph or runner.info.graph
    return execution.Execution(
      runner,
      graph,
      self.batch_edges,
      embed,
      on_progress,
      devices_lib.local_devices(self.num_devices),
      self.num_workers,
    )


def load(
  path: str | os.PathLike[str],
  *,
  ema: bool = True,
  step: int | None = None,
  tasks: Sequence[str | dataset_info.DatasetInfo] | None = None,
  references: Mapping[str, str | os.PathLike[str]] | None = None,
  precision: str = "float32",
  batch_edges: int = BATCH_EDGES,
  num_devices: int = 0,
  num_workers: int = 0,
) -> Predictor:
  """Loads a model.

  Args:
    path: a model directory, the working directory of a training run, a checkpoint in
      it, a PyTorch file such as jmp-s.pt, or the name "jmp-mini".
    ema: see `loading.load_model`.
    step: see `loading.load_model`.
    tasks: see `loading.load_model`.
    references: files of per-element reference energies by head, see
      `reference_energies.load_references`.
    precision: see `Predictor`.
    batch_edges: see `Predictor`.
    num_devices: see `jmp_hk.load`.
    num_workers: see `jmp_hk.load`.

  Returns:
    The model.

  Raises:
    CheckpointError: there is no model, or it cannot be understood.
    DevicesError: there are fewer devices.
    ReferencesError: a file of references cannot be used.
    ValueError: there is no such head, step, task or precision.
  """
  configuration.configure()
  loaded = loading.load_model(path, ema=ema, step=step, tasks=tasks)
  infos = dict(loaded.infos)
  for head, file in (references or {}).items():
    if head not in infos:
      raise ValueError(
        f"There is no head {head!r} among the model's: {', '.join(infos)}."
      )
    infos[head] = reference_energies.with_references(
      infos[head], reference_energies.load_references(file)
    )
  return Predictor(
    loaded.config,
    infos,
    loaded.variables,
    origin=loaded.origin,
    precision=precision,
    batch_edges=batch_edges,
    num_devices=num_devices,
    num_workers=num_workers,
  )


def _embedding(
  structure: structure_lib.Structure, values: Mapping[str, np.ndarray]
) -> Embedding:
  """The embedding in the outputs of `SingleHead.embed`."""
  del structure
  return Embedding(values["nodes"], values.get("edges"))
