"""Evaluates any checkpoint on a split of a converted dataset.

  python -m experiments.evaluate --checkpoint=runs/qm9_u0 --data=converted/qm9
  python -m experiments.evaluate --checkpoint=runs/pretrain --head=oc20 \
      --data=converted/oc20 --split=val_id --limit=1000

Writes metrics.json (MAE, RMSE, R²; of classes accuracy, F1, AUC), predictions.csv (one
row a structure), parity.png, and predictions.extxyz where there are forces.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

from absl import app
from absl import flags
from absl import logging

from data.records import datasets as datasets_lib
from experiments.command_line import command
from experiments.command_line import config as config_lib
from experiments.command_line import data_flags
from experiments.command_line import inference_flags
from jmp_hk.pipeline import datasets as pipeline_datasets


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  inference_flags.define(values)
  string = lambda name, default, text: flags.DEFINE_string(
    name, default, text, flag_values=values
  )
  string("data", None, "Directory of the converted data (python -m data.convert).")
  string("split", "test", "Split to evaluate on.")
  string(
    "head",
    "",
    "Which of the model's heads, by its dataset's name; may be left out "
    "if there is only one, or if the data have that name.",
  )
  string(
    "output",
    "",
    "Directory for the results, by default CHECKPOINT/evaluation/DATA_SPLIT.",
  )
  flags.DEFINE_integer(
    "limit",
    0,
    "Structures to evaluate, taken evenly; 0 takes all.",
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
  inference_flags.require(values, "checkpoint", "data")
  inference_flags.start(values)
  info = data_flags.load_info(_dataset(values, "data"), "--data")
  config, _ = inference_flags.read_description(values)
  heads = [task.name for task in config.tasks]
  name = info.name if not values.head and info.name in heads else values.head
  head = inference_flags.choose_head(heads, name)
  try:
    (opened,) = datasets_lib.open_datasets((_dataset(values, head),), config.tasks)
  except ValueError as error:
    raise config_lib.FlagError(f"--data: {error}") from error
  from jmp_hk.inference import (
    predictor as inference,  # Only now, with jax's environment prepared.
  )

  predictor = inference.load(
    values.checkpoint,
    ema=values.ema,
    precision=values.precision,
    batch_edges=values.batch_edges,
  )
  return _evaluate(values, predictor, head, opened)


def table(metrics: Mapping[str, Mapping[str, Any]]) -> str:
  """Metrics as a Markdown table, one row a target."""
  names = list(dict.fromkeys(k for row in metrics.values() for k in row if k != "unit"))
  head = [
    "target",
    "unit",
    *(name.upper() if len(name) < 5 else name for name in names),
  ]
  rows = [head, ["---"] * len(head)]
  for target, row in metrics.items():
    cells = [f"{row[name]:.5g}" if name in row else "" for name in names]
    rows.append([target, row["unit"], *cells])
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _evaluate(
  values: flags.FlagValues,
  predictor: Any,
  head: str,
  dataset: pipeline_datasets.Dataset,
) -> Mapping[str, Any]:
  """Predicts and writes."""
  from jmp_hk.inference import comparison  # Imports jax.
  from jmp_hk.inference import reports

  for notice in predictor.notices(head):
    logging.warning("%s", notice)
  results = comparison.predict_and_compare(
    predictor,
    dataset.evenly(values.limit),
    head,
    units=dataset.info.units,
    on_progress=lambda done, total: logging.info("%d of %d structures", done, total),
  )
  if not results.comparisons:
    raise config_lib.FlagError(
      f"--data: split {values.split!r} has none of the labels that the head {head!r} "
      "predicts."
    )
  output = pathlib.Path(values.output or default_output(values))
  metrics = reports.write(results, output)
  print(table(metrics))
  print(f"Results of {len(results.structures)} structures: {output}")
  return metrics


def default_output(values: flags.FlagValues) -> pathlib.Path:
  """Below the checkpoint, named after data and split."""
  name = f"{pathlib.Path(values.data).resolve().name}_{values.split}"
  return pathlib.Path(values.checkpoint) / "evaluation" / name


def _dataset(values: flags.FlagValues, name: str) -> datasets_lib.DatasetConfig:
  return datasets_lib.DatasetConfig(name, values.data, split=values.split)


def main(argv: Sequence[str]) -> int:
  """Runs the command line; wrong flags give one line and exit code 1."""
  return command.run_main(run, argv)


if __name__ == "__main__":
  define_flags()
  app.run(main)
