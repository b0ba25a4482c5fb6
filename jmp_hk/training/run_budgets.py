"""The budgets of a run: chosen once from its data, and kept in its directory."""

from collections.abc import Sequence
import dataclasses
import logging
import pathlib
from typing import Any

import numpy as np

from jmp_hk import serialization
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.pipeline import budgets as budgets_lib
from jmp_hk.pipeline import config as pipeline_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.pipeline import exact
from jmp_hk.pipeline import exact_lane
from jmp_hk.pipeline import mixture
from jmp_hk.pipeline import sizes
from jmp_hk.runtime import processes
from jmp_hk.training import config as config_lib
from jmp_hk.training import run_directory

logger = logging.getLogger(__name__)

Datasets = Sequence[datasets_lib.Dataset]


@dataclasses.dataclass(frozen=True)
class RunBudgets:
  """Static sizes of all microbatches of a run.

  Attributes:
    training: those of training, the cheapest first; the microbatches of a step have the
      same.
    evaluation: that of evaluations, which every structure fits into.
  """

  training: tuple[budget_lib.Budget, ...]
  evaluation: budget_lib.Budget


def load_or_choose(
  config: config_lib.TrainerConfig,
  training: Datasets,
  validation: Datasets,
  workdir: pathlib.Path,
) -> RunBudgets:
  """The stored budgets with given sizes, or ones chosen from the data; they are stored.

  Args:
    config: configuration of the run.
    training: the mixture.
    validation: what is validated on; the mixture where there is nothing.
    workdir: directory of the run.

  Raises:
    BudgetError: batches are exact, and a given size is too small for the largest that
      can come.
  """
  path = workdir / run_directory.BUDGET_FILE
  kind = config.model.backbone.graph_builder.budget_type
  stored = _load(path, kind) if path.exists() else None
  if stored is not None:
    found = _override(stored, config)
    changes = serialization.differences(*map(serialization.to_json, (stored, found)))
    if changes:
      logger.info("Sizes of batches that change: %s.", "; ".join(changes))
  else:
    found = _override(_choose(config, training, validation), config)
  if config.budget.overrides and (plan := make_plan(config, training, found.training)):
    budget_lib.check_fits(
      plan.most_needed,
      found.training[-1],
      f"The largest batch of {config.train.batch_size} structures",
    )
  if found != stored and processes.is_first():
    serialization.save(found, path)
  return found


def make_plan(
  config: config_lib.TrainerConfig,
  training: Datasets,
  buckets: Sequence[budget_lib.Budget],
) -> exact.ExactPlan | None:
  """The structures of every step where batches are exact, else None.

  Args:
    config: configuration of the run.
    training: the mixture.
    buckets: budgets of training.
  """
  if config.pipeline.packing is not pipeline_config.Packing.EXACT:
    return None
  train = config.train
  return exact.ExactPlan(
    _sizes(config, training),
    _draws(config, training),
    train.batch_size,
    train.num_microbatches,
    buckets,
  )


def enlarge(
  config: config_lib.TrainerConfig, budget: budget_lib.Budget, datasets: Datasets
) -> budget_lib.Budget:
  """A budget that every structure of some datasets fits into, the given one if it does.

  Args:
    config: configuration of the run.
    budget: budget of evaluations.
    datasets: what is evaluated.
  """
  found = [_measure(config, dataset).largest() for dataset in datasets]
  needed = [entry for entry in found if not budget_lib.fits(entry, budget)]
  if not needed:
    return budget
  return budget_lib.with_padding(
    budget_lib.largest([budget_lib.capacity(budget), *needed])
  )


def _choose(
  config: config_lib.TrainerConfig, training: Datasets, validation: Datasets
) -> RunBudgets:
  """Budgets that the data decide."""
  builder = config.model.backbone.graph_builder
  wanted = dataclasses.replace(
    config.budget, structures=config.structures_per_microbatch
  )
  workers = config.pipeline.num_workers
  if config.pipeline.packing is pipeline_config.Packing.EXACT:
    count = sum(dataset.num_structures for dataset in training)
    if config.train.batch_size > count:
      logger.warning(
        "A batch of %d structures is more than there are to train on: every step "
        "trains on all %d of them.",
        config.train.batch_size,
        count,
      )
    chosen = exact.choose_buckets(
      _sizes(config, training),
      _draws(config, training),
      config.train.batch_size,
      config.train.num_microbatches,
      builder.budget_type,
      config.train.num_steps,
    )
  else:
    chances = mixture.probabilities(training, config.pipeline.temperature)
    chosen = (
      budgets_lib.choose(training, chances, builder, wanted, num_workers=workers),
    )
  evaluated = validation or training
  counts = np.array([dataset.num_structures for dataset in evaluated], float)
  evaluation = budgets_lib.choose(
    evaluated,
    counts / counts.sum(),
    dataclasses.replace(builder, edge_dropout=0.0),
    wanted,
    num_workers=workers,
  )
  return RunBudgets(chosen, evaluation)


def _measure(
  config: config_lib.TrainerConfig, dataset: datasets_lib.Dataset
) -> sizes.SizesTable:
  builder = config.model.backbone.graph_builder
  return sizes.measure(dataset, builder, config.pipeline.num_workers)


def _sizes(config: config_lib.TrainerConfig, training: Datasets) -> np.ndarray:
  """[rows, fields] what each structure of the mixture needs."""
  tables = [_measure(config, dataset).values for dataset in training]
  return tables[0] if len(tables) == 1 else np.concatenate(tables)


def _draws(config: config_lib.TrainerConfig, training: Datasets) -> exact.Draws:
  chances = mixture.probabilities(training, config.pipeline.temperature)
  return exact_lane.draws(
    mixture.Mixture(tuple(training), tuple(chances), config.train.seed)
  )


def _override(found: RunBudgets, config: config_lib.TrainerConfig) -> RunBudgets:
  """Replaces single sizes of all budgets, of which some may become equal."""
  change = lambda budget: budget_lib.override(budget, config.budget.overrides)
  return RunBudgets(
    tuple(dict.fromkeys(map(change, found.training))), change(found.evaluation)
  )


def _load(path: pathlib.Path, kind: type[budget_lib.Budget]) -> RunBudgets:
  data = serialization.load(dict[str, Any], path)
  return RunBudgets(
    tuple(serialization.from_json(kind, entry) for entry in data["training"]),
    serialization.from_json(kind, data["evaluation"]),
  )
