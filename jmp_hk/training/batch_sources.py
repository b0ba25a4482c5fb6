"""Where the batches of a run come from: datasets, or iterators of ready batches."""

import abc
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
import logging
import math
import pathlib
from typing import Any

import jax
import numpy as np

from jmp_hk import dataset_info
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import pool as pool_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import evaluation_stream
from jmp_hk.pipeline import exact_lane
from jmp_hk.pipeline import microbatches as microbatches_lib
from jmp_hk.pipeline import training_stream
from jmp_hk.training import config as config_lib
from jmp_hk.training import objective
from jmp_hk.training import run_budgets
from jmp_hk.training import sharding
from jmp_hk.training import state as state_lib

logger = logging.getLogger(__name__)

Batches = Iterator[batches_lib.PipelineBatch]


class BatchSource(abc.ABC):
  """Gives a run its batches; those of one budget have the same shapes."""

  @property
  @abc.abstractmethod
  def infos(self) -> dict[str, dataset_info.DatasetInfo]:
    """Constants of the dataset of each task by name, in the order of the tasks."""

  @property
  def budgets(self) -> tuple[budget_lib.Budget, ...]:
    """Budgets of the training batches, the largest last; none if not known."""
    return ()

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
    """A batch of padding alone, as evaluations need it."""

  @abc.abstractmethod
  def sample(self, count: int) -> list[batch_lib.Batch]:
    """Microbatches of the training data of one shape, the same in every process.

    Args:
      count: number of steps, from each of which there are `num_sampled` microbatches.
    """

  @property
  def num_sampled(self) -> int:
    """How many microbatches of a step `sample` gives."""
    return 1

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
    budgets: run_budgets.RunBudgets,
    mesh: jax.sharding.Mesh,
    evaluation_mesh: jax.sharding.Mesh | None = None,
  ) -> None:
    """Reads nothing yet.

    Args:
      config: configuration of the run.
      training: the mixture, with one dataset for each task of the model.
      validation: validation splits of some of these datasets.
      budgets: static sizes of microbatches.
      mesh: the devices of training steps.
      evaluation_mesh: the devices of evaluations; by default those of training.

    Raises:
      DevicesError: the microbatches cannot be shared out evenly over the devices.
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
    count = config.train.num_microbatches
    self._local = sharding.local_microbatches(mesh, count)
    self._evaluation_mesh = evaluation_mesh or mesh
    self._spec = microbatches_lib.BatchSpec(
      config.model.tasks,
      config.model.backbone.graph_builder,
      budgets.training[-1],
      count,
      smaller_budgets=budgets.training[:-1],
    )
    self._evaluation_budget = budgets.evaluation
    self._plan = run_budgets.make_plan(self._config, self._training, budgets.training)

  @property
  def infos(self) -> dict[str, dataset_info.DatasetInfo]:
    """See `BatchSource`."""
    by_name = {dataset.name: dataset.info for dataset in self._training}
    return {task.name: by_name[task.name] for task in self._config.model.tasks}

  @property
  def budgets(self) -> tuple[budget_lib.Budget, ...]:
    """See `BatchSource`."""
    return self._spec.budgets

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
      plan=self._plan,
    ) as stream:
      yield from stream

  def validation(self) -> Batches:
    """See `BatchSource`."""
    for dataset in self._validation:
      yield from self._evaluation_stream(dataset, self._config.validation_limit)

  def evaluation(self, datasets: Sequence[datasets_lib.Dataset]) -> Batches:
    """See `BatchSource`; the budget grows where a structure needs more."""
    self._evaluation_budget = run_budgets.enlarge(
      self._config, self._evaluation_budget, datasets
    )
    return itertools.chain.from_iterable(map(self._evaluation_stream, datasets))

  def padding(self) -> batches_lib.PipelineBatch:
    """See `BatchSource`."""
    return self._evaluation_stream(self._training[0]).empty()

  def sample(self, count: int) -> list[batch_lib.Batch]:
    """See `BatchSource`; without edge dropout."""
    builder = dataclasses.replace(self._spec.builder, edge_dropout=0.0)
    spec = dataclasses.replace(self._spec, builder=builder)
    if self._plan is not None:
      return exact_lane.sample(self._training, spec, self._plan, count)
    with training_stream.TrainingStream(
      self._training,
      spec,
      dataclasses.replace(self._config.pipeline, num_workers=0, prefetch_batches=0),
      seed=self._config.train.seed,
      local_microbatches=(0,),
    ) as stream:
      return [objective.first_microbatch(next(stream).batch) for _ in range(count)]

  @property
  def num_sampled(self) -> int:
    """See `BatchSource`; all of exact steps, which have the same structures always."""
    return 1 if self._plan is None else self._spec.num_microbatches

  def merge_positions(
    self, positions: Sequence[Mapping[str, Any]]
  ) -> Mapping[str, Any]:
    """See `BatchSource`."""
    return training_stream.merge_states(positions)

  def _evaluation_stream(
    self, dataset: datasets_lib.Dataset, limit: int = 0
  ) -> evaluation_stream.EvaluationStream:
    mesh = self._evaluation_mesh
    count = mesh.size * math.ceil(self._spec.num_microbatches / mesh.size)
    return evaluation_stream.EvaluationStream(
      dataset,
      dataclasses.replace(
        self._spec,
        budget=self._evaluation_budget,
        smaller_budgets=(),
        num_microbatches=count,
      ),
      self._config.pipeline,
      local_microbatches=sharding.local_microbatches(mesh, count),
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
  evaluation_mesh: jax.sharding.Mesh | None = None,
) -> DatasetBatches:
  """Opens the datasets of a run, and chooses its budgets.

  Args:
    config: configuration of the run.
    training: the mixture, with one dataset for each task of the model.
    validation: validation splits of some of these datasets.
    workdir: directory of the run. Its budgets, once chosen, are stored there and stay,
      but for the sizes that the configuration gives.
    mesh: the devices of training steps.
    evaluation_mesh: the devices of evaluations; by default those of training.

  Raises:
    DevicesError: the microbatches cannot be shared out evenly over the devices.
    ValueError: the datasets are not those of the model's tasks.
  """
  if not validation:
    logger.warning("There are no validation data: the run is not validated.")
  return DatasetBatches(
    config,
    training,
    validation,
    run_budgets.load_or_choose(config, training, validation, workdir),
    mesh,
    evaluation_mesh,
  )
