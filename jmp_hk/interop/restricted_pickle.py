"""An unpickler that knows a given list of names and runs nothing else.

A pickle may name any importable function and have it called. Here every name is looked
up in a table that the caller gives; nothing is ever imported, and a name outside the
table becomes a class of inert objects, which take whatever a pickle does to them and do
nothing. Functions of the table are wrapped so that a pickle cannot change them.
"""

from collections.abc import Callable
from collections.abc import Mapping
import io
import pickle
from typing import Any
from typing import BinaryIO

Known = Mapping[tuple[str, str], Any]


class PickleError(ValueError):
  """Bytes are no readable pickle, or hold what they must not."""


class Inert:
  """Stands for an object of an unknown class, with its state and without behaviour.

  Attributes:
    origin: module and name that the pickle asked for.
    state: what the pickle sets it to, or None.
  """

  origin = ""
  state: Any = None

  def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
    del args, kwargs
    return super().__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any) -> None:
    del args, kwargs

  def __setstate__(self, state: Any) -> None:
    self.state = state

  def __setitem__(self, key: Any, value: Any) -> None:
    """Takes what pickles of dictionaries do."""

  def append(self, item: Any) -> None:
    """Takes what pickles of lists do."""

  def extend(self, items: Any) -> None:
    """Takes what pickles of lists do."""

  def add(self, item: Any) -> None:
    """Takes what pickles of sets do."""


class Function:
  """A function that a pickle may call but not change."""

  __slots__ = ("_call",)

  def __init__(self, call: Callable[..., Any]) -> None:
    object.__setattr__(self, "_call", call)

  def __call__(self, *args: Any) -> Any:
    return self._call(*args)

  def __setattr__(self, name: str, value: Any) -> None:
    raise PickleError(f"the pickle tries to change a function ({name})")

  def __setstate__(self, state: Any) -> None:
    raise PickleError("the pickle tries to change a function")


class PlainDict(dict):
  """A dictionary that ignores attributes which a pickle wants to set."""

  __slots__ = ()

  def __setstate__(self, state: Any) -> None:
    del state


def make_dict(*args: Any) -> PlainDict:
  """An ordered or default dictionary, without its default; items come later.

  Old pickles give an ordered dictionary its items as a list of pairs.
  """
  return (
    PlainDict(args[0]) if args and isinstance(args[0], (list, dict)) else PlainDict()
  )


DICTIONARIES: Known = {
  ("collections", "OrderedDict"): Function(make_dict),
  ("collections", "defaultdict"): Function(make_dict),
}


class Unpickler(pickle.Unpickler):
  """See the module."""

  def __init__(
    self,
    file: BinaryIO,
    known: Known,
    persistent_load: Callable[[Any], Any] | None = None,
  ) -> None:
    """Makes an unpickler.

    Args:
      file: of one pickle.
      known: what (module, name) stands for; functions as `Function`.
      persistent_load: what a persistent id stands for; if None there may be none.
    """
    super().__init__(file)
    self._known = known
    self._persistent_load = persistent_load

  def find_class(self, module: str, name: str) -> Any:
    """Looks a name up; never imports."""
    if (module, name) in self._known:
      return self._known[module, name]
    return type("Inert", (Inert,), {"origin": f"{module}.{name}"})

  def persistent_load(self, pid: Any) -> Any:
    if self._persistent_load is None:
      raise PickleError("the pickle refers to something outside of it")
    return self._persistent_load(pid)


def loads(
  data: bytes, known: Known, persistent_load: Callable[[Any], Any] | None = None
) -> Any:
  """Unpickles bytes; arguments as of `Unpickler`.

  Raises:
    PickleError: the bytes are truncated, corrupt, or do what is not allowed.
  """
  try:
    return Unpickler(io.BytesIO(data), known, persistent_load).load()
  except PickleError:
    raise
  except Exception as error:  # A corrupt pickle may raise nearly anything.
    raise PickleError(f"not a readable pickle: {error}") from error
