"""Predicts structures with any model of this program."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import os
from typing import NamedTuple

import ase
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import reference_energies
from jmp_hk import structure as structure_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import config as graph_config
from jmp_hk.inference import batching
from jmp_hk.inference import prediction as prediction_lib
from jmp_hk.inference import preparation
from jmp_hk.inference import single_head
from jmp_hk.models import model as model_lib

BATCH_EDGES = 4096  # Main edges of a batch; more does not pay on a CPU.


class Embedding(NamedTuple):
  """Mean embeddings of one structure.

  Attributes:
    nodes: [atom channels], mean over its atoms.
    edges: [edge channels], mean over its main edges (zero if it has none), or None
      where the backbone has no edge branch.
  """

  nodes: np.ndarray
  edges: np.ndarray | None


class Predictor:
  """A loaded model. Programs are compiled when needed and kept.

  Attributes:
    config: of the model.
    infos: constants of each head's dataset by name.
    batch_edges: main edges of a batch.
  """

  def __init__(
    self,
    config: model_lib.ModelConfig,
    infos: Mapping[str, dataset_info.DatasetInfo],
    variables: model_lib.Variables,
    *,
    precision: str = "float32",
    batch_edges: int = BATCH_EDGES,
  ) -> None:
    """Takes a model; see `load` for one on disk.

    Args:
      config: of the model.
      infos: constants of each task's dataset by name.
      variables: its weights.
      precision: "float32", "float64" or "bfloat16".
      batch_edges: main edges of a batch.

    Raises:
      ValueError: an unknown precision.
    """
    if precision not in single_head.PRECISIONS:
      raise ValueError(
        f"precision must be one of {single_head.PRECISIONS}, got {precision!r}."
      )
    self.config = config
    self.infos = dict(infos)
    self.batch_edges = batch_edges
    self._variables = variables
    self._precision = precision
    self._heads: dict[str, single_head.SingleHead] = {}
    self._programs: single_head.Programs = {}

  @property
  def heads(self) -> tuple[str, ...]:
    """Names of the heads."""
    return tuple(task.name for task in self.config.tasks)

  @property
  def num_compilations(self) -> int:
    """Programs compiled so far, over all heads."""
    return len(self._programs)

  def head(self, name: str | None = None) -> single_head.SingleHead:
    """One head, ready to run.

    Args:
      name: of the head; may be None if there is only one.

    Raises:
      ValueError: there is no such head, or there are several and none is named.
    """
    name = self.head_name(name)
    if name not in self._heads:
      self._heads[name] = single_head.SingleHead(
        self.config,
        self._variables,
        self.infos[name],
        name,
        self._precision,
        self._programs,
      )
    return self._heads[name]

  def head_name(self, name: str | None) -> str:
    """The name of a head, checked; arguments and errors as of `head`."""
    if name is None and len(self.heads) == 1:
      return self.heads[0]
    if name not in self.heads:
      problem = "Name one of" if name is None else f"There is no head {name!r} among"
      raise ValueError(f"{problem} the model's heads: {', '.join(self.heads)}.")
    return name

  def notices(self, name: str | None = None) -> list[str]:
    """What a reader of a head's predictions has to know, as sentences."""
    runner = self.head(name)
    names = [target.name for target in runner.task.targets]
    if prediction_lib.ENERGY in names and not runner.info.energy_references:
      return [
        f"Energies of the head {runner.task.name!r} are relative to per-element "
        "reference energies, which the model does not hold."
      ]
    return []

  def predict(
    self,
    structures: Iterable[ase.Atoms],
    head: str | None = None,
    *,
    skip_invalid: bool = False,
    on_progress: batching.OnProgress | None = None,
    on_invalid: preparation.OnInvalid | None = None,
  ) -> list[prediction_lib.Prediction | None]:
    """Predicts structures; results are in their order.

    Args:
      structures: any number of structures.
      head: name of the head; may be left out if there is only one.
      skip_invalid: predict the others where some cannot be predicted.
      on_progress: called after each batch.
      on_invalid: called for each structure that is skipped.

    Returns:
      One prediction per structure; None where it was skipped.

    Raises:
      InvalidStructuresError: some cannot be predicted; raised before any is, unless
        the model itself gives no finite numbers.
      ValueError: see `head`.
    """
    runner = self.head(head)
    policy = preparation.InvalidPolicy(skip_invalid, on_invalid)
    preparer = batching.Preparer(runner.builder, runner.info.graph)
    items = preparation.prepare(structures, runner.info, preparer, policy)
    return self._predict(items, runner, preparer, on_progress, policy)

  def predict_structures(
    self,
    structures: Iterable[structure_lib.Structure],
    head: str | None = None,
    *,
    on_progress: batching.OnProgress | None = None,
  ) -> list[prediction_lib.Prediction]:
    """Predicts records of a converted dataset, whose conventions they have already.

    Args:
      structures: valid structures; labels are not used.
      head: as in `predict`.
      on_progress: as in `predict`.

    Raises:
      InvalidStructureError: a structure has no usable cell or positions.
      ValueError: see `head`.
    """
    runner = self.head(head)
    preparer = batching.Preparer(runner.builder, runner.info.graph)
    items = [preparer(structure) for structure in structures]
    return self._predict(items, runner, preparer, on_progress)

  def embed(
    self,
    structures: Iterable[ase.Atoms],
    head: str | None = None,
    *,
    skip_invalid: bool = False,
    on_progress: batching.OnProgress | None = None,
    on_invalid: preparation.OnInvalid | None = None,
  ) -> list[Embedding | None]:
    """Mean embeddings of structures.

    Args:
      structures: any number of structures.
      head: whose dataset decides about graphs; the backbone is the same for all.
      skip_invalid: as in `predict`, likewise the others and what is raised.
      on_progress: called after each batch.
      on_invalid: called for each structure that is skipped.

    Returns:
      One embedding per structure; None where it was skipped.
    """
    runner = self.head(head)
    policy = preparation.InvalidPolicy(skip_invalid, on_invalid)
    preparer = batching.Preparer(runner.builder, runner.info.graph)
    items = preparation.prepare(structures, runner.info, preparer, policy)
    return self._embed(items, runner, preparer, on_progress, policy)

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
      structures: as in `predict_structures`.
      head: any, whose program is used.
      graph: graph settings; by default those of the head's dataset.
      on_progress: as in `predict_structures`, likewise what is raised.
    """
    runner = self.head(head)
    preparer = batching.Preparer(runner.builder, graph or runner.info.graph)
    items = [preparer(structure) for structure in structures]
    return self._embed(items, runner, preparer, on_progress)

  def _predict(
    self,
    items: Sequence[batching.Prepared | None],
    runner: single_head.SingleHead,
    preparer: batching.Preparer,
    on_progress: batching.OnProgress | None,
    policy: preparation.InvalidPolicy = preparation.InvalidPolicy(),
  ) -> list[prediction_lib.Prediction | None]:
    """Predictions of the structures that are valid; None for the others."""
    outputs = self._run(
      items, runner, runner.predict, runner.per_atom, preparer, on_progress, policy
    )
    return [
      None
      if item is None or values is None
      else prediction_lib.denormalise(runner.task, runner.info, item.structure, values)
      for item, values in zip(items, outputs, strict=True)
    ]

  def _embed(
    self,
    items: Sequence[batching.Prepared | None],
    runner: single_head.SingleHead,
    preparer: batching.Preparer,
    on_progress: batching.OnProgress | None,
    policy: preparation.InvalidPolicy = preparation.InvalidPolicy(),
  ) -> list[Embedding | None]:
    """Embeddings of the structures that are valid; None for the others."""
    outputs = self._run(items, runner, runner.embed, (), preparer, on_progress, policy)
    return [
      None if values is None else Embedding(values["nodes"], values.get("edges"))
      for values in outputs
    ]

  def _run(
    self,
    items: Sequence[batching.Prepared | None],
    runner: single_head.SingleHead,
    apply: Callable[[batch_lib.Batch], batching.Outputs],
    per_atom: Collection[str],
    preparer: batching.Preparer,
    on_progress: batching.OnProgress | None,
    policy: preparation.InvalidPolicy,
  ) -> list[Mapping[str, np.ndarray] | None]:
    """Applies a function to the structures that are valid; None for the others."""
    valid = [item for item in items if item is not None]
    found = preparer.make_buckets(valid, self.batch_edges, runner.budgets)
    results = iter(
      batching.run(valid, apply, per_atom, found, preparer, runner.dtype, on_progress)
    )
    outputs = [None if item is None else next(results) for item in items]
    return preparation.only_finite(items, outputs, policy)


def load(
  directory: str | os.PathLike[str],
  *,
  ema: bool = True,
  step: int | None = None,
  references: Mapping[str, str | os.PathLike[str]] | None = None,
  precision: str = "float32",
  batch_edges: int = BATCH_EDGES,
) -> Predictor:
  """Loads a model.

  Args:
    directory: a model directory, a training run's --workdir, or a checkpoint in it.
    ema: the averaged weights, where there are some.
    step: which checkpoint of a run; by default the best.
    references: files of per-element reference energies by head, see
      `reference_energies.load_references`.
    precision: "float32", "float64" or "bfloat16".
    batch_edges: main edges of a batch.

  Returns:
    The model.

  Raises:
    CheckpointError: there is no model, or it cannot be understood.
    ReferencesError: a file of references cannot be used.
    ValueError: references for a head that does not exist, or an unknown precision.
  """
  loaded = model_directory.load_model_directory(directory, ema=ema, step=step)
  infos = dict(loaded.infos)
  for head, path in (references or {}).items():
    if head not in infos:
      raise ValueError(
        f"There is no head {head!r} among the model's: {', '.join(infos)}."
      )
    infos[head] = reference_energies.with_references(
      infos[head], reference_energies.load_references(path)
    )
  return Predictor(
    loaded.config, infos, loaded.variables, precision=precision, batch_edges=batch_edges
  )
