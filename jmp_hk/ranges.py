"""Which numbers a setting takes: its type, its range, and that it is finite.

A configuration declares the ranges of its fields once, in `RANGES`. It checks them
where it is made, and flags that set a field take the same range.
"""

from collections.abc import Mapping
import dataclasses
import math
import numbers
from typing import Any
from typing import ClassVar
from typing import Protocol

_MOST_IN_FULL = 1e12


class RangeError(ValueError):
  """A setting has a number that it cannot have; the message says which it can."""


@dataclasses.dataclass(frozen=True)
class Range:
  """The numbers that a setting takes.

  Attributes:
    least: the smallest one, or None.
    above: a bound that all are larger than, or None.
    most: the largest one, or None.
    below: a bound that all are smaller than, or None.
    is_whole: whether they are integers.
    is_finite: whether infinity is none of them; NaN never is.
  """

  least: float | None = None
  above: float | None = None
  most: float | None = None
  below: float | None = None
  is_whole: bool = False
  is_finite: bool = True

  def contains(self, value: Any) -> bool:
    """Whether a value is such a number; truth values and text are none."""
    kind = numbers.Integral if self.is_whole else numbers.Real
    if isinstance(value, bool) or not issubclass(type(value), kind):
      return False
    if math.isnan(value) or (self.is_finite and math.isinf(value)):
      return False
    return not (
      (self.least is not None and value < self.least)
      or (self.above is not None and value <= self.above)
      or (self.most is not None and value > self.most)
      or (self.below is not None and value >= self.below)
    )

  @property
  def limits(self) -> str:
    """The bounds in words, as "at least 0 and below 1"; "" without any."""
    if self.least is not None and self.most is not None:
      return f"from {_text(self.least)} to {_text(self.most)}"
    bounds = (
      ("at least", self.least),
      ("above", self.above),
      ("at most", self.most),
      ("below", self.below),
    )
    return " and ".join(
      f"{word} {_text(bound)}" for word, bound in bounds if bound is not None
    )

  def __str__(self) -> str:
    """What such a number is, as "a whole number, at least 1"."""
    kind = "a whole number" if self.is_whole else "a number"
    return ", ".join(filter(None, [kind, self.limits]))


def _text(bound: float) -> str:
  """A bound in full where it is a whole number that can be read."""
  return (
    str(int(bound))
    if abs(bound) < _MOST_IN_FULL and bound == int(bound)
    else (f"{bound:g}")
  )


class Ranged(Protocol):
  """A configuration that says which numbers its fields take."""

  RANGES: ClassVar[Mapping[str, Range]]


COUNT = Range(least=0, is_whole=True)
POSITIVE_COUNT = Range(least=1, is_whole=True)
NOT_NEGATIVE = Range(least=0)
POSITIVE = Range(above=0)
FRACTION = Range(least=0, most=1)
DECAY = Range(least=0, below=1)


def check(config: Ranged) -> None:
  """Checks the fields of a configuration that it declares ranges of.

  Args:
    config: a dataclass with `RANGES`, ranges by name of the field.

  Raises:
    RangeError: a field has another number, or no number.
  """
  for name, allowed in config.RANGES.items():
    check_value(name, getattr(config, name), allowed)


def check_value(name: str, value: Any, allowed: Range) -> None:
  """Checks one number.

  Args:
    name: what it is called in the message.
    value: the number.
    allowed: which it may be.

  Raises:
    RangeError: it is another one, or none.
  """
  if not allowed.contains(value):
    raise RangeError(f"{name} must be {allowed}, not {value!r}.")
