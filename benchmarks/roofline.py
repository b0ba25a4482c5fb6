"""What a compiled GPU program costs at least: kernels, memory traffic, arithmetic.

Every kernel is taken to last as long as the slowest of three: its launch, moving its
operands and results, its matrix products. It is an optimistic estimate, which knows
nothing of caches, occupancy or atomic additions; it shows where traffic and kernels
come from, and compares two versions of a program.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
import pathlib
import re

from benchmarks import hlo
from jmp_hk.models.gemnet_oc import kernels as kernels_lib

_LAUNCH_S = 2.5e-6
_BANDWIDTH = 0.8  # Part of the memory's nominal rate that kernels reach.
_DESCRIPTIONS = pathlib.Path(__file__).parent / "cards"
_GEMM = re.compile(r"gemm|cublas|cudnn\$|triton_dot", re.IGNORECASE)
_OWN = "__gpu$xla.gpu.triton"  # What Pallas makes of `gemnet_oc.kernels`.
_LAYOUT = re.compile(r"\w+\(|\)|\[[^\]]*\]")
_SLICES = ("gather", "dynamic-slice", "slice")
_VIEWS = ("bitcast", "convert", "reshape", "transpose", "copy")
_NARROW = ("bf16", "f16")


@dataclasses.dataclass(frozen=True)
class Card:
  """A card that programs are compiled for.

  Attributes:
    name: name of its description in `benchmarks/cards`.
    rates: operations per second that large matrix products reach, by precision.
  """

  name: str
  rates: Mapping[str, float]

  @functools.cached_property
  def description(self) -> str:
    """What XLA needs to know of the card (a `GpuTargetConfigProto` as text)."""
    return (_DESCRIPTIONS / f"{self.name}.txtpb").read_text()

  @property
  def bandwidth(self) -> float:
    """Nominal rate of its memory, bytes per second."""
    return self._number("memory_bandwidth")

  @property
  def memory_gb(self) -> float:
    """Size of its memory, 10^9 bytes."""
    return self._number("device_memory_size") / 1e9

  def _number(self, field: str) -> float:
    found = re.search(rf"\b{field}: (\d+)", self.description)
    assert found is not None, field
    return float(found[1])


_HOPPER = {"bf16": 600e12, "tf32": 280e12, "f32": 48e12, "f64": 30e12}
_AMPERE = {"bf16": 250e12, "tf32": 125e12, "f32": 16e12, "f64": 9e12}
CARDS = {
  "a100": Card("a100", _AMPERE),
  "h100": Card("h100", _HOPPER),
  "h200": Card("h200", _HOPPER),
}


@dataclasses.dataclass(frozen=True)
class Kernel:
  """One instruction of the device, and what it moves and computes each time.

  Attributes:
    kind: opcode, with the kind of a fusion or the target of a custom call.
    source: where it was traced, see `module_of`.
    times: how often it runs in a step.
    num_bytes: bytes read and written.
    flops: operations of its matrix products.
    precision: what those are computed in: "bf16", "tf32", "f32" or "f64".
  """

  kind: str
  source: str
  times: int
  num_bytes: int
  flops: int
  precision: str

  def seconds(self, card: Card) -> float:
    """Least time of all its runs together."""
    moving = self.num_bytes / (_BANDWIDTH * card.bandwidth)
    computing = self.flops / card.rates[self.precision]
    return self.times * max(_LAUNCH_S, moving, computing)


def kernels(program: hlo.Program) -> list[Kernel]:
  """Everything that a program runs on the device."""
  return [
    _kernel(program, computation, instruction, times)
    for computation, instruction, times in program.executed()
  ]


def module_of(source: str) -> str:
  """Pass and module of an instruction, with the numbers of blocks and layers left out.

  Args:
    source: `hlo.Instruction.source`.

  Returns:
    E.g. "backward backbone/int_blocks/quad_interaction".
  """
  way = "backward" if "transpose(" in source else "forward"
  parts = _LAYOUT.sub("", source).split("/")
  if "backbone" not in parts and not any(part.startswith("out_") for part in parts):
    named = [part for part in parts if part not in ("", "jit", "shard_map")]
    return "/".join(named[:2]) or "unnamed"
  start = next(
    i for i, part in enumerate(parts) if part == "backbone" or part.startswith("out_")
  )
  modules = [re.sub(r"_\d+$", "", part) for part in parts[start : start + 3]]
  return f"{way} {'/'.join(modules)}"


def summary(
  found: Sequence[Kernel], card: Card, dense_flops: float, precision: str
) -> dict[str, object]:
  """The columns that a line of results shows.

  Args:
    found: kernels of a step.
    card: what it runs on.
    dense_flops: operations of the dense layers on real rows, see `flops`.
    precision: what they are to be computed in, whose rate utilisation is relative to.
  """
  products = [kernel for kernel in found if kernel.flops]
  others = [kernel for kernel in found if not kernel.flops]
  seconds = _seconds(found, card)
  arithmetic = {}
  for kernel in products:
    tera = kernel.times * kernel.flops / 1e12
    arithmetic[kernel.precision] = arithmetic.get(kernel.precision, 0.0) + tera
  return {
    "roofline_ms": round(1e3 * seconds, 2),
    "utilisation": round(dense_flops / (seconds * card.rates[precision]), 4),
    "products_ms": round(1e3 * _seconds(products, card), 2),
    "products_arithmetic_ms": round(
      1e3 * sum(k.times * k.flops / card.rates[k.precision] for k in products), 2
    ),
    "products_tflop": {name: round(value, 4) for name, value in arithmetic.items()},
    "products": sum(kernel.times for kernel in products),
    "products_gb": _gigabytes(products),
    "others_ms": round(1e3 * _seconds(others, card), 2),
    "others": sum(kernel.times for kernel in others),
    "others_gb": _gigabytes(others),
    "kernels": _count_kinds(found),
    "largest": _largest(found, card),
  }


def _seconds(found: Iterable[Kernel], card: Card) -> float:
  return sum(kernel.seconds(card) for kernel in found)


def _gigabytes(found: Iterable[Kernel]) -> float:
  return round(sum(kernel.times * kernel.num_bytes for kernel in found) / 1e9, 2)


def _count_kinds(found: Iterable[Kernel]) -> dict[str, int]:
  counts: dict[str, int] = {}
  for kernel in found:
    counts[kernel.kind] = counts.get(kernel.kind, 0) + kernel.times
  return dict(sorted(counts.items(), key=lambda entry: -entry[1]))


def _largest(
  found: Iterable[Kernel], card: Card, count: int = 10
) -> list[dict[str, object]]:
  """The modules that take most of the time, products apart from the rest."""
  groups: dict[tuple[str, bool], list[Kernel]] = {}
  for kernel in found:
    groups.setdefault((kernel.source, bool(kernel.flops)), []).append(kernel)
  ordered = sorted(groups.items(), key=lambda entry: -_seconds(entry[1], card))
  return [
    {
      "source": source + (" (products)" if are_products else ""),
      "ms": round(1e3 * _seconds(group, card), 2),
      "gb": _gigabytes(group),
      "kernels": sum(kernel.times for kernel in group),
    }
    for (source, are_products), group in ordered[:count]
  ]


def _kernel(
  program: hlo.Program,
  computation: hlo.Computation,
  instruction: hlo.Instruction,
  times: int,
) -> Kernel:
  """Counts one instruction."""
  kind = instruction.opcode
  inside: Sequence[hlo.Instruction] = (instruction,)
  names = computation
  result = sum(array.num_bytes for array in instruction.arrays)
  if kind == "fusion":
    kind = "fusion " + instruction.attribute(r"kind=k(\w+)")
    names = program.computations[instruction.called[0]]
    inside = tuple(names.values())
  elif kind == "custom-call":
    kind = instruction.attribute(r'custom_call_target="([^"]*)"')
    # Workspace of libraries is counted as bytes of type s8, but is not traffic.
    result = sum(a.num_bytes for a in instruction.arrays if a.dtype != "s8")
  flops, precision = 0, "f32"
  for entry in inside:
    if entry.opcode == "dot" or (entry is instruction and _GEMM.search(kind)):
      flops += _dot_flops(names, entry)
      precision = _dot_precision(names, entry)
  if kind == _OWN:
    flops, precision = _own_flops(computation, instruction), "bf16"
  return Kernel(
    kind,
    module_of(instruction.source),
    times,
    result + _bytes_read(computation, instruction, names, result),
    flops,
    precision,
  )


def _bytes_read(
  computation: hlo.Computation,
  instruction: hlo.Instruction,
  inside: hlo.Computation,
  result: int,
) -> int:
  """Bytes of the operands, of which slices and gathers read only what they return."""
  total = 0
  for position, name in enumerate(instruction.operands):
    if name not in computation:
      continue
    size = sum(array.num_bytes for array in computation[name].arrays)
    if instruction.opcode == "fusion":
      size = min(size, _bytes_of_parameter(inside, position, size))
    elif instruction.opcode == "gather":
      size = min(size, result)
    total += size
  return total


def _bytes_of_parameter(inside: hlo.Computation, position: int, size: int) -> int:
  """What a fusion reads of one of its operands."""
  parameters = [
    entry.name for entry in inside.values() if entry.parameter_number == position
  ]
  if not parameters:
    return size
  views, users = {parameters[0]}, []
  for entry in inside.values():  # Operands stand before what uses them.
    if views.isdisjoint(entry.operands):
      continue
    if entry.opcode in _VIEWS:
      views.add(entry.name)
    elif entry.operands[0] in views and views.isdisjoint(entry.operands[1:]):
      users.append(entry)
    else:
      return size
  element = size // max(math.prod(inside[parameters[0]].arrays[0].shape), 1)
  if users and all(user.opcode in _SLICES for user in users):
    return sum(element * math.prod(user.arrays[0].shape) for user in users)
  if users and all(user.opcode == "dynamic-update-slice" for user in users):
    return 0
  return size


def _dot_flops(names: hlo.Computation, dot: hlo.Instruction) -> int:
  """Operations of a matrix product: twice its results times the length of its sums."""
  left = names[dot.operands[0]].arrays[0].shape
  found = dot.attribute(r'lhs_contracting_dim(?:s=\{|ensions":\[)([^}\]]*)')
  summed = math.prod(left[int(axis)] for axis in re.findall(r"\d+", found))
  return 2 * math.prod(dot.arrays[0].shape) * summed


def _own_flops(names: hlo.Computation, call: hlo.Instruction) -> int:
  """Operations of a kernel of our own, see `kernels.NUM_PRODUCTS`."""
  (name,) = re.findall(r"(\w+)\)*/pallas_call", call.source)
  (rows, _), *_ = (array.shape for array in call.arrays)
  weight = names[call.operands[-1]].arrays[0].shape
  return kernels_lib.NUM_PRODUCTS[name] * 2 * rows * math.prod(weight)


def _dot_precision(names: hlo.Computation, dot: hlo.Instruction) -> str:
  """What a card computes a product in; `DEFAULT` of float32 is TensorFloat-32."""
  dtype = names[dot.operands[0]].arrays[0].dtype
  if dtype in _NARROW:
    return "bf16"
  if dtype == "f64":
    return "f64"
  exact = dot.attribute(r'operand_precision(?:=\{|":\[)([^}\]]*)').lower()
  return "f32" if "highest" in exact else "tf32"
