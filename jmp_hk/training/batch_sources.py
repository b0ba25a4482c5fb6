"""Where the batches of a run come from: datasets, or iterators of ready batches."""

import abc
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import logging
import pathlib
from typing import Any

import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import budgets
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import evaluation_stream
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.pipeline import mixture
from jmp_hk.pipeline import training_stream
from jmp_hk.runtime import processes
from jmp_hk.training import config as config_lib
from jmp_hk.training import objective
from jmp_hk.training import run_directory
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib

logger = logging.getLogger(__name__)

Batches = Iterator[batches_lib.PipelineBatch]


class BatchSource(abc.ABC):
  """Gives a run its batches; all of them have the same shapes."""

  @property
  @abc.abstractmethod
  def infos(self) -> dict[str, dataset_info.DatasetInfo]:
    """Constants of the dataset of each task by name, in the order of the tasks."""

  @property
  @abc.abstractmethod
  def has_validation(self) -> bool:
    """Whether there is anything to validate on."""

  @abc.abstractmethod
  def training(self, position: state_lib.Position) -> Batches:
    """Yields this process's part of the training batches, from a position on."""

  @abc.abstractmethod
  def validation(self) -> Batches:
    """Yields every structure of the validation data once."""

  def evaluation(self, datasets: Sequence[datasets_lib.Dataset]) -> Batches:
    """Yields every structure of the given datasets once.

    Raises:
      TypeError: the source packs no datasets.
    """
    raise TypeError(
      f"{type(self).__name__} gives ready batches alone; make the trainer from "
      "datasets to evaluate others than its validation data."
    )

  @abc.abstractmethod
  def padding(self) -> batches_lib.PipelineBatch:
    """A batch of padding alone."""

  @abc.abstractmethod
  def sample(self, count: int) -> list[batch_lib.Batch]:
    """Single microbatches of the training data, the same in every process."""

  def merge_positions(
    self, positions: Sequence[Mapping[str, Any]]
  ) -> Mapping[str, Any]:
    """One position of the training data from those of all processes."""
    return positions[0]


class DatasetBatches(BatchSource):
  """Batches packed from the structures of datasets."""

  def __init__(
    self,
    config: config_lib.TrainerConfig,
    training: Sequence[datasets_lib.Dataset],
    validation: Sequence[datasets_lib.Dataset],
    budget: budget_lib.Budget,
    microbatches: Sequence[int],
  ) -> None:
    """Reads nothing yet.

    Args:
      config: configuration of the run.
      training: the mixture, with one dataset for each task of the model.
      validation: validation splits of some of these datasets.
      budget: static sizes of a microbatch.
      microbatches: numbers of the microbatches that this process supplies.

    Raises:
      ValueError: the datasets are not those of the model's tasks.
    """
    names = [dataset.name for dataset in training]
    tasks = [task.name for task in config.model.tasks]
    if sorted(names) != sorted(tasks):
      raise ValueError(
        f"There must be one training dataset for each task of the model, {tasks}, but "
        f"there are {names}."
      )
    pipeline = dataclasses.replace(
      config.pipeline,
      pool_size=pool_lib.least_size(
        config.structures_per_microbatch, config.pipeline.pool_size
      ),
    )
    self._config = dataclasses.replace(config, pipeline=pipeline)
    self._training = tuple(training)
    self._validation = tuple(validation)
    self._local = tuple(microbatches)
    self._spec = microbatches_lib.BatchSpec(
      config.model.tasks,
      config.model.backbone.graph_builder,
      budget,
      config.train.num_microbatches,
    )

  @property
  def infos(self) -> dict[str, dataset_info.DatasetInfo]:
    """See `BatchSource`."""
    by_name = {dataset.name: dataset.info for dataset in self._training}
    return {task.name: by_name[task.name] for task in self._config.model.tasks}

  @property
  def has_validation(self) -> bool:
    """See `BatchSource`."""
    return bool(self._validation)

  def training(self, position: state_lib.Position) -> Batches:
    """See `BatchSource`; endless."""
    with training_stream.TrainingStream(
      self._training,
      self._spec,
      self._config.pipeline,
      seed=self._config.train.seed,
      local_microbatches=self._local,
      state=position,
    ) as stream:
      yield from stream

  def validation(self) -> Batches:
    """See `BatchSource`."""
    for dataset in self._validation:
      yield from self._evaluation_stream(dataset, self._config.validation_limit)

  def evaluation(self, datasets: Sequence[datasets_lib.Dataset]) -> Batches:
    """See `BatchSource`; the structures must fit into the budget."""
    for dataset in datasets:
      yield from self._evaluation_stream(dataset)

  def padding(self) -> batches_lib.PipelineBatch:
    """See `BatchSource`."""
    return self._evaluation_stream(self._training[0]).empty()

  def sample(self, count: int) -> list[batch_lib.Batch]:
    """See `BatchSource`; without edge dropout."""
    builder = dataclasses.replace(self._spec.builder, edge_dropout=0.0)
    with training_stream.TrainingStream(
      self._training,
      dataclasses.replace(self._spec, builder=builder),
      dataclasses.replace(self._config.pipeline, prefetch_batches=0),
      seed=self._config.train.seed,
      local_microbatches=(0,),
    ) as stream:
      return [objective.first_microbatch(next(stream).batch) for _ in range(count)]

  def merge_positions(
    self, positions: Sequence[Mapping[str, Any]]
  ) -> Mapping[str, Any]:
    """See `BatchSource`."""
    return training_stream.merge_states(positions)

  def _evaluation_stream(
    self, dataset: datasets_lib.Dataset, limit: int = 0
  ) -> evaluation_stream.EvaluationStream:
    return evaluation_stream.EvaluationStream(
      dataset,
      self._spec,
      self._config.pipeline,
      local_microbatches=self._local,
      limit=limit,
    )


class ReadyBatches(BatchSource):
  """Batches that were packed elsewhere, for tests, benchmarks and own pipelines."""

  def __init__(
    self,
    infos: Mapping[str, dataset_info.DatasetInfo],
    training: Callable[[state_lib.Position], Batches],
    validation: Callable[[], Batches] | None = None,
  ) -> None:
    """Takes functions that open the batches.

    Args:
      infos: constants of the dataset of each task by name, in the order of the tasks.
      training: opens the training batches at a position, the `info.state` of an
        earlier batch, or at their start. Each batch holds this process's microbatches.
      validation: opens one pass over the validation batches.
    """
    self._infos = dict(infos)
    self._open_training = training
    self._open_validation = validation

  @property
  def infos(self) -> dict[str, dataset_info.DatasetInfo]:
    """See `BatchSource`."""
    return self._infos

  @property
  def has_validation(self) -> bool:
    """See `BatchSource`."""
    return self._open_validation is not None

  def training(self, position: state_lib.Position) -> Batches:
    """See `BatchSource`."""
    return self._open_training(position)

  def validation(self) -> Batches:
    """See `BatchSource`."""
    return iter(()) if self._open_validation is None else self._open_validation()

  def padding(self) -> batches_lib.PipelineBatch:
    """See `BatchSource`; zeros, whose masks are all false."""
    first = next(self.training(None))
    return dataclasses.replace(first, batch=jax.tree.map(np.zeros_like, first.batch))

  def sample(self, count: int) -> list[batch_lib.Batch]:
    """See `BatchSource`; the first microbatches of process 0."""
    batches = self.training(None)
    return [objective.first_microbatch(next(batches).batch) for _ in range(count)]


def open_datasets(
  config: config_lib.TrainerConfig,
  training: Sequence[datasets_lib.Dataset],
  validation: Sequence[datasets_lib.Dataset],
  workdir: pathlib.Path,
  mesh: jax.sharding.Mesh,
) -> DatasetBatches:
  """Opens the datasets of a run, and chooses its budget.

  Args:
    config: configuration of the run.
    training: the mixture, with one dataset for each task of the model.
    validation: validation splits of some of these datasets.
    workdir: directory of the run. Its budget, once chosen, is stored there and stays,
      but for the sizes that the configuration gives.
    mesh: the devices.

  Raises:
    ValueError: the datasets are not those of the model's tasks, or the microbatches
      cannot be shared out over the devices.
  """
  local = sharding.local_microbatches(mesh, config.train.num_microbatches)
  if not validation:
    logger.warning("There are no validation data: the run is not validated.")
  return DatasetBatches(
    config,
    training,
    validation,
    _load_or_choose_budget(config, training, workdir),
    local,
  )


def _load_or_choose_budget(
  config: config_lib.TrainerConfig,
  datasets: Sequence[datasets_lib.Dataset],
  workdir: pathlib.Path,
) -> budget_lib.Budget:
  """The stored budget with given sizes, or one chosen from the data; it is stored."""
  builder = config.model.backbone.graph_builder
  path = workdir / run_directory.BUDGET_FILE
  stored = serialization.load(builder.budget_type, path) if path.exists() else None
  if stored is not None:
    budget = budget_lib.override(stored, config.budget.overrides)
    changes = serialization.differences(*map(serialization.to_json, (stored, budget)))
    if changes:
      logger.info("Sizes of batches that change: %s.", "; ".join(changes))
  else:
    budget = budgets.choose(
      datasets,
      mixture.probabilities(datasets, config.pipeline.temperature),
      builder,
      dataclasses.replace(config.budget, structures=config.structures_per_microbatch),
      num_workers=config.pipeline.num_workers,
    )
  if budget != stored and processes.is_first():
    serialization.save(budget, path)
  return budget
