"""Data of a run: datasets, budget and the batches of the training loop.

Importing this imports TensorFlow; runners do so after they have checked their flags.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax

from data.records import datasets as datasets_lib
from experiments.command_line import config as config_lib
from jmp_hk import dataset_info as info_lib
from jmp_hk import serialization
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.pipeline import batches as batches_lib
from jmp_hk.pipeline import budgets
from jmp_hk.pipeline import config as stream_config
from jmp_hk.pipeline import evaluation_stream
from jmp_hk.pipeline import mixture
from jmp_hk.pipeline import training_stream
from jmp_hk.targets import config as tasks_lib
from jmp_hk.training import feed

BUDGET_FILE = "budget.json"

merge_positions = training_stream.merge_states


@dataclasses.dataclass(frozen=True)
class Data:
  """What a run reads.

  Attributes:
    training: the mixture.
    validation: validation splits of those datasets that have one.
    tasks: tasks of the model.
    budget: of a microbatch.
    pipeline: how batches are made.
    microbatches: microbatches that this process serves.
    validation_limit: structures per dataset to validate on; 0 takes all.
  """

  training: tuple[datasets_lib.Dataset, ...]
  validation: tuple[datasets_lib.Dataset, ...]
  tasks: tuple[tasks_lib.TaskConfig, ...]
  budget: batch_lib.Budget
  pipeline: stream_config.PipelineConfig
  microbatches: tuple[int, ...]
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
    stream = training_stream.TrainingStream(
      self.training, self.tasks, self.budget, self.pipeline, self.microbatches, position
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
    """A batch of padding alone, for all local microbatches."""
    return _host_batch(self._validation_stream(self.training[0]).empty())

  def first_batches(self, count: int) -> list[batch_lib.Batch]:
    """The first microbatches of microbatch 0; the same in every process."""
    settings = dataclasses.replace(self.pipeline, edge_dropout=0.0, prefetch_batches=0)
    stream = training_stream.TrainingStream(
      self.training, self.tasks, self.budget, settings, local_microbatches=(0,)
    )
    with stream:
      return [first_microbatch(next(stream).batch) for _ in range(count)]

  def _validation_stream(
    self, dataset: datasets_lib.Dataset
  ) -> evaluation_stream.EvaluationStream:
    return evaluation_stream.EvaluationStream(
      dataset,
      self.tasks,
      self.budget,
      num_microbatches=self.pipeline.num_microbatches,
      local_microbatches=self.microbatches,
      limit=self.validation_limit,
      num_workers=self.pipeline.num_workers,
      pool_size=self.pipeline.pool_size,
    )


def open_data(
  config: config_lib.RunConfig, microbatches: Sequence[int], workdir: pathlib.Path
) -> Data:
  """Opens the datasets and chooses the budget.

  Args:
    config: of the run.
    microbatches: that this process serves.
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
    logging.warning(
      "No dataset has one of the splits %s: the run is not validated.",
      ", ".join(config.validation.splits),
    )
  return Data(
    training=opened,
    validation=validation,
    tasks=tasks,
    budget=_budget(config, opened, workdir),
    pipeline=config.pipeline,
    microbatches=tuple(microbatches),
    validation_limit=config.validation.limit,
  )


def validation_datasets(
  config: config_lib.RunConfig,
) -> tuple[datasets_lib.DatasetConfig, ...]:
  """The validation split of every dataset that has one."""
  result = []
  for dataset in config.datasets:
    info = info_lib.load(dataset.directory)
    splits = [s for s in config.validation.splits if info.num_structures.get(s)]
    if splits:
      result.append(dataclasses.replace(dataset, split=splits[0]))
  return tuple(result)


def first_microbatch(batch: batch_lib.Batch) -> batch_lib.Batch:
  """The first of stacked microbatches."""
  return jax.tree.map(lambda x: x[0], batch)


def _budget(
  config: config_lib.RunConfig,
  datasets: Sequence[datasets_lib.Dataset],
  workdir: pathlib.Path,
) -> batch_lib.Budget:
  """The run's stored budget, or one chosen from its data."""
  path = workdir / BUDGET_FILE
  if path.exists():
    return serialization.load(batch_lib.Budget, path)
  chances = mixture.probabilities(datasets, config.pipeline.temperature)
  budget = budgets.choose(
    datasets,
    chances,
    config.budget,
    num_workers=config.pipeline.num_workers,
    edge_dropout=config.pipeline.edge_dropout,
  )
  if jax.process_index() == 0:
    serialization.save(budget, path)
  return budget


def _host_batch(item: batches_lib.PipelineBatch) -> feed.HostBatch:
  return feed.HostBatch(
    batch=item.batch,
    record_ids=tuple(
      name for microbatch in item.info.record_ids for name in microbatch
    ),
    resume=item.info.state,
    utilisation=item.info.utilisation,
  )
