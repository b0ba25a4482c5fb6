"""Flags about the schedule of a fine-tuning: epochs, plateau, early stopping."""

from absl import flags

from data.command_line import flag_help
from data.command_line import numbers
from experiments.command_line import training_flags
from jmp_hk.models import backbone as backbone_lib
from jmp_hk.pipeline import exact
from jmp_hk.training import config as train_config

PUBLISHED = "published"  # Value of --learning_rate_factors.


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of the schedule."""
  _define_epochs(values)
  _define_early_stopping(values)
  _define_validations(values)


@flag_help.group("Logging and checkpoints")
def _define_validations(values: flags.FlagValues) -> None:
  flags.DEFINE_float(
    "evaluate_every_epochs",
    1,
    "Epochs between validations, where --evaluate_every is 0. Plateaus and early "
    "stopping count validations.",
    lower_bound=0,
    flag_values=values,
  )


@flag_help.group("Learning rate")
def _define_epochs(values: flags.FlagValues) -> None:
  number = lambda name, default, text: flags.DEFINE_float(
    name, default, text, lower_bound=0, flag_values=values
  )
  number("warmup_epochs", 5, "Epochs of the warm-up, where --warmup_steps is 0.")
  number(
    "decay_epochs",
    32,
    "Epochs from the start of the run to the end of the cosine, where --decay_steps is "
    "0.",
  )
  numbers.define(
    "plateau_factor",
    0.8,
    "Factor by which the learning rate is multiplied when validation stagnates after "
    "the cosine; 1 switches that off.",
    train_config.PlateauConfig.RANGES["factor"],
    values,
  )
  flags.DEFINE_integer(
    "plateau_patience",
    3,
    "Number of validations without improvement that are tolerated before the learning "
    "rate falls.",
    lower_bound=0,
    flag_values=values,
  )
  number(
    "plateau_threshold",
    1e-4,
    "Fraction by which --primary_metric has to fall to count as an improvement there.",
  )


@flag_help.group("Early stopping")
def _define_early_stopping(values: flags.FlagValues) -> None:
  number = lambda name, default, text: flags.DEFINE_float(
    name, default, text, lower_bound=0, flag_values=values
  )
  flags.DEFINE_integer(
    "early_stopping_patience",
    50,
    "Number of validations without improvement after which the run ends; 0 never ends "
    "it.",
    lower_bound=0,
    flag_values=values,
  )
  number(
    "early_stopping_min_delta",
    1e-8,
    "Amount, in its unit, by which --primary_metric has to fall to count as an "
    "improvement there.",
  )
  number("min_learning_rate", 1e-8, "Learning rate below which the run ends.")


def train(
  values: flags.FlagValues,
  backbone: backbone_lib.BackboneConfig,
  num_structures: int,
  primary_metric: str,
) -> train_config.TrainConfig:
  """Optimiser, schedule, plateau and early stopping.

  Args:
    values: parsed flags.
    backbone: the backbone.
    num_structures: size of the training split; an epoch of it decides the schedule.
    primary_metric: what validation goes by, unless a flag says otherwise.

  Raises:
    FlagError: values that make no sense.
  """
  epoch = exact.steps_per_epoch(num_structures, values.batch_size)
  steps = lambda epochs: round(epochs * epoch)
  warmup = values.warmup_steps or steps(values.warmup_epochs)
  decay = values.decay_steps or max(steps(values.decay_epochs), 1)
  schedule = training_flags.schedule(values, warmup, decay)
  factors = _factors(values, backbone)
  return training_flags.train(
    values,
    values.num_steps or max(1, steps(values.num_epochs)),
    optimizer=training_flags.optimizer(values, schedule, factors),
    plateau=_plateau(values, schedule.decay_steps),
    early_stopping=_early_stopping(values),
    primary_metric=values.primary_metric or primary_metric,
    evaluate_every=values.evaluate_every or max(1, steps(values.evaluate_every_epochs)),
  )


def _factors(
  values: flags.FlagValues, backbone: backbone_lib.BackboneConfig
) -> tuple[tuple[str, float], ...]:
  """--learning_rate_factors; the published ones count where weights are loaded."""
  if values.learning_rate_factors != [PUBLISHED]:
    return training_flags.parse_factors(values.learning_rate_factors)
  return backbone.learning_rate_factors if values.checkpoint else ()


def _plateau(values: flags.FlagValues, start: int) -> train_config.PlateauConfig | None:
  if values.plateau_factor == 1:
    return None
  return train_config.PlateauConfig(
    values.plateau_factor, values.plateau_patience, values.plateau_threshold, start
  )


def _early_stopping(
  values: flags.FlagValues,
) -> train_config.EarlyStoppingConfig | None:
  if not values.early_stopping_patience:
    return None
  return train_config.EarlyStoppingConfig(
    values.early_stopping_patience,
    values.early_stopping_min_delta,
    values.min_learning_rate,
  )
