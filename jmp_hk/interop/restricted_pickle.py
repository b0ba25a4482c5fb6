"""Interprets pickles without running anything that they name.

A pickle is a program for a small machine with a stack. Python's own machine imports
whatever function the pickle names, and calls it. The one here imports and calls
nothing: every name is an `inert.Name`, every object an `inert.Inert`, and the rest are
numbers, text, bytes and plain containers. Where a pickle calls a name that the caller
of this module knows, the caller's own function is given the inert arguments; it checks
them and returns a value, e.g. the description of a tensor.

The work is bounded before it is done: see the limits below and in `inert`.
"""

import codecs
from collections.abc import Callable
import itertools
import struct
from typing import Any

from jmp_hk.interop import inert
from jmp_hk.interop import pickle_machine

# Instructions of one pickle. A checkpoint of JMP-L with its moving average and the
# state of its optimizer has fewer than a tenth of them; they take about a second.
MAX_INSTRUCTIONS = 2_000_000
# Levels of containers in containers. Checkpoints and records have fewer than 20.
MAX_DEPTH = 200
_NEWEST_PROTOCOL = 5
_SHOWN = 60  # Letters of an error in a message.

_Machine = pickle_machine.Machine
_CONTAINERS = frozenset((dict, list, tuple, set, frozenset, inert.Inert))


def loads(
  data: bytes,
  known: inert.Known,
  persistent_load: pickle_machine.PersistentLoad | None = None,
  budget: inert.Budget | None = None,
) -> Any:
  """Interprets the pickle at the beginning of some bytes.

  Args:
    data: the bytes.
    known: what is called in place of each (module, name).
    persistent_load: gives what a persistent id stands for; None forbids such ids.
    budget: what the functions of `known` may make; by default no arrays.

  Returns:
    The value. It can be nested and share parts as the pickle wants, so that it must
    not be walked through recursively, compared or printed; see `inert.describe`.

  Raises:
    PickleError: the bytes are truncated, corrupt, or do what is not allowed.
  """
  return load_at(data, 0, known, persistent_load, budget or inert.Budget())[0]


def load_at(
  data: bytes,
  position: int,
  known: inert.Known,
  persistent_load: pickle_machine.PersistentLoad | None,
  budget: inert.Budget,
) -> tuple[Any, int]:
  """Interprets one of several pickles, see `loads`; returns also where it ends."""
  machine = pickle_machine.Machine(data, position, known, persistent_load, budget)
  try:
    value = _run(machine)
  except inert.PickleError:
    raise
  except (IndexError, struct.error) as error:
    raise inert.PickleError(
      "not a readable pickle: it is truncated or corrupt"
    ) from error
  except (KeyError, ValueError) as error:
    raise inert.PickleError(f"not a readable pickle: {str(error)[:_SHOWN]}") from error
  _check_depth(value)
  return value, machine.position


def _check_depth(root: Any) -> None:
  """Checks how deep containers lie in containers, level by level."""
  level, seen = [root], set()
  for _ in range(MAX_DEPTH):
    below = []
    for value in level:
      kind = type(value)
      if kind not in _CONTAINERS or id(value) in seen:
        continue
      seen.add(id(value))
      if kind is inert.Inert:
        below.append(value.state)
      else:
        inside = value.values() if kind is dict else value
        below += [part for part in inside if type(part) in _CONTAINERS]
    if not below:
      return
    level = below
  raise inert.PickleError(
    f"the values of the pickle are nested more than {MAX_DEPTH} levels deep"
  )


def _run(machine: pickle_machine.Machine) -> Any:
  """Runs one pickle and returns the value that is left."""
  data = machine.data
  for _ in itertools.repeat(None, MAX_INSTRUCTIONS):
    code = data[machine.position]
    machine.position += 1
    if code == _STOP:
      return machine.stack[-1]
    _INSTRUCTIONS[code](machine)
  raise inert.PickleError(f"the pickle has more than {MAX_INSTRUCTIONS} instructions")


def _utf8(machine: _Machine, size: int) -> None:
  machine.stack.append(machine.take(machine.number(size)).decode("utf-8"))


def _latin1(machine: _Machine, size: int) -> None:
  """Text of Python 2, which may be bytes."""
  machine.stack.append(machine.take(machine.number(size)).decode("latin-1"))


def _bytes(machine: _Machine, size: int) -> None:
  machine.stack.append(machine.take(machine.number(size)))


def _quoted(machine: _Machine) -> None:
  """Text of Python 2 in quotation marks."""
  text = machine.line()
  if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
    raise inert.PickleError("not a readable pickle: a text has no quotation marks")
  decoded, _ = codecs.escape_decode(text[1:-1])
  machine.stack.append(bytes(decoded).decode("latin-1"))


def _raw_unicode(machine: _Machine) -> None:
  machine.stack.append(machine.line().decode("raw-unicode-escape"))


def _decimal(machine: _Machine) -> None:
  """An integer in digits; protocol 0 writes truth values so as well."""
  text = machine.line()
  if len(text) > 2 * pickle_machine.MAX_INTEGER_BYTES:
    raise inert.PickleError(f"an integer has {len(text)} digits")
  truth = {b"00": False, b"01": True}
  machine.stack.append(truth[text] if text in truth else int(text.rstrip(b"L")))


def _float_in_digits(machine: _Machine) -> None:
  machine.stack.append(float(machine.line()[: pickle_machine.MAX_INTEGER_BYTES]))


def _float(machine: _Machine) -> None:
  machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _short_text(machine: _Machine) -> None:
  data, start = machine.data, machine.position + 1
  end = start + data[start - 1]
  if end > len(data):
    raise IndexError
  machine.position = end
  machine.stack.append(data[start:end].decode("utf-8"))


def _byte(machine: _Machine) -> None:
  machine.stack.append(machine.data[machine.position])
  machine.position += 1


def _signed(machine: _Machine) -> None:
  machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _memoize(machine: _Machine) -> None:
  machine.memo[len(machine.memo)] = machine.stack[-1]


def _put(machine: _Machine, index: int) -> None:
  machine.memo[index] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
  if index not in machine.memo:
    raise inert.PickleError(f"not a readable pickle: it has no value number {index}")
  machine.stack.append(machine.memo[index])


def _get_byte(machine: _Machine) -> None:
  index = machine.data[machine.position]
  machine.position += 1
  _get(machine, index)


def _index(machine: _Machine) -> int:
  """The number of a stored value in digits."""
  text = machine.line()
  if not text.isdigit() or len(text) > len(str(MAX_INSTRUCTIONS)):
    raise inert.PickleError("not a readable pickle: a value has no number")
  return int(text)


def _pop(machine: _Machine) -> None:
  if machine.marks and machine.marks[-1] == len(machine.stack):
    machine.marks.pop()
  else:
    machine.stack.pop()


def _pop_mark(machine: _Machine) -> None:
  machine.since_mark()


def _make_dict(machine: _Machine) -> None:
  items = machine.since_mark()
  machine.stack.append({})
  machine.add_pairs(machine.stack[-1], items)


def _set_item(machine: _Machine) -> None:
  value, key = machine.stack.pop(), machine.stack.pop()
  machine.add_pairs(machine.stack[-1], [key, value])


def _set_items(machine: _Machine) -> None:
  items = machine.since_mark()
  machine.add_pairs(machine.stack[-1], items)


def _append(machine: _Machine) -> None:
  item = machine.stack.pop()
  machine.extend(machine.stack[-1], [item])


def _extend(machine: _Machine) -> None:
  items = machine.since_mark()
  machine.extend(machine.stack[-1], items)


def _frozen_set(machine: _Machine) -> None:
  machine.stack.append(frozenset(map(machine.key, machine.since_mark())))


def _global(machine: _Machine) -> None:
  module, name = machine.line(), machine.line()
  machine.push_name(module.decode("utf-8"), name.decode("utf-8"))


def _stack_global(machine: _Machine) -> None:
  name = machine.stack.pop()
  machine.push_name(machine.stack.pop(), name)


def _instance(machine: _Machine) -> None:
  """An object of an old class: its name, and its arguments since the mark."""
  _global(machine)
  name = machine.stack.pop()
  machine.call(name, tuple(machine.since_mark()))


def _object(machine: _Machine) -> None:
  """As above, with the class on the stack."""
  target, *arguments = machine.since_mark() or [None]
  machine.call(target, tuple(arguments))


def _new_with_keywords(machine: _Machine) -> None:
  keywords = machine.stack.pop()
  if type(keywords) is not dict:
    raise inert.PickleError(f"expected keywords, found {inert.describe(keywords)}")
  machine.reduce()


def _persistent_line(machine: _Machine) -> None:
  machine.persistent(machine.line().decode("utf-8"))


def _protocol(machine: _Machine) -> None:
  protocol = machine.number(1)
  if protocol > _NEWEST_PROTOCOL:
    raise inert.PickleError(
      f"expected a pickle of protocol {_NEWEST_PROTOCOL} or older, found {protocol}"
    )


def _frame(machine: _Machine) -> None:
  """The length of the next part, which has to be there."""
  size = machine.number(8)
  if size > len(machine.data) - machine.position:
    raise inert.PickleError(
      f"not a readable pickle: a part of {size} bytes is announced, "
      f"{len(machine.data) - machine.position} are left: it is truncated or corrupt"
    )


def _refuse(machine: _Machine) -> None:
  code = machine.data[machine.position - 1 : machine.position]
  raise inert.PickleError(f"not a readable pickle: it has the instruction {code!r}")


_Instruction = Callable[[_Machine], None]
_STOP = ord(".")
# What is not here is refused: buffers outside the pickle, and registered numbers of
# classes.
_BY_CODE: dict[bytes, _Instruction] = {
  b"(": lambda m: m.marks.append(len(m.stack)),
  b"0": _pop,
  b"1": _pop_mark,
  b"2": lambda m: m.stack.append(m.stack[-1]),
  b"N": lambda m: m.stack.append(None),
  b"\x88": lambda m: m.stack.append(True),
  b"\x89": lambda m: m.stack.append(False),
  b"I": _decimal,
  b"L": _decimal,
  b"J": _signed,
  b"K": _byte,
  b"M": lambda m: m.stack.append(m.number(2)),
  b"\x8a": lambda m: m.integer(m.number(1)),
  b"\x8b": lambda m: m.integer(m.number(4)),
  b"F": _float_in_digits,
  b"G": _float,
  b"S": _quoted,
  b"U": lambda m: _latin1(m, 1),
  b"T": lambda m: _latin1(m, 4),
  b"V": _raw_unicode,
  b"\x8c": _short_text,
  b"X": lambda m: _utf8(m, 4),
  b"\x8d": lambda m: _utf8(m, 8),
  b"C": lambda m: _bytes(m, 1),
  b"B": lambda m: _bytes(m, 4),
  b"\x8e": lambda m: _bytes(m, 8),
  b"\x96": lambda m: _bytes(m, 8),
  b")": lambda m: m.stack.append(()),
  b"\x85": lambda m: m.make_tuple(1),
  b"\x86": lambda m: m.make_tuple(2),
  b"\x87": lambda m: m.make_tuple(3),
  b"t": lambda m: m.stack.append(tuple(m.since_mark())),
  b"]": lambda m: m.stack.append([]),
  b"l": lambda m: m.stack.append(m.since_mark()),
  b"a": _append,
  b"e": _extend,
  b"}": lambda m: m.stack.append({}),
  b"d": _make_dict,
  b"s": _set_item,
  b"u": _set_items,
  b"\x8f": lambda m: m.stack.append(set()),
  b"\x90": lambda m: m.add_to_set(),
  b"\x91": _frozen_set,
  b"\x94": _memoize,
  b"p": lambda m: _put(m, _index(m)),
  b"q": lambda m: _put(m, m.number(1)),
  b"r": lambda m: _put(m, m.number(4)),
  b"g": lambda m: _get(m, _index(m)),
  b"h": _get_byte,
  b"j": lambda m: _get(m, m.number(4)),
  b"c": _global,
  b"\x93": _stack_global,
  b"i": _instance,
  b"o": _object,
  b"R": lambda m: m.reduce(),
  b"\x81": lambda m: m.reduce(),
  b"\x92": _new_with_keywords,
  b"b": lambda m: m.build(),
  b"P": _persistent_line,
  b"Q": lambda m: m.persistent(m.stack.pop()),
  b"\x80": _protocol,
  b"\x95": _frame,
}
_INSTRUCTIONS = [_BY_CODE.get(bytes((code,)), _refuse) for code in range(256)]
