"""Inert values that pickles are read as, and what bounds them.

Names, objects of unknown classes, and descriptions of arrays do nothing whatever a
pickle does to them. The functions here look at them in a bounded time, although they
may share parts as the pickle wants.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

# Values that one pickle makes. A checkpoint of JMP-L with its moving average and the
# state of its optimizer has a tenth of them; more take seconds.
MAX_VALUES = 2_000_000
# Values in a tuple that is a key. Comparing tuples in tuples that share parts would
# take time that grows exponentially with their number.
MAX_KEY_VALUES = 32
# Keys that are tuples. Python's hashes of tuples can be made equal on purpose, and the
# time that a dictionary takes then grows with the square of their number.
MAX_TUPLE_KEYS = 1000
_LARGEST_KEY_BITS = 64  # Equal hashes can be made of longer integers.
_SHOWN = 60  # Letters of a text in a message.


class PickleError(ValueError):
  """Bytes are no readable pickle, or do what is not allowed."""


@dataclasses.dataclass(eq=False, slots=True)
class Name:
  """Something importable that a pickle names; it is never imported.

  Attributes:
    module: the module.
    name: the name in the module.
  """

  module: str
  name: str

  @property
  def origin(self) -> str:
    """Module and name."""
    return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False, slots=True)
class Inert:
  """Stands for an object of an unknown class: it has a state but no behaviour.

  Attributes:
    origin: module and name that the pickle asked for.
    state: state that the pickle gives the object, or None.
  """

  origin: str
  state: Any = None


class Described:
  """A value that a pickle describes in two steps: a call, and a state."""

  __slots__ = ()

  def complete(self, state: Any, budget: "Budget") -> None:
    """Takes the state.

    Raises:
      PickleError: it is not what it has to be.
    """
    raise NotImplementedError


@dataclasses.dataclass(slots=True)
class Budget:
  """What the functions that a caller knows may still make of one pickle.

  Attributes:
    values: number of values.
    array_bytes: bytes of arrays.
  """

  values: int = MAX_VALUES
  array_bytes: int = 0

  def take_values(self, count: int) -> None:
    """Takes some values.

    Raises:
      PickleError: there are not as many left.
    """
    self.values -= count
    if self.values < 0:
      raise PickleError(f"it makes more than {MAX_VALUES} values")

  def take_array(self, count: int) -> None:
    """Takes some bytes of arrays.

    Raises:
      PickleError: there are not as many left.
    """
    self.array_bytes -= count
    if self.array_bytes < 0:
      raise PickleError("its arrays are much larger than the data that it holds")


# Gets the arguments of a call, all inert, and returns what stands for its result.
Function = Callable[[tuple[Any, ...], Budget], Any]
Known = Mapping[tuple[str, str], Function]


def describe(value: Any) -> str:
  """What a value from a pickle is, in a few words and a bounded time."""
  if value is None or type(value) in (bool, int, float):
    return repr(value)
  if type(value) in (str, bytes):
    return repr(value[:_SHOWN]) + ("…" if len(value) > _SHOWN else "")
  if type(value) is Name:
    return f"the name {value.origin[:_SHOWN]}"
  if type(value) is Inert:
    return f"an object of {value.origin[:_SHOWN]}"
  return f"a {type(value).__name__}"


def make_dict(arguments: tuple[Any, ...], budget: Budget) -> dict:
  """Makes a dictionary in place of an ordered or default one.

  The pickle adds the items later. Only old pickles pass them here, as a list of pairs.
  """
  result: dict = {}
  items = arguments[0] if arguments else None
  if isinstance(items, (list, dict)):
    budget.take_values(len(items))
    tuple_keys = 0
    for pair in items.items() if isinstance(items, dict) else items:
      if type(pair) not in (list, tuple) or len(pair) != 2:
        raise PickleError(f"expected pairs of a dictionary, found {describe(pair)}")
      tuple_keys += type(pair[0]) is tuple
      if tuple_keys > MAX_TUPLE_KEYS:
        raise PickleError(f"more than {MAX_TUPLE_KEYS} keys are tuples")
      result[check_key(pair[0])] = pair[1]
  return result


DICTIONARIES: Known = {
  ("collections", "OrderedDict"): make_dict,
  ("collections", "defaultdict"): make_dict,
}

_PLAIN_KEYS = frozenset((str, float, bool, bytes, type(None), Name, Inert))


def check_key(key: Any) -> Any:
  """A key of a dictionary, whose hash takes a bounded time.

  Raises:
    PickleError: it may be none.
  """
  if type(key) in _PLAIN_KEYS:
    return key
  if type(key) is int and key.bit_length() <= _LARGEST_KEY_BITS:
    return key
  if type(key) is not tuple:
    raise PickleError(f"{describe(key)} cannot be a key")
  waiting, count = [key], 0
  while waiting:
    part = waiting.pop()
    count += len(part)
    if count > MAX_KEY_VALUES:
      raise PickleError(f"a key has more than {MAX_KEY_VALUES} values")
    for value in part:
      if type(value) is tuple:
        waiting.append(value)
      else:
        check_key(value)
  return key
