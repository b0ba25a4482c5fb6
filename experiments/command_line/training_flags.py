"""Flags about optimisation and the run as such."""

from collections.abc import Sequence
import re
from typing import Any

from absl import flags

from data.command_line import flag_help
from data.command_line import numbers
from experiments.command_line import command
from jmp_hk import ranges
from jmp_hk.training import config as train_config


@flag_help.group("Optimiser")
def define_optimizer(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the optimiser and the moving average."""
  of_optimizer = train_config.OptimizerConfig.RANGES
  define = lambda name, default, text, field="": numbers.define(
    name, default, text, of_optimizer[field or name], values
  )
  define("beta1", 0.9, "Decay of Adam's first moment.", "b1")
  define("beta2", 0.95, "Decay of Adam's second moment.", "b2")
  define("epsilon", 1e-8, "Adam's epsilon, which keeps its steps finite.", "eps")
  define("weight_decay", 0.1, "Decoupled weight decay of every parameter.")
  define(
    "clip_threshold",
    1.0,
    "Largest global norm, or absolute value, of the gradients; see --clip.",
  )
  numbers.define(
    "ema_decay",
    0.99,
    "Decay of the weights' moving average; 0 keeps no average.",
    train_config.TrainConfig.RANGES["ema_decay"],
    values,
  )
  flags.DEFINE_bool(
    "ema_warmup",
    True,
    "Let the decay of the average grow with the number n of updates up to --ema_decay, "
    "as (1 + n) / (10 + n), so that the average of a short run forgets the initial "
    "weights.",
    flag_values=values,
  )
  flags.DEFINE_enum_class(
    "clip",
    train_config.Clip.GLOBAL_NORM,
    train_config.Clip,
    "How gradients are clipped: by the norm of all, or each by its absolute value.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "learning_rate_factors",
    [],
    "PATTERN=FACTOR,…: Learning rates by layer. The first regular expression that is "
    "found in a parameter's path decides.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "frozen",
    [],
    "PATTERN,…: Regular expressions; parameters in whose paths one is found are not "
    "trained.",
    flag_values=values,
  )


@flag_help.group("Learning rate")
def define_schedule(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the learning rate."""
  define = lambda name, default, text: numbers.define(
    name, default, text, train_config.ScheduleConfig.RANGES[name], values
  )
  define("learning_rate", 3e-4, "Peak of the learning rate.")
  define("warmup_factor", 0.2, "Fraction of the peak at which the warm-up begins.")
  define("final_factor", 0.1, "Fraction of the peak at which the cosine ends.")
  define(
    "warmup_steps",
    2000,
    "Number of steps of the linear warm-up; in fine-tuning, 0 takes --warmup_epochs.",
  )
  define(
    "decay_steps",
    0,
    "Step at which the cosine ends; 0 takes the last step, in fine-tuning "
    "--decay_epochs. When a run is continued with more steps, the rate follows the new "
    "cosine from there on.",
  )


@flag_help.group("Model")
def define_start(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the weights that a run starts from."""
  flags.DEFINE_string(
    "checkpoint",
    "",
    "PATH: Trained model to start from: the --workdir of a run, a checkpoint in it, a "
    "PyTorch file of published weights, or jmp-mini, which comes with the package. "
    "Without it the training starts from scratch.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "ema",
    True,
    "Start from the averaged weights of --checkpoint, instead of the raw ones.",
    flag_values=values,
  )
  flags.DEFINE_enum_class(
    "heads",
    train_config.Heads.REUSE,
    train_config.Heads,
    "What becomes of the heads of --checkpoint. With reuse, a target that the "
    "checkpoint has with the same name, kind and reduction, in the task of the same "
    "name or in its only one, keeps its head, scaled to the new data; "
    "WORKDIR/parameters.csv lists them. With fresh, all heads are drawn.",
    flag_values=values,
  )


def initial(values: flags.FlagValues) -> train_config.InitialConfig | None:
  """The model that the run starts from, or None."""
  if not values.checkpoint:
    return None
  return train_config.InitialConfig(values.checkpoint, values.ema, values.heads)


def define_run(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the run."""
  _define_workdir(values)
  _define_length(values)


@flag_help.group("Output")
def _define_workdir(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    "workdir",
    None,
    "DIR: Directory of the run: everything it writes goes there. Running again with "
    "the same directory continues; the number of steps, intervals, early stopping, "
    "--budget and --num_workers may be others then.",
    flag_values=values,
  )


@flag_help.group("Training")
def _define_length(values: flags.FlagValues) -> None:
  integer = lambda name, default, least, text: flags.DEFINE_integer(
    name, default, text, lower_bound=least, flag_values=values
  )
  integer("num_steps", 0, 0, "Number of optimiser steps; 0 takes --num_epochs.")
  flags.DEFINE_float(
    "num_epochs",
    2.0,
    "Number of epochs, where --num_steps is 0. One epoch is the smallest "
    "number of draws in which no dataset loses samples.",
    lower_bound=0,
    flag_values=values,
  )
  integer(
    "num_microbatches",
    0,
    0,
    "Number of microbatches that the structures of a step are divided into, over all "
    "devices and processes. Those of one device are worked through one after another, "
    "which takes less memory. 0 makes one for each device. A run that is continued on "
    "other devices keeps its number.",
  )
  integer(
    "num_scale_batches",
    8,
    0,
    "Number of training batches (of one microbatch) on which the backbone's scale "
    "factors are fitted before the first step; 0 leaves them unfitted.",
  )
  integer(
    "seed",
    0,
    0,
    "Seed of everything random: initial weights, dropout, data order.",
  )


@flag_help.group("Logging and checkpoints")
def define_intervals(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of how often what is done, and what is kept."""
  integer = lambda name, default, least, text: flags.DEFINE_integer(
    name, default, text, lower_bound=least, flag_values=values
  )
  integer("log_every", 50, 1, "Steps between lines of training metrics.")
  integer(
    "evaluate_every",
    5000,
    0,
    "Steps between validations; 0 validates at the end only, and in fine-tuning every "
    "--evaluate_every_epochs.",
  )
  integer("checkpoint_every", 1000, 1, "Steps between checkpoints.")
  flags.DEFINE_float(
    "checkpoint_minutes",
    30.0,
    "Minutes after which a checkpoint is saved in any case; 0 leaves it at the steps.",
    lower_bound=0,
    flag_values=values,
  )
  integer("keep_last", 2, 1, "Number of newest checkpoints to keep.")
  integer("keep_best", 1, 0, "Number of best checkpoints to keep besides.")
  flags.DEFINE_string(
    "primary_metric",
    "score",
    "NAME: Validation metric, lower is better, that picks the best checkpoint.",
    flag_values=values,
  )
  integer(
    "profile_steps",
    0,
    0,
    "Number of steps to record with jax's profiler, after the first few, in "
    "WORKDIR/profile.",
  )


def schedule(
  values: flags.FlagValues, warmup_steps: int, decay_steps: int
) -> train_config.ScheduleConfig:
  """The learning rate with a warm-up and a cosine that end at the given steps.

  Raises:
    FlagError: values that make no sense together.
  """
  try:
    return train_config.ScheduleConfig(
      learning_rate=values.learning_rate,
      warmup_steps=warmup_steps,
      warmup_factor=values.warmup_factor,
      decay_steps=decay_steps,
      final_factor=values.final_factor,
    )
  except ValueError as error:
    raise command.FlagError(
      f"--warmup_steps, --decay_steps and --num_steps: {error}"
    ) from error


def optimizer(
  values: flags.FlagValues,
  schedule: train_config.ScheduleConfig,
  factors: tuple[tuple[str, float], ...],
) -> train_config.OptimizerConfig:
  """The optimiser with a schedule and learning-rate factors by layer.

  Raises:
    FlagError: a pattern of --frozen is no regular expression.
  """
  for pattern in values.frozen:
    try:
      re.compile(pattern)
    except re.error as error:
      raise command.FlagError(
        f"--frozen: {pattern!r} is no regular expression: {error}."
      ) from error
  return train_config.OptimizerConfig(
    schedule=schedule,
    b1=values.beta1,
    b2=values.beta2,
    eps=values.epsilon,
    weight_decay=values.weight_decay,
    clip=values.clip,
    clip_threshold=values.clip_threshold,
    learning_rate_factors=factors,
    frozen=tuple(values.frozen),
  )


def train(
  values: flags.FlagValues, num_steps: int, **settings: Any
) -> train_config.TrainConfig:
  """The run. Without --decay_steps the cosine ends with it.

  Args:
    values: parsed flags.
    num_steps: number of optimiser steps.
    **settings: fields of `TrainConfig` that count in place of the flags.

  Raises:
    FlagError: values that make no sense.
  """
  if "optimizer" not in settings:
    settings["optimizer"] = optimizer(
      values,
      schedule(values, values.warmup_steps, values.decay_steps or num_steps),
      parse_factors(values.learning_rate_factors),
    )
  names = (
    "batch_size",
    "num_microbatches",
    "num_devices",
    "seed",
    "ema_decay",
    "ema_warmup",
    "primary_metric",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_last",
    "keep_best",
    "num_scale_batches",
    "profile_steps",
  )
  from_flags = {name: getattr(values, name) for name in names}
  try:
    return train_config.TrainConfig(num_steps=num_steps, **(from_flags | settings))
  except ValueError as error:
    raise command.FlagError(str(error)) from error


def parse_factors(entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
  """Reads PATTERN=FACTOR entries.

  Raises:
    FlagError: an entry cannot be read.
  """
  result = []
  for entry in entries:
    pattern, _, text = entry.rpartition("=")
    try:
      re.compile(pattern)
      result.append((pattern, float(numbers.parse(text, ranges.POSITIVE))))
    except (ValueError, re.error) as error:
      raise command.FlagError(
        f"--learning_rate_factors: {entry!r} does not read PATTERN=FACTOR ({error})."
      ) from error
  return tuple(result)
