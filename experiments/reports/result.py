"""The test of a finished fine-tuning: its best weights on the test split."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging

from data.records import datasets as datasets_lib
from experiments.command_line import config as config_lib
from experiments.command_line import tasks as declarations
from experiments.reports import origins
from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk import text_table
from jmp_hk.checkpoints import model_directory
from jmp_hk.inference import committee
from jmp_hk.inference import comparison
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import reports
from jmp_hk.models import parameters
from jmp_hk.pipeline import datasets as pipeline_datasets
from jmp_hk.runtime import console
from jmp_hk.training import config as train_config
from jmp_hk.training import run_directory
from jmp_hk.training import sharding
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
    num_parameters: number of parameters of the model with its heads; 0 in results of
      versions that did not count them.
    origin: where the weights come from that it started from; None from scratch, and in
      results of versions that did not store it.
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
  validation: serialization.Unbounded
  error: serialization.Unbounded
  metrics: Mapping[str, Any]
  num_parameters: int = 0
  origin: origins.Origin | None = None


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
  opened = _open(config, split)
  if opened is None:
    return None
  predictor = _load(config, [workdir])
  results = _predict(predictor, opened)
  metrics = reports.write(results, workdir / TEST_DIRECTORY)
  result = dataclasses.replace(
    _result(config, workdir, metrics, fold),
    num_parameters=parameters.count(predictor.variables.params),
    origin=_origin(config.trainer.initial),
  )
  serialization.save(result, workdir / FILE)
  print(_describe(results, result, workdir))
  return result


def test_committee(
  config: config_lib.RunConfig,
  members: Sequence[pathlib.Path],
  workdir: pathlib.Path,
  split: str,
) -> comparison.Results | None:
  """Evaluates the means of a committee on its test split, and tells the errors.

  Args:
    config: configuration of the runs, but for their seeds.
    members: directories of the runs.
    workdir: directory of all of them; results go to the folder "test" in it.
    split: name of the test split.

  Returns:
    Predictions with their labels; None where the data have no such split.
  """
  opened = _open(config, split)
  if opened is None:
    return None
  results = _predict(_load(config, members), opened)
  reports.write(results, workdir / TEST_DIRECTORY, overwrite=True)
  number = len(results.structures)
  print(f"""
Test of the committee of {len(members)} members on {number:,} structures:
{results.table()}

Committee:    {workdir}
Predictions:  {workdir / TEST_DIRECTORY / reports.TABLE_FILE}
Next:         python -m experiments.predict --checkpoint={workdir} \\
                  --input=FILE --output=predicted.extxyz""")
  return results


def _open(config: config_lib.RunConfig, split: str) -> pipeline_datasets.Dataset | None:
  """The test split; None, with a warning, where the data have none."""
  (training,) = config.datasets
  info = dataset_info.load(training.directory)
  if not split or not info.num_structures.get(split):
    logging.warning("The data have no split %r: the weights are not tested.", split)
    return None
  (opened,) = datasets_lib.open_datasets(
    (dataclasses.replace(training, split=split),), config.trainer.model.tasks
  )
  return opened


def _load(
  config: config_lib.RunConfig, paths: Sequence[pathlib.Path]
) -> predictor_lib.Predictor:
  """The model of a run, or the committee of several."""
  return committee.load(
    paths,
    precision=config.trainer.model.precision,
    num_devices=sharding.share_of_process(config.trainer.train.num_devices),
  )


def _predict(
  predictor: predictor_lib.Predictor, opened: pipeline_datasets.Dataset
) -> comparison.Results:
  """Predicts the test split and compares."""
  with console.progress("structure", "Test") as update:
    return comparison.predict_and_compare(
      predictor, opened.evenly(), units=opened.info.units, on_progress=update
    )


def _origin(initial: train_config.InitialConfig | None) -> origins.Origin | None:
  """Where the initial weights come from, as far as can be told after the run."""
  if initial is None:
    return None
  try:
    return origins.describe(initial.checkpoint)
  except model_directory.CheckpointError as error:
    logging.warning("The report will know the initial weights by path alone: %s", error)
    return origins.unknown(initial.checkpoint)


def _describe(
  results: comparison.Results, result: Result, workdir: pathlib.Path
) -> str:
  """All that a user wants to know at the end: errors, files, what to do next."""
  hours = result.seconds * result.num_devices / 3600
  number, step = len(results.structures), result.best_step
  return f"""
Test of {result.task} on {number:,} structures, with the weights of step {step:,}:
{results.table()}
{text_table.number(hours)} device-hours of training.

Model:        {workdir}
Predictions:  {workdir / TEST_DIRECTORY / reports.TABLE_FILE}
Parity plot:  {workdir / TEST_DIRECTORY / reports.PLOT_FILE}
Next:         python -m experiments.predict --checkpoint={workdir} \\
                  --input=FILE --output=predicted.extxyz"""


def _result(
  config: config_lib.RunConfig,
  workdir: pathlib.Path,
  metrics: Mapping[str, Any],
  fold: int,
) -> Result:
  """The result from the metrics of the test split by target."""
  (training,) = config.datasets
  trainer = config.trainer
  train = run_directory.complete(trainer, workdir).train
  (task,) = trainer.model.tasks
  declared = declarations.TASKS.get(task.name)
  target = task.headline(metrics)  # It stands for the whole task.
  shown = target.spec.shown_metrics(metrics[target.name]["unit"])[0]
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
    num_devices=sharding.count_devices(train.num_microbatches, train.num_devices),
    seconds=max((r["seconds"] for r in records if "seconds" in r), default=0.0),
    steps=max((r["step"] for r in records), default=0),
    best_step=best_step,
    validation_metric=primary,
    validation=validations.get(best_step, {}).get(primary, float("nan")),
    error=metrics[target.name][shown.score] * shown.factor,
    metrics=metrics,
  )
