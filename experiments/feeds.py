"""Data of a run: datasets, budget and the batches of the training loop.

Importing this imports TensorFlow; runners do so after they have checked their flags.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging
import jax

from data.pipeline import batches as batches_lib
from data.pipeline import budgets
from data.pipeline import config as pipeline_config
from data.pipeline import datasets as datasets_lib
from data.pipeline import evaluation
from data.pipeline import mixture
from data.pipeline import training
from experiments import config as config_lib
from jmp_hk import config_io
from jmp_hk import dataset_info as info_lib
from jmp_hk import tasks as tasks_lib
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.training import feed

BUDGET_FILE = "budget.json"

merge_positions = training.merge_states


@dataclasses.dataclass(frozen=True)
class Data:
  """What a run reads.

  Attributes:
    training: the mixture.
    validation: validation splits of those datasets that have one.
    tasks: tasks of the model.
    budget: of a sub-batch.
    pipeline: how batches are made.
    lanes: lanes that this process serves.
    validation_limit: structures per dataset to validate on; 0 takes all.
  """

  training: tuple[datasets_lib.Dataset, ...]
  validation: tuple[datasets_lib.Dataset, ...]
  tasks: tuple[tasks_lib.TaskConfig, ...]
  budget: batch_lib.Budget
  pipeline: pipeline_config.PipelineConfig
  lanes: tuple[int, ...]
  validation_limit: int = 0

  @property
  def infos(self) -> dict[str, info_lib.DatasetInfo]:
    """Constants of the datasets by name, in the order of the tasks."""
    by_name = {dataset.name: dataset.info for dataset in self.training}
    return {task.name: by_name[task.name] for task in self.tasks}

  def training_batches(
      self, position: Mapping[str, Any] | None
  ) -> Iterator[feed.HostBatch]:
    """The endless training stream from a position on (None: from its start)."""
    stream = training.TrainingStream(
        self.training, self.tasks, self.budget, self.pipeline, self.lanes, position
    )
    with stream:
      for item in stream:
        yield _host_batch(item)

  def validation_batches(self) -> Iterator[feed.HostBatch]:
    """One pass over every validation split."""
    for dataset in self.validation:
      for item in self._validation_stream(dataset):
        yield _host_batch(item)

  def empty_batch(self) -> feed.HostBatch:
    """A batch of padding alone, for all local lanes."""
    return _host_batch(self._validation_stream(self.training[0]).empty())

  def first_batches(self, count: int) -> list[batch_lib.Batch]:
    """The first sub-batches of lane 0; the same in every process."""
    settings = dataclasses.replace(self.pipeline, edge_dropout=0.0, prefetch_batches=0)
    stream = training.TrainingStream(
        self.training, self.tasks, self.budget, settings, local_lanes=(0,)
    )
    with stream:
      return [first_lane(next(stream).batch) for _ in range(count)]

  def _validation_stream(
      self, dataset: datasets_lib.Dataset
  ) -> evaluation.EvaluationStream:
    return evaluation.EvaluationStream(
        dataset,
        self.tasks,
        self.budget,
        num_lanes=self.pipeline.num_lanes,
        local_lanes=self.lanes,
        limit=self.validation_limit,
        num_workers=self.pipeline.num_workers,
        pool_size=self.pipeline.pool_size,
    )


def open_data(
    config: config_lib.RunConfig, lanes: Sequence[int], workdir: pathlib.Path
) -> Data:
  """Opens the datasets and chooses the budget.

  Args:
    config: of the run.
    lanes: that this process serves.
    workdir: of the run. Its budget, once chosen, stays.

  Returns:
    The data.

  Raises:
    ValueError: a dataset does not fit the config.
  """
  tasks = config.model.tasks
  opened = datasets_lib.open_datasets(config.datasets, tasks)
  validation = datasets_lib.open_datasets(validation_datasets(config), tasks)
  if not validation:
    logging.warning("No dataset has one of the splits %s: the run is not validated.",
                    ", ".join(config.validation.splits))
  return Data(
      training=opened,
      validation=validation,
      tasks=tasks,
      budget=_budget(config, opened, workdir),
      pipeline=config.pipeline,
      lanes=tuple(lanes),
      validation_limit=config.validation.limit,
  )


def validation_datasets(
    config: config_lib.RunConfig,
) -> tuple[pipeline_config.DatasetConfig, ...]:
  """The validation split of every dataset that has one."""
  result = []
  for dataset in config.datasets:
    info = datasets_lib.dataset_info_io.load(dataset.directory)
    splits = [s for s in config.validation.splits if info.num_structures.get(s)]
    if splits:
      result.append(dataclasses.replace(dataset, split=splits[0]))
  return tuple(result)


def first_lane(batch: batch_lib.Batch) -> batch_lib.Batch:
  """The first of stacked sub-batches."""
  return jax.tree.map(lambda x: x[0], batch)


def _budget(
    config: config_lib.RunConfig,
    datasets: Sequence[datasets_lib.Dataset],
    workdir: pathlib.Path,
) -> batch_lib.Budget:
  """The run's stored budget, or one chosen from its data."""
  path = workdir / BUDGET_FILE
  if path.exists():
    return config_io.load(batch_lib.Budget, path)
  chances = mixture.probabilities(datasets, config.pipeline.temperature)
  budget = budgets.choose(
      datasets, chances, config.budget, num_workers=config.pipeline.num_workers,
      edge_dropout=config.pipeline.edge_dropout,
  )
  if jax.process_index() == 0:
    config_io.save(budget, path)
  return budget


def _host_batch(item: batches_lib.PipelineBatch) -> feed.HostBatch:
  return feed.HostBatch(
      batch=item.batch,
      record_ids=tuple(name for lane in item.info.record_ids for name in lane),
      resume=item.info.state,
      utilisation=item.info.utilisation,
  )
