"""NumPy's arrays, types and numbers in pickles: inert until they are checked.

NumPy's own functions trust what a pickle gives them: a type of objects, for example,
takes any bytes for addresses. Here a pickle only describes types and arrays. The
functions of this module check the description, and make an array of numbers of it.
"""

from collections.abc import Sequence
import math
import re
from typing import Any

import numpy as np

from jmp_hk.interop import inert

# Directions of an array; records have up to three.
MAX_RANK = 8
# Elements along one direction, or of all directions that are not empty.
_MAX_SIZE = 1 << 31
# Kinds of numbers that NumPy's pickles may describe: not objects, texts or dates.
_NUMERIC = re.compile(r"(?:[biu]1|[iuf][248]|\?)")


def check_shape(shape: Any, *others: Any) -> None:
  """Checks a shape from a pickle, and numbers of elements that belong to it.

  Raises:
    PickleError: the shape is no tuple of possible sizes, or a number is impossible.
  """
  if type(shape) is not tuple or len(shape) > MAX_RANK:
    raise inert.PickleError("an array has an impossible shape")
  for size in (*shape, *others):
    if type(size) is not int or not 0 <= size < _MAX_SIZE:
      raise inert.PickleError(
        f"an array has the impossible size {inert.describe(size)}"
      )


def empty(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
  """An array without elements.

  Raises:
    PickleError: its other directions are too long for an array.
  """
  if math.prod(max(size, 1) for size in shape) >= _MAX_SIZE:
    raise inert.PickleError(f"an array has the impossible shape {tuple(shape)}")
  return np.zeros(shape, dtype)


class DType(inert.Described):
  """Describes a type of numbers; `numpy.dtype` is not called by the pickle.

  Attributes:
    code: kind and size, such as "f8".
    order: byte order.
  """

  __slots__ = ("code", "order")

  def __init__(self, code: str) -> None:
    self.code, self.order = code, "<"

  def complete(self, state: Any, budget: inert.Budget) -> None:
    """Takes the byte order; everything else describes types that are refused."""
    del budget
    order = state[1] if isinstance(state, tuple) and len(state) > 2 else None
    if (
      type(order) is not str
      or order not in ("<", ">", "=", "|")
      or state[2:5] != (None,) * len(state[2:5])
    ):
      raise inert.PickleError("expected a plain type of numbers")
    self.order = ">" if order == ">" else "<"

  @property
  def dtype(self) -> np.dtype:
    """The type, which is numeric."""
    return np.dtype(self.order + self.code)


class Array(inert.Described):
  """Describes an array of NumPy, which our code makes once it is checked.

  Attributes:
    array: the array.
  """

  __slots__ = ("array",)

  def __init__(self) -> None:
    self.array = np.zeros(0)

  def complete(self, state: Any, budget: inert.Budget) -> None:
    """Takes version, shape, type, order of the axes and bytes."""
    if type(state) is not tuple or len(state) != 5:
      raise inert.PickleError("expected the five parts of an array")
    _, shape, dtype, is_fortran, data = state
    if type(dtype) is not DType or type(data) is not bytes:
      raise inert.PickleError("expected shape, type of numbers and bytes of an array")
    check_shape(shape)
    budget.take_array(len(data))
    self.array = _from_bytes(data, dtype.dtype, shape, bool(is_fortran))


def _from_bytes(
  data: bytes, dtype: np.dtype, shape: tuple[int, ...], is_fortran: bool
) -> np.ndarray:
  """An array, after a check that there are as many bytes as it has."""
  expected = math.prod(shape) * dtype.itemsize
  if len(data) != expected:
    raise inert.PickleError(
      f"an array of shape {shape} has {expected} bytes, found {len(data)}"
    )
  if not expected:
    return empty(shape, dtype)
  values = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
  return values.astype(dtype.newbyteorder("="))


def _dtype(arguments: tuple[Any, ...], budget: inert.Budget) -> DType:
  """Stands for `numpy.dtype`."""
  del budget
  code = arguments[0] if arguments else None
  if type(code) is not str or not _NUMERIC.fullmatch(code):
    raise inert.PickleError(f"expected a type of numbers, found {inert.describe(code)}")
  return DType(code)


def _reconstruct(arguments: tuple[Any, ...], budget: inert.Budget) -> Array:
  """Stands for NumPy's `_reconstruct`: an array whose parts follow."""
  del arguments
  budget.take_values(1)
  return Array()


def _scalar(arguments: tuple[Any, ...], budget: inert.Budget) -> Any:
  """Stands for NumPy's `scalar`: one number from its bytes."""
  valid = len(arguments) == 2 and type(arguments[0]) is DType
  if not valid or type(arguments[1]) is not bytes:
    raise inert.PickleError("expected the type and the bytes of a number")
  budget.take_values(1)
  return _from_bytes(arguments[1], arguments[0].dtype, (1,), False)[0]


KNOWN: inert.Known = {
  ("numpy", "dtype"): _dtype,
  **{
    (f"numpy.{core}.multiarray", name): function
    for core in ("core", "_core")
    for name, function in (("scalar", _scalar), ("_reconstruct", _reconstruct))
  },
}
