"""An unpickler that knows a given list of names and runs nothing else.

A pickle may name any importable function and have it called. Here every name is looked
up in a table that the caller gives, and nothing is ever imported. A name outside the
table becomes a class of inert objects, which accept whatever a pickle does to them and
do nothing. Functions of the table are wrapped so that a pickle cannot change them.
"""

from collections.abc import Callable
from collections.abc import Mapping
import io
import pickle
from typing import Any
from typing import BinaryIO

Known = Mapping[tuple[str, str], Any]


class PickleError(ValueError):
  """Bytes are no readable pickle, or do what is not allowed."""


class Inert:
  """Stands for an object of an unknown class: it has a state but no behaviour.

  Attributes:
    origin: module and name that the pickle asked for.
    state: state that the pickle gives the object, or None.
  """

  origin = ""
  state: Any = None

  def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
    """Accepts any arguments."""
    del args, kwargs
    return super().__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any) -> None:
    del args, kwargs

  def __setstate__(self, state: Any) -> None:
    self.state = state

  def __setitem__(self, key: Any, value: Any) -> None:
    """Accepts what pickles of dictionaries do."""

  def append(self, item: Any) -> None:
    """Accepts what pickles of lists do."""

  def extend(self, items: Any) -> None:
    """Accepts what pickles of lists do."""

  def add(self, item: Any) -> None:
    """Accepts what pickles of sets do."""


class Function:
  """A function that a pickle may call but not change."""

  __slots__ = ("_call",)

  def __init__(self, call: Callable[..., Any]) -> None:
    object.__setattr__(self, "_call", call)

  def __call__(self, *args: Any) -> Any:
    """Calls the function."""
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
  """Makes a dictionary in place of an ordered or default one.

  The pickle adds the items later. Only old pickles pass them here, as a list of pairs.
  """
  return (
    PlainDict(args[0]) if args and isinstance(args[0], (list, dict)) else PlainDict()
  )


DICTIONARIES: Known = {
  ("collections", "OrderedDict"): Function(make_dict),
  ("collections", "defaultdict"): Function(make_dict),
}


class Unpickler(pickle.Unpickler):
  """Unpickles with a table of known names."""

  def __init__(
    self,
    file: BinaryIO,
    known: Known,
    persistent_load: Callable[[Any], Any] | None = None,
  ) -> None:
    """Makes an unpickler.

    Args:
      file: the file, which holds one pickle.
      known: what each (module, name) stands for; functions are wrapped in `Function`.
      persistent_load: gives what a persistent id stands for; None forbids such ids.
    """
    super().__init__(file)
    self._known = known
    self._persistent_load = persistent_load

  def find_class(self, module: str, name: str) -> Any:
    """Looks a name up in the table; never imports."""
    if (module, name) in self._known:
      return self._known[module, name]
    return type("Inert", (Inert,), {"origin": f"{module}.{name}"})

  def persistent_load(self, pid: Any) -> Any:
    """What a persistent id stands for.

    Raises:
      PickleError: such ids are not allowed.
    """
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
