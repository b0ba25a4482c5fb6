"""Parameters by path: patterns, flat dictionaries, counts."""

from collections.abc import Mapping
from collections.abc import Sequence
import re
from typing import TypeVar

import chex
import haiku as hk
import jax
import numpy as np

Flat = dict[str, np.ndarray]
TreeT = TypeVar("TreeT")


class PatternError(ValueError):
  """A pattern of parameters' paths cannot be used; the message says why."""


def path_name(path: jax.tree_util.KeyPath) -> str:
  """A parameter's path as text, e.g. "gemnet_oc/block_0/dense/w"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def path_names(tree: chex.ArrayTree) -> list[str]:
  """Paths of all leaves in the order of `jax.tree.leaves`."""
  return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def matches(pattern: str, path: str) -> bool:
  """Whether the regular expression occurs in the path."""
  return re.search(pattern, path) is not None


def check_patterns(patterns: Sequence[str], tree: chex.ArrayTree) -> None:
  """Checks that every pattern matches some parameter.

  Raises:
    PatternError: one matches none, or is no regular expression; the message shows what
      there is.
  """
  names = path_names(tree)
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      raise PatternError(
        f"The pattern {pattern!r} is no regular expression: {error}."
      ) from error
    if not any(matches(pattern, name) for name in names):
      raise PatternError(
        f"The pattern {pattern!r} matches no parameter; parameters are called "
        f"{', '.join(names[:8])}{', …' if len(names) > 8 else ''}."
      )


def count(tree: chex.ArrayTree) -> int:
  """Number of scalars in a tree."""
  return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def flatten(tree: chex.ArrayTree) -> Flat:
  """All leaves as NumPy copies by path.

  The copies own their memory: on CPU a plain `np.asarray` may be a view of a buffer
  that a donating step overwrites.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  for _, leaf in leaves:
    if isinstance(leaf, jax.Array):
      leaf.copy_to_host_async()
  return {path_name(path): np.array(leaf) for path, leaf in leaves}


def unflatten(flat: Mapping[str, np.ndarray], target: TreeT) -> TreeT:
  """Inverse of `flatten`: puts values into the structure of `target`.

  Args:
    flat: values by path.
    target: tree of arrays or `jax.ShapeDtypeStruct`.

  Returns:
    A tree like `target` with NumPy leaves of the target's dtypes.

  Raises:
    ValueError: a path is missing or unknown, or a shape differs; names all of them.
  """
  leaves = jax.tree_util.tree_leaves_with_path(target)
  wanted = {path_name(path): leaf for path, leaf in leaves}
  problems = [f"{name} is missing" for name in wanted if name not in flat]
  problems += [f"{name} is unknown" for name in flat if name not in wanted]
  problems += [
    f"{name} has shape {np.shape(flat[name])} instead of {leaf.shape}"
    for name, leaf in wanted.items()
    if name in flat and np.shape(flat[name]) != tuple(leaf.shape)
  ]
  if problems:
    raise ValueError("The weights do not match the model: " + "; ".join(problems) + ".")
  values = [np.asarray(flat[name], leaf.dtype) for name, leaf in wanted.items()]
  return jax.tree.unflatten(jax.tree.structure(target), values)


def to_haiku(flat: Mapping[str, np.ndarray]) -> hk.MutableParams:
  """Haiku's two-level parameter dictionary from values by path."""
  params: hk.MutableParams = {}
  for path, value in flat.items():
    module, _, name = path.rpartition("/")
    # Haiku takes NumPy's arrays as well as jax's.
    params.setdefault(module, {})[name] = value  # pyright: ignore[reportArgumentType]
  return params
