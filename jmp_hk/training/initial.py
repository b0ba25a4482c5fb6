"""The weights that a run starts from: fresh ones, or the backbone of another model."""

from collections.abc import Mapping
import csv
import dataclasses
import logging
import pathlib
from typing import Any

import jax

from jmp_hk import files
from jmp_hk.checkpoints import loading
from jmp_hk.checkpoints import pretrained
from jmp_hk.graphs import batch as batch_lib
from jmp_hk.models import model as model_lib
from jmp_hk.runtime import processes
from jmp_hk.training import batch_sources
from jmp_hk.training import config as config_lib
from jmp_hk.training import run_directory

logger = logging.getLogger(__name__)

SCALES_FILE = "scale_factors.csv"  # In the directory of a run.


@dataclasses.dataclass(frozen=True)
class InitialModel:
  """A trained model whose backbone a run starts from.

  Attributes:
    variables: its parameters and scale factors.
    name: what it is called in messages.
    origin: its licence and provenance, which the run's checkpoints keep; see
      `model_directory.read_origin`.
  """

  variables: model_lib.Variables
  name: str = "the given model"
  origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def load(config: config_lib.InitialConfig) -> InitialModel:
  """Loads the model that a configuration names.

  Raises:
    CheckpointError: there is no such model, or it cannot be understood.
  """
  loaded = loading.load_model(config.checkpoint, ema=config.ema)
  return InitialModel(
    loaded.variables, f"{loaded.path} (step {loaded.step})", loaded.origin
  )


def take_backbone(
  initial: InitialModel, fresh: model_lib.Variables, workdir: pathlib.Path
) -> model_lib.Variables:
  """Puts the backbone of a trained model into freshly drawn variables.

  Args:
    initial: the trained model.
    fresh: variables of the new model.
    workdir: directory of the run; the table of all parameters is stored there.

  Returns:
    The variables to start from.

  Raises:
    PretrainedError: the backbones differ; names the parameters.
  """
  variables, entries = pretrained.load_backbone(initial.variables, fresh)
  logger.info("Starting from %s:\n%s", initial.name, pretrained.overview(entries))
  if processes.is_first():
    pretrained.write_table(entries, workdir / run_directory.PARAMETERS_FILE)
  return variables


def draw(
  model: model_lib.Model, key: jax.Array, example: batch_lib.Batch
) -> model_lib.Variables:
  """Draws fresh variables; scale factors are not fitted.

  Args:
    model: the model.
    key: random key.
    example: a microbatch, for shapes.
  """
  return jax.jit(model.init)(key, example)


def fit_scales(
  model: model_lib.Model,
  variables: model_lib.Variables,
  batches: batch_sources.BatchSource,
  num_batches: int,
  workdir: pathlib.Path,
) -> model_lib.Variables:
  """Fits the backbone's scale factors on training data.

  Args:
    model: the model.
    variables: its fresh variables.
    batches: the training data.
    num_batches: microbatches to fit on; zero fits nothing.
    workdir: directory of the run; a table of all factors is stored there.
  """
  if not num_batches:
    return variables
  fitted: dict[str, float] = {}
  variables = model.fit_state(
    variables, batches.sample(num_batches), fitted.__setitem__
  )
  if fitted and processes.is_first():
    with files.open_atomically(workdir / SCALES_FILE, "w") as file:
      writer = csv.writer(file, lineterminator="\n")
      writer.writerow(("module", "scale_factor"))
      writer.writerows(fitted.items())
    logger.info(
      "Fitted %d scale factors from %.3g to %.3g, see %s.",
      len(fitted),
      min(fitted.values()),
      max(fitted.values()),
      SCALES_FILE,
    )
  return variables
