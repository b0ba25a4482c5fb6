"""The config of a training run: what flags become, and what its directory stores."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib

from data.records import datasets as datasets_lib
from jmp_hk import serialization
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import config as stream_config
from jmp_hk.training import config as train_config
from jmp_hk.training import losses

CONFIG_FILE = "config.json"

# Differences in these do not make another run: they change where things lie, how fast
# they go and what is reported, but not what is computed.
_FREE = (
  "conversions",
  "model.backbone.remat",
  "pipeline.num_workers",
  "pipeline.prefetch_batches",
  "validation",
  "train.log_every",
  "train.profile_steps",
  "train.keep_last",
  "train.keep_best",
)
_FREE_DATASET_FIELDS = ("directory",)


class FlagError(ValueError):
  """Flags that cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Conversion:
  """Raw files that are converted before the run, unless that has been done.

  Attributes:
    dataset: name of the dataset in the mixture.
    converter: name of the converter.
    input: raw file or folder.
    options: options of `data.convert`: "split", "scales" and those of the converter.
  """

  dataset: str
  converter: str
  input: str
  options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
  """What the weights are validated on.

  Attributes:
    splits: names of validation splits; the first that a dataset has is used.
    limit: structures per dataset, taken evenly; 0 takes all.
  """

  splits: tuple[str, ...] = ("val", "val_id")
  limit: int = 0


@dataclasses.dataclass(frozen=True)
class InitialConfig:
  """The trained model whose backbone a run starts from.

  Attributes:
    checkpoint: directory of a run, of its checkpoints or of one of them.
    ema: its averaged weights; else the raw ones.
  """

  checkpoint: str
  ema: bool = True


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """Everything that decides a training run.

  Attributes:
    datasets: the mixture.
    conversions: raw files that some of the datasets come from.
    model: backbone, tasks and precision.
    loss: averages of the loss.
    pipeline: how batches are made.
    budget: how the size of microbatches is chosen.
    train: optimiser, schedule, intervals.
    validation: what is validated on.
    initial: where the backbone comes from; None starts from scratch.
  """

  datasets: tuple[datasets_lib.DatasetConfig, ...]
  conversions: tuple[Conversion, ...]
  model: model_lib.ModelConfig
  loss: losses.LossConfig
  pipeline: stream_config.PipelineConfig
  budget: budget_lib.BudgetConfig
  train: train_config.TrainConfig
  validation: ValidationConfig = ValidationConfig()
  initial: InitialConfig | None = None


def store(config: RunConfig, workdir: pathlib.Path) -> None:
  """Stores the config in a run's directory, or checks that it is that run's.

  Args:
    config: the run.
    workdir: its directory.

  Raises:
    FlagError: the directory holds another run; lists the differences.
  """
  path = workdir / CONFIG_FILE
  if path.exists():
    changes = differences(json.loads(path.read_text(encoding="utf-8")), config)
    if changes:
      raise FlagError(
        f"--workdir={workdir} holds a run with other settings: "
        f"{'; '.join(changes)}. Use the same flags to continue it, or another "
        "--workdir to start a new one."
      )
  serialization.save(config, path)


def differences(stored: serialization.Json, config: RunConfig) -> list[str]:
  """Lists settings that differ and that matter, as "key: old → new"."""
  return serialization.differences(
    _essential(stored), _essential(serialization.to_json(config))
  )


def _essential(data: serialization.Json) -> serialization.Json:
  """A stored config without what may change from one start to the next."""
  data = json.loads(json.dumps(data))
  for name in _FREE:
    *parents, leaf = name.split(".")
    node = data
    for parent in parents:
      node = node.get(parent, {})
    node.pop(leaf, None)
  for dataset in data.get("datasets", []):
    for name in _FREE_DATASET_FIELDS:
      dataset.pop(name, None)
  return data
