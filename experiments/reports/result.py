"""The test of a finished fine-tuning: its best weights on the test split."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax

from data.records import datasets as datasets_lib
from experiments.command_line import config as config_lib
from experiments.command_line import tasks as declarations
from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk.checkpoints import model_directory
from jmp_hk.inference import comparison
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import reports
from jmp_hk.training import writers

FILE = "finetune_result.json"  # In the working directory.
TEST_DIRECTORY = "test"


@dataclasses.dataclass(frozen=True)
class Result:
  """The test of the best weights of a run, which the report reads.

  Attributes:
    task: name of the task.
    dataset: dataset that results are averaged by.
    unit: unit of the errors.
    model: the backbone in words.
    initial: checkpoint that it started from; "" from scratch.
    fold: number of the fold of the data.
    num_structures: number of structures that it was trained on.
    num_devices: number of devices that it ran on.
    seconds: training time without compilation and evaluations.
    steps: number of optimiser steps.
    best_step: step of the weights that were tested, the best in validation.
    validation_metric: name of the metric by which they were chosen.
    validation: its value there.
    error: on the test split: mean absolute error, or the cross-entropy of classes.
    metrics: all metrics of the test split by target, in the labels' units.
  """

  task: str
  dataset: str
  unit: str
  model: str
  initial: str
  fold: int
  num_structures: int
  num_devices: int
  seconds: float
  steps: int
  best_step: int
  validation_metric: str
  validation: float
  error: float
  metrics: Mapping[str, Any]

  def describe(self) -> str:
    """The result in one line."""
    return (
      f"{self.task}: test error {self.error:.4g} {self.unit} with the weights of "
      f"step {self.best_step} ({self.validation_metric} {self.validation:.4g}), "
      f"{self.seconds * self.num_devices / 3600:.4f} device-hours of training"
    )


def test(
  config: config_lib.RunConfig, workdir: pathlib.Path, split: str, fold: int = 0
) -> Result | None:
  """Evaluates the best weights of a run on its test split, and stores the result.

  Args:
    config: configuration of the run.
    workdir: directory of the run.
    split: name of the test split.
    fold: number of the fold of the data, for the report.

  Returns:
    The result; None where the data have no such split.
  """
  (training,) = config.datasets
  info = dataset_info.load(training.directory)
  if not split or not info.num_structures.get(split):
    logging.warning("The data have no split %r: the weights are not tested.", split)
    return None
  model = config.trainer.model
  (opened,) = datasets_lib.open_datasets(
    (dataclasses.replace(training, split=split),), model.tasks
  )
  results = comparison.predict_and_compare(
    predictor_lib.load(workdir, precision=model.precision),
    opened.evenly(),
    units=info.units,
    on_progress=lambda done, total: logging.info("Tested %d of %d.", done, total),
  )
  metrics = reports.write(results, workdir / TEST_DIRECTORY)
  result = _result(config, workdir, metrics, fold)
  serialization.save(result, workdir / FILE)
  print(result.describe())
  return result


def _result(
  config: config_lib.RunConfig,
  workdir: pathlib.Path,
  metrics: Mapping[str, Any],
  fold: int,
) -> Result:
  """The result from the metrics of the test split by target."""
  (training,) = config.datasets
  trainer = config.trainer
  (task,) = trainer.model.tasks
  declared = declarations.TASKS.get(task.name)
  target = task.headline(metrics)  # It stands for the whole task.
  shown = target.spec.shown_error(metrics[target.name]["unit"])
  if declared:
    shown = shown._replace(unit=declared.unit, factor=declared.factor)
  records = writers.read_metrics(workdir / writers.METRICS_FILE)
  best_step = int(model_directory.find_checkpoint(workdir).name)
  primary = trainer.train.primary_metric
  validations = {r["step"]: r for r in records if r["kind"] == "val"}
  info = dataset_info.load(training.directory)
  return Result(
    task=task.name,
    dataset=declared.dataset if declared else task.name,
    unit=shown.unit,
    model=trainer.model.backbone.describe(),
    initial=trainer.initial.checkpoint if trainer.initial else "",
    fold=fold,
    num_structures=info.num_structures[training.split],
    num_devices=jax.device_count(),
    seconds=max((r["seconds"] for r in records if "seconds" in r), default=0.0),
    steps=max((r["step"] for r in records), default=0),
    best_step=best_step,
    validation_metric=primary,
    validation=validations.get(best_step, {}).get(primary, float("nan")),
    error=metrics[target.name][shown.metric] * shown.factor,
    metrics=metrics,
  )
