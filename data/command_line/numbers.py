"""Flags whose value is a number within a range, and numbers inside other flags.

The range of a flag that sets a field of a configuration is that of the field, see
`jmp_hk.ranges`; the flag refuses what the configuration would refuse.
"""

import re
from typing import cast

from absl import flags

from jmp_hk import ranges

# As Python writes numbers, but without underscores and the digits of other scripts.
_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_INFINITE = re.compile(r"\s*[+-]?inf(inity)?\s*", re.IGNORECASE)
_MOST_DIGITS = 18  # Of whole numbers; more do not fit into 64 bits.


def parse(text: str, allowed: ranges.Range) -> int | float:
  """Reads a number.

  Args:
    text: the number as written.
    allowed: which it may be.

  Returns:
    An integer for whole numbers, else a float.

  Raises:
    ValueError: it is none, or another one; says what was expected and found.
  """
  value: int | float | None = None
  if allowed.is_whole:
    if _WHOLE.fullmatch(text) and len(text.strip().lstrip("+-0")) <= _MOST_DIGITS:
      value = int(text)
  elif _NUMBER.fullmatch(text) or _INFINITE.fullmatch(text):
    value = float(text)
  if value is None or not allowed.contains(value):
    raise ValueError(f"expected {allowed}, found {text!r}")
  return value


class WholeParser(flags.IntegerParser):
  """Reads whole numbers of a range."""

  def __init__(self, allowed: ranges.Range) -> None:
    """Takes the range."""
    super().__init__()
    self.allowed = allowed

  def parse(self, argument: int | str) -> int:
    """The number of a text; see `parse`."""
    return cast(int, parse(str(argument), self.allowed))


class FloatParser(flags.FloatParser):
  """Reads numbers of a range."""

  def __init__(self, allowed: ranges.Range) -> None:
    """Takes the range."""
    super().__init__()
    self.allowed = allowed

  def parse(self, argument: float | int | str) -> float:
    """The number of a text; see `parse`."""
    return float(parse(str(argument), self.allowed))


def define(
  name: str,
  default: float | int | None,
  help_text: str,
  allowed: ranges.Range,
  values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Defines a flag whose value is a number.

  Args:
    name: name of the flag.
    default: its default.
    help_text: its help.
    allowed: the numbers that it takes.
    values: where it is defined.
  """
  parser = WholeParser(allowed) if allowed.is_whole else FloatParser(allowed)
  flags.DEFINE(
    parser,  # pyright: ignore[reportArgumentType]
    name,
    default,
    help_text,
    flag_values=values,
    serializer=flags.ArgumentSerializer(),
  )


def allowed_of(flag: flags.Flag) -> ranges.Range | None:
  """The numbers that a flag takes; None for flags of other types.

  Flags that were defined without a range take what is finite within their bounds.
  """
  parser = flag.parser
  if isinstance(parser, (WholeParser, FloatParser)):
    return parser.allowed
  if isinstance(parser, (flags.IntegerParser, flags.FloatParser)):
    return ranges.Range(
      least=parser.lower_bound,
      most=parser.upper_bound,
      is_whole=isinstance(parser, flags.IntegerParser),
    )
  return None


flags.disclaim_key_flags()  # Flags belong to the module that calls `define`.
