"""AdamW with warm-up and cosine, clipping, layer-wise rates and freezing, in optax."""

from collections.abc import Sequence
from typing import NamedTuple
from typing import cast

import chex
import jax
import jax.numpy as jnp
import optax

from jmp_hk.models import parameters
from jmp_hk.runtime import compilation
from jmp_hk.training import config as config_lib

_GROUP_FLOOR = (0.01, 0.99)  # Clamp of a group's final fraction, as published.
_NORM_ARRAYS = 32  # What one kernel of the norm reads; XLA joins less than a hundred.


def make_schedule(
  config: config_lib.ScheduleConfig, factor: float = 1.0
) -> optax.Schedule:
  """Learning rate by step: linear warm-up, cosine, constant.

  Args:
    config: peak, lengths and fractions.
    factor: rate factor of a parameter group; it scales the peak and raises the final
      fraction so that every group ends at the same absolute rate.

  Returns:
    A function from the step (0 for the first update) to the rate.
  """
  peak = config.learning_rate * factor
  final = config.final_factor
  if factor != 1.0:
    final = min(max(final / factor, _GROUP_FLOOR[0]), _GROUP_FLOOR[1])
  cosine = optax.cosine_decay_schedule(
    peak, config.decay_steps - config.warmup_steps, alpha=final
  )
  if not config.warmup_steps:
    return cosine
  warmup = optax.linear_schedule(config.warmup_factor * peak, peak, config.warmup_steps)
  return optax.join_schedules([warmup, cosine], [config.warmup_steps])


def check_patterns(config: config_lib.OptimizerConfig, params: chex.ArrayTree) -> None:
  """Checks the patterns of parameters in the settings.

  Args:
    config: the settings.
    params: parameters or their shapes; only paths are read.

  Raises:
    PatternError: a pattern matches no parameter, or all parameters are frozen.
  """
  patterns = [pattern for pattern, _ in config.learning_rate_factors]
  parameters.check_patterns([*patterns, *config.frozen], params)
  if not any(jax.tree.leaves(trainable(config, params))):
    raise parameters.PatternError(
      f"The patterns {', '.join(config.frozen)} freeze all parameters: there would be "
      "nothing to train. Narrow them down."
    )


def make_optimizer(
  config: config_lib.OptimizerConfig, params: chex.ArrayTree
) -> optax.GradientTransformationExtraArgs:
  """Builds the optimiser.

  Args:
    config: the settings.
    params: parameters or their shapes; only paths are read, to check the patterns.

  Returns:
    A transformation whose `update` takes `lr_multiplier`, a scalar that
    multiplies every rate (for reduce-on-plateau).

  Raises:
    PatternError: a pattern matches no parameter, or all parameters are frozen.
  """
  check_patterns(config, params)
  trained = optax.chain(
    _make_clip(config),
    optax.scale_by_adam(config.b1, config.b2, config.eps),
    optax.add_decayed_weights(config.weight_decay),
    scale_by_group_schedule(config.schedule, config.learning_rate_factors),
  )
  if not config.frozen:
    return trained

  def label(tree: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: "frozen" if _is_frozen(config, path) else "trained", tree
    )

  return optax.partition({"trained": trained, "frozen": optax.set_to_zero()}, label)


class GroupScheduleState(NamedTuple):
  """State of `scale_by_group_schedule`.

  Attributes:
    count: [] int32, number of updates so far.
  """

  count: jax.Array


def scale_by_group_schedule(
  config: config_lib.ScheduleConfig, factors: tuple[tuple[str, float], ...]
) -> optax.GradientTransformationExtraArgs:
  """Multiplies updates by minus their group's learning rate.

  Args:
    config: schedule of the group with factor 1.
    factors: ((pattern, factor), ...); the first match counts, else factor 1.

  Returns:
    A transformation that also multiplies by the extra argument `lr_multiplier`.
  """

  def init(params: optax.Params) -> GroupScheduleState:
    del params
    return GroupScheduleState(count=jnp.zeros((), jnp.int32))

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    *,
    lr_multiplier: jax.Array | float = 1.0,
    **extra_args: object,
  ) -> tuple[optax.Updates, optax.OptState]:
    del params, extra_args
    count = cast(GroupScheduleState, state).count
    groups = {factor for _, factor in factors} | {1.0}
    rates = {factor: make_schedule(config, factor)(count) for factor in groups}

    def scale(path: tuple[object, ...], update: jax.Array) -> jax.Array:
      rate = rates[group_factor(factors, parameters.path_name(path))]
      cast = lambda x: jnp.asarray(x, update.dtype)
      return -cast(rate) * cast(lr_multiplier) * update

    scaled = jax.tree_util.tree_map_with_path(scale, updates)
    return scaled, GroupScheduleState(jnp.asarray(optax.safe_increment(count)))

  return optax.GradientTransformationExtraArgs(init, update)


def group_factor(factors: tuple[tuple[str, float], ...], path: str) -> float:
  """Rate factor of a parameter: the first pattern that matches, else 1."""
  for pattern, factor in factors:
    if parameters.matches(pattern, path):
      return factor
  return 1.0


def trainable(
  config: config_lib.OptimizerConfig, params: chex.ArrayTree
) -> chex.ArrayTree:
  """Tree of booleans: which parameters are trained."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not _is_frozen(config, path), params
  )


def _is_frozen(config: config_lib.OptimizerConfig, path: tuple[object, ...]) -> bool:
  name = parameters.path_name(path)
  return any(parameters.matches(pattern, name) for pattern in config.frozen)


def _make_clip(config: config_lib.OptimizerConfig) -> optax.GradientTransformation:
  """The clipping stage of the chain."""
  if config.clip is config_lib.Clip.GLOBAL_NORM:
    return clip_by_global_norm(config.clip_threshold)
  if config.clip is config_lib.Clip.VALUE:
    return optax.clip(config.clip_threshold)
  return optax.identity()


def clip_by_global_norm(threshold: float) -> optax.GradientTransformation:
  """Scales gradients by min(1, threshold / (norm + 1e-6)), as published.

  optax's own transformation lacks the small constant, which moves the reference's
  losses by 1e-10 within five steps.

  Args:
    threshold: largest global norm.
  """

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    del params
    factor = jnp.minimum(1.0, threshold / (global_norm(updates) + 1e-6))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def global_norm(tree: optax.Updates) -> jax.Array:
  """Square root of the sum of all squares, as `optax.global_norm`.

  Rows of all arrays are summed first and their sums in one go. A GPU takes one kernel
  for many arrays whose rows are alike, instead of two for each.

  Args:
    tree: arrays.
  """
  alike: dict[object, list[jax.Array]] = {}
  for leaf in map(jnp.atleast_1d, jax.tree.leaves(tree)):
    alike.setdefault((leaf.shape[1:], leaf.dtype), []).append(leaf)
  rows = [
    jnp.square(jnp.concatenate(some)).sum(-1).ravel()
    for leaves in alike.values()
    for some in _batched(leaves)
  ]
  if not rows:
    return jnp.zeros(())
  # XLA would take the one sum apart again.
  return jnp.sqrt(jax.lax.optimization_barrier(jnp.concatenate(rows)).sum())


def _batched(leaves: Sequence[jax.Array]) -> list[Sequence[jax.Array]]:
  """Arrays that one kernel reads; on a CPU joining them would be a copy."""
  size = 1 if compilation.targets_cpu() else _NORM_ARRAYS
  return [leaves[i : i + size] for i in range(0, len(leaves), size)]
