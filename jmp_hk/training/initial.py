"""The weights that a run starts from: fresh ones, or those of another model."""

from collections.abc import Mapping
import csv
import dataclasses
import logging
import pathlib
from typing import Any

import jax

from jmp_hk import dataset_info
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
  """A trained model that a run starts from.

  Attributes:
    variables: its parameters and scale factors.
    config: its configuration; None where its heads are not to be used.
    infos: constants of the datasets of its tasks by name.
    name: what it is called in messages.
    origin: its licence and provenance, which the run's checkpoints keep; see
      `model_directory.read_origin`.
    heads: whether its heads are taken over beside its backbone.
  """

  variables: model_lib.Variables
  config: model_lib.ModelConfig | None = None
  infos: Mapping[str, dataset_info.DatasetInfo] = dataclasses.field(
    default_factory=dict
  )
  name: str = "the given model"
  origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  heads: config_lib.Heads = config_lib.Heads.REUSE


def load(config: config_lib.InitialConfig) -> InitialModel:
  """Loads the model that a configuration names.

  Raises:
    CheckpointError: there is no such model, or it cannot be understood.
  """
  loaded = loading.load_model(config.checkpoint, ema=config.ema)
  return InitialModel(
    loaded.variables,
    loaded.config,
    loaded.infos,
    f"{loaded.path} (step {loaded.step})",
    loaded.origin,
    config.heads,
  )


def take_over(
  initial: InitialModel,
  fresh: model_lib.Variables,
  config: model_lib.ModelConfig,
  infos: Mapping[str, dataset_info.DatasetInfo],
  workdir: pathlib.Path,
) -> model_lib.Variables:
  """Puts backbone and suitable heads of a trained model into freshly drawn variables.

  Args:
    initial: the trained model.
    fresh: variables of the new model.
    config: the new model.
    infos: constants of the datasets of its tasks by name.
    workdir: directory of the run; the table of all parameters is stored there.

  Returns:
    The variables to start from.

  Raises:
    PretrainedError: the backbones differ; names the parameters.
  """
  heads = ()
  if initial.config is not None and initial.heads is config_lib.Heads.REUSE:
    heads = pretrained.match_heads(initial.config, initial.infos, config, infos)
  variables, entries = pretrained.load(
    initial.variables, fresh, heads, draw_missing=lacks_branch(initial, config)
  )
  logger.info("Starting from %s:\n%s", initial.name, pretrained.overview(entries))
  if heads:
    logger.info(
      "Heads that are taken over: %s. References, scales and means are those of the "
      "new data. --heads=fresh draws all heads anew.",
      "; ".join(head.describe() for head in heads),
    )
  if processes.is_first():
    pretrained.write_table(entries, workdir / run_directory.PARAMETERS_FILE)
  return variables


def lacks_branch(initial: InitialModel, config: model_lib.ModelConfig) -> bool:
  """Whether only the new model has the branch for direct forces and other vectors."""
  wanted = config.backbone.direct_vectors
  old = initial.config
  return wanted and old is not None and not old.backbone.direct_vectors


def draw(
  model: model_lib.Model, key: jax.Array, example: batch_lib.Batch
) -> model_lib.Variables:
  """Draws fresh variables; scale factors are not fitted.

  Args:
    model: the model.
    key: random key.
    example: a microbatch, for shapes.
  """
  return model.init(key, example)  # Compiled as a whole, it takes minutes.


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
    num_batches: steps to fit on; zero fits nothing.
    workdir: directory of the run; a table of all factors is stored there.
  """
  if not num_batches:
    return variables
  fitted: dict[str, float] = {}
  variables = model.fit_state(
    variables, batches.sample(num_batches), fitted.__setitem__, batches.num_sampled
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
