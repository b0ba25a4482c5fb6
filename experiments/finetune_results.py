"""The result of a finished fine-tuning: its best weights on the test split.

Importing this imports TensorFlow; runners do so after they have checked their flags.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax

from data.records import datasets as datasets_lib
from experiments.command_line import config as config_lib
from experiments.command_line import tasks as declarations
from experiments.reports import result as result_lib
from jmp_hk import dataset_info
from jmp_hk import serialization
from jmp_hk.checkpoints import model_directory
from jmp_hk.inference import comparison
from jmp_hk.inference import predictor as predictor_lib
from jmp_hk.inference import reports
from jmp_hk.targets import config as tasks_lib
from jmp_hk.targets import spec as spec_lib
from jmp_hk.training import writers

TEST_DIRECTORY = "test"


def evaluate(
  config: config_lib.RunConfig, workdir: pathlib.Path, split: str, fold: int = 0
) -> result_lib.Result | None:
  """Evaluates the best weights of a run on its test split, and stores the result.

  Args:
    config: of the run.
    workdir: of the run.
    split: to test on.
    fold: of the data, for the report.

  Returns:
    The result; None where the data have no such split.
  """
  (dataset,) = config.datasets
  dataset = dataclasses.replace(dataset, split=split)
  info = dataset_info.load(dataset.directory)
  if not split or not info.num_structures.get(split):
    logging.warning("The data have no split %r: the weights are not tested.", split)
    return None
  (opened,) = datasets_lib.open_datasets((dataset,), config.model.tasks)
  predictor = predictor_lib.load(workdir, precision=config.model.precision)
  results = comparison.predict_and_compare(
    predictor,
    opened.evenly(),
    units=opened.info.units,
    on_progress=lambda done, total: logging.info("Tested %d of %d.", done, total),
  )
  metrics = reports.write(results, workdir / TEST_DIRECTORY)
  num_structures = info.num_structures[config.datasets[0].split]
  result = _result(config, workdir, metrics, num_structures, fold)
  serialization.save(result, workdir / result_lib.FILE)
  print(result.describe())
  return result


def _result(
  config: config_lib.RunConfig,
  workdir: pathlib.Path,
  metrics: Mapping[str, Any],
  num_structures: int,
  fold: int,
) -> result_lib.Result:
  (task,) = config.model.tasks
  declared = declarations.TASKS.get(task.name)
  target, shown = _headline(task, metrics)
  if declared:
    shown = shown._replace(unit=declared.unit, factor=declared.factor)
  records = writers.read_metrics(workdir / writers.METRICS_FILE)
  best_step = int(model_directory.find_checkpoint(workdir).name)
  primary = config.train.primary_metric
  validations = {r["step"]: r for r in records if r["kind"] == "val"}
  best = validations.get(best_step, {})
  backbone = config.model.backbone
  return result_lib.Result(
    task=task.name,
    dataset=declared.dataset if declared else task.name,
    unit=shown.unit,
    model=f"{backbone.num_blocks} blocks, {backbone.atom_channels} atom and "
    f"{backbone.edge_channels} edge channels",
    initial=config.initial.checkpoint if config.initial else "",
    fold=fold,
    num_structures=num_structures,
    num_devices=jax.device_count(),
    seconds=max((r["seconds"] for r in records if "seconds" in r), default=0.0),
    steps=max((r["step"] for r in records), default=0),
    best_step=best_step,
    validation_metric=primary,
    validation=best.get(primary, float("nan")),
    error=metrics[target.name][shown.metric] * shown.factor,
    metrics=metrics,
  )


def _headline(
  task: tasks_lib.TaskConfig, metrics: Mapping[str, Any]
) -> tuple[tasks_lib.TargetConfig, spec_lib.ShownError]:
  """The target that stands for the task, and how its error is shown."""
  target = task.headline(metrics)
  return target, target.spec.shown_error(metrics[target.name]["unit"])
