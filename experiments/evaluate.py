"""Evaluates any checkpoint on a split of a converted dataset.

  python -m experiments.evaluate --checkpoint=runs/qm9_u0 --data=converted/qm9
  python -m experiments.evaluate --checkpoint=runs/pretrain --head=oc20 \
      --data=converted/oc20 --split=val_id --limit=1000

Writes metrics.json (MAE, RMSE, R²; of classes accuracy, F1, AUC), predictions.csv (one
row a structure), parity.png, and predictions.extxyz where there are forces. Labels have
their usual names there, predictions `jmp_energy` and so on.
"""

from collections.abc import Mapping
import pathlib
from typing import TYPE_CHECKING
from typing import Any

from absl import flags
from absl import logging

from data.command_line import flag_help
from data.command_line import program as program_lib
from data.records import datasets as datasets_lib
from experiments.command_line import command
from experiments.command_line import data_flags
from experiments.command_line import inference_flags
from experiments.command_line import runtime_flags
from jmp_hk.pipeline import datasets as pipeline_datasets
from jmp_hk.runtime import console

if TYPE_CHECKING:
  from jmp_hk.inference import predictor as predictor_lib


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  inference_flags.define(values)
  _define_head(values)
  _define_data(values)
  _define_output(values)


@flag_help.group("Model")
def _define_head(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "head",
    "",
    "NAME: Name of the head to evaluate; may be left out if the model has only one, or "
    "one that is called like the data.",
    flag_values=values,
  )


@flag_help.group("Output")
def _define_output(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "output",
    "",
    "DIR: Directory for the results, by default CHECKPOINT/evaluation/DATA_SPLIT_STEP, "
    "with further settings in its name where they are not the default ones.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace the results of another evaluation in --output.",
    flag_values=values,
  )


@flag_help.group("Data")
def _define_data(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "data",
    None,
    "DIR: Directory of the converted data (python -m data.convert).",
    flag_values=values,
  )
  flags.DEFINE_string(
    "split", "test", "NAME: Name of the split to evaluate on.", flag_values=values
  )
  flags.DEFINE_integer(
    "limit",
    0,
    "Number of structures to evaluate, taken evenly; 0 takes all.",
    lower_bound=0,
    flag_values=values,
  )


def run(values: flags.FlagValues) -> Mapping[str, Any]:
  """Evaluates, prints and writes the results.

  Args:
    values: parsed flags.

  Returns:
    Metrics by target.

  Raises:
    FlagError: flags that cannot be used.
  """
  command.require(values, *PROGRAM.required)
  inference_flags.start(values)
  info = data_flags.load_info(_dataset(values, "data"), "--data")
  config, _ = inference_flags.read_description(values)
  heads = [task.name for task in config.tasks]
  name = info.name if not values.head and info.name in heads else values.head
  head = inference_flags.choose_head(heads, name)
  try:
    (opened,) = datasets_lib.open_datasets((_dataset(values, head),), config.tasks)
  except ValueError as error:
    raise command.FlagError(f"--data: {error}") from error
  return _evaluate(values, inference_flags.load_predictor(values), head, opened)


def _evaluate(
  values: flags.FlagValues,
  predictor: "predictor_lib.Predictor",
  head: str,
  dataset: pipeline_datasets.Dataset,
) -> Mapping[str, Any]:
  """Predicts and writes the results."""
  from jmp_hk.inference import comparison  # Imports jax.
  from jmp_hk.inference import reports

  for notice in predictor.notices(head):
    logging.warning("%s", notice)
  settings = _settings(values, head)
  output = pathlib.Path(values.output or default_output(values, settings))
  try:
    reports.check_settings(output, settings, overwrite=values.overwrite)
  except reports.OtherResultsError as error:
    raise command.FlagError(
      f"--output: {error} Give another --output, or --overwrite."
    ) from error
  with console.progress("structure", "Evaluation") as update:
    results = comparison.predict_and_compare(
      predictor,
      dataset.evenly(values.limit),
      head,
      units=dataset.info.units,
      on_progress=update,
    )
  if not results.comparisons:
    raise command.FlagError(
      f"--data: split {values.split!r} has none of the labels that the head {head!r} "
      "predicts."
    )
  metrics = reports.write(
    results, output, settings=settings, overwrite=values.overwrite
  )
  print(f"{len(results.structures):,} structures of split {values.split!r}:")
  print(results.table())
  print(f"Metrics, predictions and parity plot: {output}")
  return metrics


def _settings(values: flags.FlagValues, head: str) -> dict[str, Any]:
  """What is evaluated; results of other settings are not replaced."""
  from jmp_hk.checkpoints import loading  # Imports jax.
  from jmp_hk.checkpoints import model_directory

  found = [
    path if loading.is_torch_file(path) else model_directory.find_checkpoint(path)
    for path in inference_flags.checkpoints(values)
  ]
  step = int(found[0].name) if len(found) == 1 and found[0].name.isdigit() else None
  return {
    "checkpoint": ",".join(str(path.resolve()) for path in found),
    "step": step,
    "averaged_weights": values.ema,
    "precision": values.precision,
    "head": head,
    "data": str(pathlib.Path(values.data).resolve()),
    "split": values.split,
    "limit": values.limit,
  }


def default_output(
  values: flags.FlagValues, settings: Mapping[str, Any]
) -> pathlib.Path:
  """Below the checkpoint, or beside a PyTorch file; named after what is evaluated."""
  data = pathlib.Path(settings["data"]).name
  parts = [data, values.split]
  if settings["step"] is not None:
    parts.append(f"step{settings['step']}")
  if values.limit:
    parts.append(f"limit{values.limit}")
  if values.head and values.head != data:
    parts.append(values.head)
  if not values.ema:
    parts.append("raw")
  if values.precision != "float32":
    parts.append(values.precision)
  checkpoint = pathlib.Path(values.checkpoint)
  if "," in values.checkpoint and not checkpoint.exists():
    raise command.FlagError(
      "--output is required where --checkpoint names several models."
    )
  if checkpoint.is_file():
    checkpoint = checkpoint.with_name(f"{checkpoint.name}_results")
  return checkpoint / "evaluation" / "_".join(parts)


def _dataset(values: flags.FlagValues, name: str) -> datasets_lib.DatasetConfig:
  return datasets_lib.DatasetConfig(name, values.data, split=values.split)


PROGRAM = program_lib.Program(
  name="experiments.evaluate",
  description=__doc__,
  define_flags=define_flags,
  run=run,
  required=(
    "checkpoint",
    "data",
  ),
  errors=runtime_flags.expected_errors,
)

if __name__ == "__main__":
  PROGRAM.start()
