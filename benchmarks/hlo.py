"""Reads the text of a program that XLA has compiled: what it runs, and how often."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import math
import re
from typing import NamedTuple

_BYTES = {
  **dict.fromkeys(("pred", "s8", "u8"), 1),
  **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
  **dict.fromkeys(("f32", "s32", "u32"), 4),
  **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
}
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_CALL = re.compile(r"([\w\-]+)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
# What takes neither time nor memory traffic of its own.
_FREE = (
  "parameter",
  "constant",
  "get-tuple-element",
  "tuple",
  "bitcast",
  "after-all",
  "partition-id",
  "replica-id",
  "while",
  "call",
  "conditional",
  "opt-barrier",
)


class Array(NamedTuple):
  """Type of an array.

  Attributes:
    dtype: XLA's name of the data type, e.g. "bf16".
    shape: its dimensions.
  """

  dtype: str
  shape: tuple[int, ...]

  @property
  def num_bytes(self) -> int:
    """Size of the array."""
    return _BYTES[self.dtype] * math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a program.

  Attributes:
    name: its name, without the percent sign.
    result: type of the result, as text.
    opcode: what it does, e.g. "fusion".
    operands: names of the operands.
    attributes: the rest of the line.
    parameter_number: which argument of its computation it is, -1 if it is none.
  """

  name: str
  result: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  parameter_number: int = -1

  @property
  def arrays(self) -> tuple[Array, ...]:
    """Arrays that it returns: several where the result is a tuple."""
    return arrays(self.result)

  @property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that it calls."""
    branches = _BRANCHES.search(self.attributes)
    names = _NAME.findall(branches[1]) if branches else []
    return tuple(_CALLED.findall(self.attributes) + names)

  def attribute(self, pattern: str) -> str:
    """First group of a regular expression in the attributes, "" where there is none."""
    found = re.search(pattern, self.attributes)
    return found[1] if found else ""

  @property
  def source(self) -> str:
    """Where it was traced, as jax names it: transformations, modules, primitive."""
    return self.attribute(r'op_name="([^"]*)"')


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    computations: instructions by name, by name of the computation.
    entry: name of the computation that is run.
  """

  computations: Mapping[str, Computation]
  entry: str

  def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
    """What the device is told to do, with what stands beside it, and how often.

    Insides of loops, calls and branches are given in their place, those of fusions
    are not. A loop whose length the compiler does not know counts once.
    """
    yield from self._executed(self.entry, 1)

  def _executed(
    self, name: str, times: int
  ) -> Iterator[tuple[Computation, Instruction, int]]:
    computation = self.computations[name]
    for instruction in computation.values():
      if instruction.opcode in ("while", "call", "conditional"):
        trips = int(instruction.attribute(_TRIPS.pattern) or 1)
        for called in instruction.called:
          yield from self._executed(called, times * trips)
      elif instruction.opcode not in _FREE:
        yield computation, instruction, times


def arrays(text: str) -> tuple[Array, ...]:
  """The types of arrays that a text names, e.g. those of a tuple."""
  return tuple(
    Array(dtype, tuple(int(n) for n in shape.split(",") if n))
    for dtype, shape in _ARRAY.findall(text)
  )


def parse(text: str) -> Program:
  """Reads a program.

  Args:
    text: `jax.stages.Compiled.as_text()`.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations: dict[str, dict[str, Instruction]] = {}
  current: dict[str, Instruction] = {}
  entry = ""
  for line in text.splitlines():
    if line.startswith(("%", "ENTRY")):
      header = _COMPUTATION.match(line)
      assert header is not None
      current = computations.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
    elif found := _INSTRUCTION.match(line):
      instruction = _parse_instruction(found[1], found[2])
      current[instruction.name] = instruction
  if not entry:
    raise ValueError("The text has no ENTRY computation: it is no HLO module.")
  return Program(computations, entry)


def _parse_instruction(name: str, text: str) -> Instruction:
  """One line, from its type on: `type opcode(operands), attributes`."""
  end = _closing(text) if text.startswith("(") else text.index(" ") - 1
  call = _CALL.match(text[end + 2 :])
  if call is None:
    raise ValueError(f"Expected an instruction of HLO, found: {text[:200]}")
  opcode, rest = call.groups()
  close = _closing("(" + rest) - 1
  operands = tuple(_NAME.findall(rest[:close]))
  number = int(rest[:close]) if opcode == "parameter" else -1
  return Instruction(name, text[: end + 1], opcode, operands, rest[close + 1 :], number)


def _closing(text: str) -> int:
  """Position of the bracket that closes the one that a text begins with."""
  depth = 0
  for position, character in enumerate(text):
    depth += (character == "(") - (character == ")")
    if not depth:
      return position
  raise ValueError(f"A bracket is not closed: {text[:200]}")
