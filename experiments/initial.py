"""The first weights of a fine-tuning: a trained backbone, fresh heads."""

import pathlib
from typing import Any

from absl import logging
import jax

from experiments.command_line import config as config_lib
from jmp_hk.checkpoints import model_directory
from jmp_hk.checkpoints import pretrained
from jmp_hk.models import model as model_lib

TABLE_FILE = "parameters.csv"


def load(
  config: config_lib.InitialConfig,
  fresh: model_lib.Variables,
  workdir: pathlib.Path,
) -> model_lib.Variables:
  """Loads the backbone of a checkpoint into freshly drawn variables.

  Args:
    config: which checkpoint.
    fresh: of the new model.
    workdir: of the run; the table of all parameters is stored there.

  Returns:
    The variables to start from.

  Raises:
    FlagError: there is no checkpoint, or it does not fit; names the parameters.
  """
  try:
    source = model_directory.load_model_directory(config.checkpoint, ema=config.ema)
    variables, entries = pretrained.load_backbone(source.variables, fresh)
  except (model_directory.CheckpointError, pretrained.PretrainedError) as error:
    raise config_lib.FlagError(f"--checkpoint={config.checkpoint}: {error}") from error
  logging.info(
    "Starting from %s (step %d):\n%s",
    source.path,
    source.step,
    pretrained.overview(entries),
  )
  if jax.process_index() == 0:
    pretrained.write_table(entries, workdir / TABLE_FILE)
  return variables


def origin(config: config_lib.InitialConfig | None) -> dict[str, Any]:
  """Licence and provenance that a run takes over from the weights it starts from.

  Args:
    config: which checkpoint; None for training from scratch.

  Returns:
    See `model_directory.read_origin`; empty where nothing is known, or where the
    checkpoint is gone because the run itself goes on from its own.
  """
  if config is None:
    return {}
  try:
    return model_directory.read_origin(config.checkpoint)
  except model_directory.CheckpointError:
    return {}
