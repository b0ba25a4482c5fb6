"""What a run says of itself at its start and at its end."""

from collections.abc import Mapping
from collections.abc import Sequence
import logging
import pathlib
from typing import Any

from jmp_hk.checkpoints import model_directory
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.graphs import cuts
from jmp_hk.models import parameters
from jmp_hk.pipeline import config as pipeline_config
from jmp_hk.pipeline import datasets as datasets_lib
from jmp_hk.runtime import console
from jmp_hk.runtime import processes
from jmp_hk.training import config as config_lib
from jmp_hk.training import metric_table
from jmp_hk.training import plot
from jmp_hk.training import program as program_lib
from jmp_hk.training import writers

logger = logging.getLogger(__name__)

_BASELINE_NOTE = "baseline: a linear fit per element, or the mean; forces of zero"


def tell_start(config: config_lib.TrainerConfig, program: program_lib.Program) -> None:
  """Logs how large model and batches are.

  Args:
    config: configuration of the run.
    program: what it computes.
  """
  logger.info(
    "%s, %s parameters.",
    config.model.backbone.describe(),
    f"{parameters.count(program.shapes.params):,}",
  )
  devices = program.mesh.size
  kind = program.mesh.devices.flat[0].device_kind
  logger.info(
    "%s, on %d device%s (%s).",
    _batches(config, program.budgets),
    devices,
    "s" * (devices > 1),
    kind,
  )
  logger.debug("Sizes of a microbatch: %s.", program.budgets)


def tell_graphs(
  config: config_lib.TrainerConfig, training: Sequence[datasets_lib.Dataset]
) -> None:
  """Logs how the neighborhoods of conservative tasks end, and what would be better.

  Args:
    config: configuration of the run.
    training: the datasets to train on.
  """
  for dataset in training:
    graph = dataset.info.graph
    if not config.model.tasks[dataset.task].is_conservative or not processes.is_first():
      continue
    logger.info("The graphs of %s have %s.", dataset.name, cuts.describe(graph))
    if advice := cuts.advice(cuts.measure(dataset.evenly(cuts.SAMPLE), graph), graph):
      logger.info("%s", advice)


def _batches(
  config: config_lib.TrainerConfig, budgets: Sequence[budget_lib.Budget]
) -> str:
  """What the batches of a run hold."""
  train = config.train
  number, count = train.batch_size, train.num_microbatches
  about = "" if config.pipeline.packing is pipeline_config.Packing.EXACT else "about "
  text = f"Batches have {about}{number} structure{'s' * (number > 1)}"
  sizes = " or ".join(_size(budget) for budget in budgets)
  if count == 1:
    return f"{text} and room for {sizes}"
  return f"{text} in {count} microbatches with room for {sizes} each"


def _size(budget: budget_lib.Budget) -> str:
  room = budget_lib.capacity(budget)
  return f"{room.num_atoms:,} atoms and {room.num_main_items:,} edges"


def compilation(program: program_lib.Program, batch: batch_lib.Batch) -> str:
  """What is said before the training step is compiled for a batch.

  Args:
    program: what the run computes.
    batch: the batch, whose budget is a new one.
  """
  number, most = program.train_step.num_compilations + 1, len(program.budgets)
  which = ""
  if most > 1:
    which = f" for {_size(batch.budget)} ({number} of at most {most} sizes)"
  return f"Compiling the training step{which}, which may take minutes."


def tell_end(
  config: config_lib.TrainerConfig,
  workdir: pathlib.Path,
  program: program_lib.Program,
  linear_fit: Mapping[str, float],
) -> None:
  """Logs how good the best weights are, and where the model lies.

  Args:
    config: configuration of the run.
    workdir: directory of the run; its metrics file is read.
    program: what it computed.
    linear_fit: validation metrics without any model.
  """
  records = writers.read_metrics(workdir / writers.METRICS_FILE)
  seconds = max((r["seconds"] for r in records if "seconds" in r), default=0.0)
  last = max((record["step"] for record in records), default=0)
  lines = [
    f"Finished {last:,} steps in {console.duration(seconds)} of training; batches were "
    f"{_utilisation(config, records):.0%} full."
  ]
  validations = {r["step"]: r for r in records if r["kind"] == "val"}
  if validations:
    step = int(model_directory.find_checkpoint(workdir).name)
    best = validations.get(step, validations[max(validations)])
    lines += [
      f"Validation of the best weights, those of step {best['step']:,}:",
      metric_table.table(program.described, best, {metric_table.BASELINE: linear_fit}),
      f"({_BASELINE_NOTE})",
    ]
  lines += [
    f"Curves: {workdir / plot.PLOT_FILE}, or tensorboard --logdir={workdir}",
    f"In Python, jmp_hk.load({str(workdir)!r}) loads the model.",
  ]
  if processes.is_first():
    logger.info("%s", "\n".join(lines))


def _utilisation(
  config: config_lib.TrainerConfig, records: Sequence[Mapping[str, Any]]
) -> float:
  """Part of the costliest field of the budget that was no padding, on average."""
  field = config.model.backbone.graph_builder.budget_type.main_field
  parts = [r[f"utilisation/{field}"] for r in records if r["kind"] == "train"]
  return sum(parts) / len(parts) if parts else 0.0
