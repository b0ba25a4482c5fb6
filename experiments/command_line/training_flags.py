"""Flags about optimisation and about the run as such."""

from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments.command_line import config as config_lib
from jmp_hk.runtime import configuration
from jmp_hk.training import config as train_config


def define_optimizer(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the optimiser."""
  define = lambda name, default, text: flags.DEFINE_float(
    name, default, text, lower_bound=0, flag_values=values
  )
  define("learning_rate", 3e-4, "Peak of the learning rate.")
  define("warmup_factor", 0.2, "Fraction of the peak at step 0.")
  define("final_factor", 0.1, "Fraction of the peak at the end of the cosine.")
  define("beta1", 0.9, "Decay of Adam's first moment.")
  define("beta2", 0.95, "Decay of Adam's second moment.")
  define("epsilon", 1e-8, "Adam's epsilon.")
  define("weight_decay", 0.1, "Decoupled weight decay, on every parameter.")
  define("clip_threshold", 1.0, "Largest global norm, or absolute value.")
  define("ema_decay", 0.99, "Decay of the weights' moving average; 0 has none.")
  flags.DEFINE_integer(
    "warmup_steps",
    2000,
    "Steps of the linear warm-up.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_enum_class(
    "clip",
    train_config.Clip.GLOBAL_NORM,
    train_config.Clip,
    "How gradients are clipped.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "learning_rate_factors",
    [],
    "PATTERN=FACTOR,…: layer-wise rates; the first "
    "regular expression found in a parameter's path counts.",
    flag_values=values,
  )
  flags.DEFINE_list(
    "frozen",
    [],
    "Regular expressions of parameter paths that are not trained.",
    flag_values=values,
  )


def define_run(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the run."""
  flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run: everything it writes goes there. Running "
    "again with the same directory continues.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "seed", 0, "Of everything random.", lower_bound=0, flag_values=values
  )
  flags.DEFINE_integer(
    "num_steps",
    0,
    "Optimiser steps; 0 takes --num_epochs.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_float(
    "num_epochs",
    2.0,
    "Epochs, where --num_steps is 0. One epoch is the smallest "
    "number of draws in which no dataset loses samples.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_microbatches",
    1,
    "Microbatches of one step, over all devices and processes. Microbatches "
    "of one device are worked through one after another.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "log_every",
    50,
    "Steps between lines of training metrics.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "evaluate_every",
    5000,
    "Steps between validations; 0 validates at the end only.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "checkpoint_every",
    1000,
    "Steps between checkpoints.",
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "keep_last", 2, "Newest checkpoints to keep.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    "keep_best",
    1,
    "Best checkpoints to keep besides.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_string(
    "primary_metric",
    "score",
    "Validation metric, lower is better, that picks the best checkpoint.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_scale_batches",
    8,
    "Training batches (of one microbatch) on which scale factors "
    "are fitted before the first step; 0 leaves them out.",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "profile_steps",
    0,
    "Steps to record with jax's profiler, after the first few, in WORKDIR/profile.",
    lower_bound=0,
    flag_values=values,
  )


def define_environment(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of how jax is started."""
  flags.DEFINE_string(
    "compilation_cache",
    configuration.default_compilation_cache(),
    "Directory where compiled programs are kept between runs; empty keeps none.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "coordinator_address",
    "",
    "host:port of process 0, for runs of several processes.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_processes",
    1,
    "Processes of the run; 0 detects them (Slurm, cloud).",
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_integer(
    "process_id", 0, "Number of this process.", lower_bound=0, flag_values=values
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
    raise config_lib.FlagError(f"--warmup_steps and --num_steps: {error}") from error


def optimizer(
  values: flags.FlagValues,
  schedule: train_config.ScheduleConfig,
  factors: tuple[tuple[str, float], ...],
) -> train_config.OptimizerConfig:
  """The optimiser with a schedule and layer-wise learning-rate factors."""
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
  """The run. By default the cosine ends with it.

  Args:
    values: parsed flags.
    num_steps: optimiser steps.
    **settings: fields of `TrainConfig` that count in place of the flags.

  Raises:
    FlagError: values that make no sense.
  """
  if "optimizer" not in settings:
    settings["optimizer"] = optimizer(
      values,
      schedule(values, values.warmup_steps, num_steps),
      parse_factors(values.learning_rate_factors),
    )
  names = (
    "num_microbatches",
    "seed",
    "ema_decay",
    "primary_metric",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "keep_last",
    "keep_best",
    "num_scale_batches",
    "profile_steps",
  )
  try:
    return train_config.TrainConfig(
      num_steps=num_steps,
      **({name: getattr(values, name) for name in names} | settings),
    )
  except ValueError as error:
    raise config_lib.FlagError(str(error)) from error


def environment_config(values: flags.FlagValues) -> configuration.RuntimeConfig:
  """How jax is started."""
  return configuration.RuntimeConfig(
    compilation_cache=values.compilation_cache,
    coordinator_address=values.coordinator_address,
    num_processes=values.num_processes,
    process_id=values.process_id,
  )


def parse_factors(entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
  """Reads PATTERN=FACTOR entries.

  Raises:
    FlagError: an entry cannot be read.
  """
  result = []
  for entry in entries:
    pattern, _, text = entry.rpartition("=")
    try:
      result.append((pattern, float(text)))
    except ValueError as error:
      raise config_lib.FlagError(
        f"--learning_rate_factors: {entry!r} does not read PATTERN=FACTOR."
      ) from error
  return tuple(result)
