"""Hyper-parameters of a training run.

Pre-training and fine-tuning share all of this; only the values differ.
"""

from collections.abc import Mapping
import dataclasses
import enum
from typing import ClassVar

from jmp_hk import ranges
from jmp_hk.graphs import budget as budget_lib
from jmp_hk.models import model as model_lib
from jmp_hk.pipeline import config as pipeline_config
from jmp_hk.training import losses


class Clip(enum.Enum):
  """How gradients are clipped before the optimiser sees them."""

  NONE = "none"
  GLOBAL_NORM = "global_norm"
  VALUE = "value"


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
  """Learning rate: linear warm-up, then a cosine, then constant.

  Attributes:
    learning_rate: peak, reached at the end of the warm-up.
    warmup_steps: length of the warm-up; zero starts at the peak.
    warmup_factor: fraction of the peak at step 0.
    decay_steps: step at which the cosine ends, counted from the start of the run. It
      may be another when a run is continued; the rate follows from there on.
    final_factor: fraction of the peak at and after the end of the cosine; 1 makes
      the rate constant. A parameter group with its own factor f ends at the same
      absolute rate: its fraction is final_factor / f, clamped to [0.01, 0.99].
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "learning_rate": ranges.NOT_NEGATIVE,
    "warmup_steps": ranges.COUNT,
    "warmup_factor": ranges.FRACTION,
    "decay_steps": ranges.COUNT,
    "final_factor": ranges.FRACTION,
  }

  learning_rate: float = 3e-4
  warmup_steps: int = 2000
  warmup_factor: float = 0.2
  decay_steps: int = 100_000
  final_factor: float = 0.1

  def __post_init__(self) -> None:
    ranges.check(self)
    if self.decay_steps <= self.warmup_steps:
      raise ValueError(
        f"The cosine ends at step {self.decay_steps}, but the warm-up takes "
        f"{self.warmup_steps} steps: shorten the warm-up or train for longer."
      )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with clipping, layer-wise rates and freezing.

  Patterns are regular expressions searched for in a parameter's path, which is its
  Haiku module path, a slash and its name. A pattern without a match is an error.

  Attributes:
    schedule: the learning rate.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decoupled, times the learning rate, on every trained parameter.
    clip: how gradients are clipped.
    clip_threshold: largest global norm or absolute value.
    learning_rate_factors: ((pattern, factor), ...); the first pattern that matches a
      parameter multiplies its rate, parameters without a match have factor 1.
    frozen: patterns of parameters that are not trained: no gradient, no decay, not
      counted in the norm.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "b1": ranges.DECAY,
    "b2": ranges.DECAY,
    "eps": ranges.POSITIVE,
    "weight_decay": ranges.NOT_NEGATIVE,
    "clip_threshold": ranges.POSITIVE,
  }

  schedule: ScheduleConfig = ScheduleConfig()
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.1
  clip: Clip = Clip.GLOBAL_NORM
  clip_threshold: float = 1.0
  learning_rate_factors: tuple[tuple[str, float], ...] = ()
  frozen: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    ranges.check(self)
    for pattern, factor in self.learning_rate_factors:
      ranges.check_value(
        f"The learning-rate factor of {pattern!r}", factor, ranges.POSITIVE
      )


@dataclasses.dataclass(frozen=True)
class PlateauConfig:
  """Reduces the learning rate while the validation metric stagnates.

  Attributes:
    factor: multiplies the rate at each reduction.
    patience: evaluations without improvement that are tolerated; the next one
      reduces the rate.
    threshold: relative improvement that counts as one.
    start_step: evaluations before this step are ignored (the end of the cosine).
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "factor": ranges.Range(above=0, most=1),
    "patience": ranges.COUNT,
    "threshold": ranges.NOT_NEGATIVE,
    "start_step": ranges.COUNT,
  }

  factor: float = 0.8
  patience: int = 3
  threshold: float = 1e-4
  start_step: int = 0

  def __post_init__(self) -> None:
    ranges.check(self)


@dataclasses.dataclass(frozen=True)
class EarlyStoppingConfig:
  """Ends a run that no longer improves.

  Attributes:
    patience: evaluations without improvement after which the run ends.
    min_delta: absolute improvement that counts as one.
    min_learning_rate: the run also ends once the base rate falls below this.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "patience": ranges.COUNT,
    "min_delta": ranges.NOT_NEGATIVE,
    "min_learning_rate": ranges.NOT_NEGATIVE,
  }

  patience: int = 50
  min_delta: float = 1e-8
  min_learning_rate: float = 1e-8

  def __post_init__(self) -> None:
    ranges.check(self)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long, how fast and how closely watched a run trains.

  Attributes:
    num_steps: number of optimiser steps.
    batch_size: structures of one step, over all devices and processes.
    num_microbatches: microbatches that the structures of a step are divided into, over
      all devices and processes. Each device works through its share one after another
      (gradient accumulation), so the same microbatches on other numbers of devices give
      the same losses to rounding. Zero makes one for each device; a run stores the
      number that it got and keeps it when it is continued on other devices.
    num_devices: devices that are used, over all processes; zero uses all. Fewer are
      used where they could not be given the same number of microbatches each.
    seed: seed of everything random: initial weights, dropout, data order.
    optimizer: the optimiser.
    ema_decay: decay of the weights' moving average; zero evaluates the raw weights.
    ema_warmup: let the decay grow with the number n of updates, as
      min(ema_decay, (1 + n) / (10 + n)), so that the average of a short run forgets
      the initial weights. With 0.99 it makes no difference after 890 updates.
    plateau: reduce-on-plateau, or None.
    early_stopping: early stopping, or None.
    primary_metric: validation metric, lower is better, that picks the best
      checkpoint and drives plateau and early stopping.
    log_every: steps between lines of training metrics. Metrics are fetched from the
      devices, and non-finite losses noticed, at this pace.
    evaluate_every: steps between evaluations; the last step always has one. Zero
      evaluates at the end alone.
    checkpoint_every: steps between checkpoints; evaluations always save one too.
    checkpoint_minutes: a checkpoint is saved, too, when the last one is this old, in
      runs of several processes at the next line of training metrics; zero leaves it at
      the steps.
    keep_last: number of newest checkpoints that are kept.
    keep_best: number of best checkpoints by the primary metric that are kept besides.
    num_scale_batches: number of training batches on which the backbone's scale factors
      are fitted at the start of a run from scratch; zero leaves them unfitted.
    profile_steps: number of steps that are recorded with jax's profiler, after the
      first few.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "num_steps": ranges.POSITIVE_COUNT,
    "batch_size": ranges.POSITIVE_COUNT,
    "log_every": ranges.POSITIVE_COUNT,
    "checkpoint_every": ranges.POSITIVE_COUNT,
    "keep_last": ranges.POSITIVE_COUNT,
    "num_microbatches": ranges.COUNT,
    "num_devices": ranges.COUNT,
    "seed": ranges.COUNT,
    "evaluate_every": ranges.COUNT,
    "keep_best": ranges.COUNT,
    "num_scale_batches": ranges.COUNT,
    "profile_steps": ranges.COUNT,
    "checkpoint_minutes": ranges.NOT_NEGATIVE,
    "ema_decay": ranges.DECAY,
  }

  num_steps: int
  batch_size: int
  num_microbatches: int = 0
  num_devices: int = 0
  seed: int = 0
  optimizer: OptimizerConfig = OptimizerConfig()
  ema_decay: float = 0.99
  ema_warmup: bool = True
  plateau: PlateauConfig | None = None
  early_stopping: EarlyStoppingConfig | None = None
  primary_metric: str = "score"
  log_every: int = 50
  evaluate_every: int = 5000
  checkpoint_every: int = 1000
  checkpoint_minutes: float = 30.0
  keep_last: int = 2
  keep_best: int = 1
  num_scale_batches: int = 0
  profile_steps: int = 0

  def __post_init__(self) -> None:
    ranges.check(self)
    if self.num_microbatches > self.batch_size:
      raise ValueError(
        f"A batch of {self.batch_size} structures cannot be divided into "
        f"{self.num_microbatches} microbatches: raise batch_size or lower "
        "num_microbatches."
      )


class Heads(enum.Enum):
  """Where the heads of a run come from that starts from a trained model.

  REUSE takes over the heads of targets that the trained model has as well, see
  `checkpoints.pretrained.match_heads`; FRESH draws all of them.
  """

  REUSE = "reuse"
  FRESH = "fresh"


@dataclasses.dataclass(frozen=True)
class InitialConfig:
  """The trained model that a run starts from.

  Attributes:
    checkpoint: a model directory, the directory of a run, a checkpoint in it, or a
      PyTorch file of the published weights.
    ema: take the averaged weights of that model; otherwise the raw ones.
    heads: whether its heads are taken over beside its backbone.
  """

  checkpoint: str
  ema: bool = True
  heads: Heads = Heads.REUSE


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
  """A training run apart from its data.

  Attributes:
    model: backbone, tasks and precision.
    train: optimiser, schedule and intervals; also the seed and the number of
      microbatches of everything below.
    budget: how the static sizes of a microbatch are chosen from the data; `train` says
      how many structures it holds.
    loss: what the loss averages over.
    pipeline: how batches are made.
    validation_limit: structures of each dataset to validate on, taken evenly; zero
      takes all.
    initial: the model that the run starts from; None starts from scratch.
  """

  RANGES: ClassVar[Mapping[str, ranges.Range]] = {
    "validation_limit": ranges.COUNT,
  }

  model: model_lib.ModelConfig
  train: TrainConfig
  budget: budget_lib.BudgetConfig = budget_lib.BudgetConfig()
  loss: losses.LossConfig = losses.LossConfig()
  pipeline: pipeline_config.PipelineConfig = pipeline_config.PipelineConfig()
  validation_limit: int = 0
  initial: InitialConfig | None = None

  def __post_init__(self) -> None:
    ranges.check(self)
    if self.budget.structures is not None:
      raise ValueError(
        "The number of structures of a microbatch is train.batch_size divided by "
        "train.num_microbatches: leave budget.structures out."
      )

  @property
  def structures_per_microbatch(self) -> float:
    """Mean number of structures of a microbatch."""
    return self.train.batch_size / max(self.train.num_microbatches, 1)
