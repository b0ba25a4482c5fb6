"""The directory of a training run: its configuration, budget and results.

Everything that a run writes lies in one directory, and a run that is started there
again continues:

  config.json         the configuration of the last start; the next must agree with it
                      but for `FREE_FIELDS`
  budget.json         static sizes of a microbatch: chosen once, or given
  metrics.jsonl       metrics of training and validation, also in tensorboard/
  checkpoints/        see `jmp_hk.checkpoints.checkpointer`
  metric_units.json   units of the metrics by name
  parameters.csv      which parameters came from another model
  scale_factors.csv   scale factors that were fitted at the start
  results.json, loss_curves.png   written at the end
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import json
import logging
import pathlib
from typing import Any

from jmp_hk import serialization
from jmp_hk import strict_json
from jmp_hk.runtime import devices as devices_lib
from jmp_hk.training import config as config_lib
from jmp_hk.training import writers

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
BUDGET_FILE = "budget.json"
PARAMETERS_FILE = "parameters.csv"
RESULTS_FILE = "results.json"

# These fields of a `TrainerConfig` may change when a run is continued: how long it goes
# on, how often it does what, what it keeps, and what its batches have room for. The
# size of the pool is none of them: what waits in a larger one would not fit.
_FREE_TRAINER_FIELDS = (
  "validation_limit",
  "model.backbone.remat",
  "budget.overrides",
  "pipeline.num_workers",
  "pipeline.prefetch_batches",
  "train.num_devices",
  "train.num_steps",
  "train.optimizer.schedule.warmup_steps",
  "train.optimizer.schedule.decay_steps",
  "train.plateau.start_step",
  "train.early_stopping",
  "train.log_every",
  "train.evaluate_every",
  "train.checkpoint_every",
  "train.checkpoint_minutes",
  "train.profile_steps",
  "train.keep_last",
  "train.keep_best",
)
FREE_FIELDS = tuple(f"trainer.{name}" for name in _FREE_TRAINER_FIELDS)


class OtherRunError(ValueError):
  """A directory holds a run with other settings; lists the differences."""


def complete(
  config: config_lib.TrainerConfig, directory: pathlib.Path
) -> config_lib.TrainerConfig:
  """The configuration with a number of microbatches where that is to follow.

  It is the one that the directory's run has, or follows from the devices and the size
  of a batch. Call it where jax knows all processes.

  Args:
    config: configuration of the run.
    directory: directory of the run.

  Raises:
    DevicesError: there are more processes than structures in a batch.
  """
  train = config.train
  if train.num_microbatches:
    return config
  stored = _part(_stored_config(directory), "trainer", "train")
  count = stored.get("num_microbatches") or devices_lib.Machine.present(
    train.num_devices
  ).follow(train.batch_size)
  count = min(count, train.batch_size)  # A stored batch of another size is refused.
  return dataclasses.replace(
    config, train=dataclasses.replace(train, num_microbatches=count)
  )


def check_config(
  config: Mapping[str, Any], directory: pathlib.Path, free: Sequence[str] = FREE_FIELDS
) -> None:
  """Checks that a directory is empty or holds a run that this configuration continues.

  Settings that have changed and may are logged.

  Args:
    config: parts of the configuration by name; "trainer" is a `TrainerConfig`. Parts
      that are stored but not given are not compared.
    directory: directory of the run.
    free: dotted paths of settings that may differ; `*` stands for all of a list.

  Raises:
    OtherRunError: the directory holds a run with other settings.
  """
  stored = _stored_config(directory)
  if not stored:
    return
  given = serialization.to_json(config)
  if missing := [name for name in given if name not in stored]:
    raise OtherRunError(
      f"{directory}/{CONFIG_FILE} says nothing of {', '.join(missing)}: it is that of "
      "another program or version. Use another directory to start a new run."
    )
  if "trainer" in given and "batch_size" not in _part(stored, "trainer", "train"):
    raise OtherRunError(
      f"{directory} holds a run of an earlier version, which knew the size of a "
      "microbatch in place of that of a batch; it cannot be continued. Use another "
      "directory to start a new run, if you like from the weights of this one: "
      f"--checkpoint={directory}, or the argument `model` of jmp_hk.fine_tune."
    )
  known = {name: part for name, part in stored.items() if name in given}
  changes = serialization.differences(_without(known, free), _without(given, free))
  if changes:
    raise OtherRunError(
      f"{directory} holds a run with other settings: {'; '.join(changes)}. They cannot "
      "change in the middle of a run. Use the same settings to continue it, or another "
      "directory to start a new run, if you like from the weights of this one: "
      f"--checkpoint={directory}, or the argument `model` of jmp_hk.fine_tune."
    )
  if changes := serialization.differences(known, given):
    logger.info("Continuing %s with other settings: %s.", directory, "; ".join(changes))


def store_config(config: Mapping[str, Any], directory: pathlib.Path) -> None:
  """Stores the configuration, beside parts that are stored there already.

  Args:
    config: parts of the configuration by name, see `check_config`.
    directory: directory of the run.
  """
  serialization.save(
    _stored_config(directory) | dict(config),
    directory / CONFIG_FILE,
    store_checksum=True,
  )


def save_results(
  directory: pathlib.Path, linear_fit: Mapping[str, float]
) -> dict[str, float]:
  """Stores the last validation metrics beside those of the linear fit.

  Args:
    directory: directory of the run; its metrics file is read.
    linear_fit: metrics of the per-element linear fit, with zero forces.

  Returns:
    The last validation metrics; empty where nothing was validated.
  """
  records = writers.read_metrics(directory / writers.METRICS_FILE)
  validations = [record for record in records if record["kind"] == "val"]
  if not validations:
    return {}
  last = {k: v for k, v in validations[-1].items() if k not in ("kind", "seconds")}
  serialization.save(
    {"validation": last, "linear_fit": linear_fit},
    directory / RESULTS_FILE,
    store_checksum=True,
  )
  return last


def stored_results(directory: pathlib.Path, step: int) -> dict[str, float] | None:
  """What `save_results` gave at a step, or None where it was not called then."""
  path = directory / RESULTS_FILE
  if not path.exists():
    return None
  try:
    validation = strict_json.read(path)["validation"]
    return validation if validation["step"] == step else None
  except (LookupError, TypeError) as error:
    raise serialization.SerializationError(
      f"{path} holds no results of a run: it lacks {error}. Delete it."
    ) from error


def _stored_config(directory: pathlib.Path) -> dict[str, Any]:
  """What is stored; empty where there is nothing."""
  path = directory / CONFIG_FILE
  stored = strict_json.read(path) if path.exists() else {}
  if not isinstance(stored, dict):
    raise serialization.SerializationError(f"{path} should hold a mapping.")
  return stored


def _part(stored: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
  """A mapping inside what is stored; empty where there is none."""
  for name in path:
    value = stored.get(name)
    stored = value if isinstance(value, dict) else {}
  return stored


def _without(data: serialization.Json, paths: Sequence[str]) -> serialization.Json:
  """A copy of JSON values without what lies at the given paths."""
  data = json.loads(json.dumps(data))
  for path in paths:
    *parents, leaf = path.split(".")
    nodes = [data]
    for parent in parents:
      nodes = [child for node in nodes for child in _children(node, parent)]
    for node in nodes:
      if isinstance(node, dict):
        node.pop(leaf, None)
  return data


def _children(node: serialization.Json, name: str) -> list[serialization.Json]:
  """The value of a key, or all items of a list where the name is `*`."""
  if name == "*":
    return node if isinstance(node, list) else []
  return [node[name]] if isinstance(node, dict) and name in node else []
