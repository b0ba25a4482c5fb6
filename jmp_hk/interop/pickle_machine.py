"""The state of the machine that pickles are programs for, and what it may do."""

from collections.abc import Callable
from typing import Any

from jmp_hk.interop import inert

# Bytes of one integer. Seeds of random numbers have up to 17.
MAX_INTEGER_BYTES = 64

# Gets a persistent id, which is inert, and returns what it stands for.
PersistentLoad = Callable[[Any], Any]


class Machine:
  """The machine that a pickle is a program for.

  Attributes:
    data: the bytes that hold the pickle.
    position: where in them the next instruction or argument lies.
    known: what is called in place of each (module, name).
    persistent_load: gives what a persistent id stands for; None forbids such ids.
    budget: what the functions of `known` may make.
    stack: values.
    marks: where in the stack the marks stand.
    memo: values that the pickle refers to again, by number.
    tuple_keys: number of keys so far that are tuples.
  """

  __slots__ = (
    "budget",
    "data",
    "known",
    "marks",
    "memo",
    "persistent_load",
    "position",
    "stack",
    "tuple_keys",
  )

  def __init__(
    self,
    data: bytes,
    position: int,
    known: inert.Known,
    persistent_load: PersistentLoad | None,
    budget: inert.Budget,
  ) -> None:
    self.data, self.position = data, position
    self.known, self.persistent_load, self.budget = known, persistent_load, budget
    self.stack: list[Any] = []
    self.marks: list[int] = []  # Where in the stack the marks stand.
    self.memo: dict[int, Any] = {}
    self.tuple_keys = 0

  # Arguments of instructions.

  def take(self, count: int) -> bytes:
    """The next bytes of the pickle."""
    start, end = self.position, self.position + count
    if end > len(self.data):
      raise inert.PickleError(
        f"not a readable pickle: {count} bytes are announced at byte {start}, "
        f"{len(self.data) - start} are left: it is truncated or corrupt"
      )
    self.position = end
    return self.data[start:end]

  def number(self, size: int) -> int:
    """The next bytes of the pickle as a number that is not negative."""
    return int.from_bytes(self.take(size), "little")

  def line(self) -> bytes:
    """The next line of the pickle."""
    start = self.position
    end = self.data.find(b"\n", start)
    if end < 0:
      raise IndexError
    self.position = end + 1
    return self.data[start:end]

  def integer(self, size: int) -> None:
    """Pushes an integer of so many bytes."""
    if size > MAX_INTEGER_BYTES:
      raise inert.PickleError(
        f"an integer has {size} bytes, more than {MAX_INTEGER_BYTES}"
      )
    self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

  def since_mark(self) -> list[Any]:
    """Takes what lies on the stack since the last mark."""
    mark = self.marks.pop()
    items = self.stack[mark:]
    del self.stack[mark:]
    return items

  # Containers.

  def make_tuple(self, count: int) -> None:
    """Replaces the last values by a tuple of them."""
    if len(self.stack) < count:
      raise IndexError
    items = tuple(self.stack[-count:])
    self.stack[-count:] = (items,)

  def add_pairs(self, target: Any, items: list[Any]) -> None:
    """Adds keys and values, one after the other, to a dictionary."""
    if len(items) % 2:
      raise inert.PickleError("not a readable pickle: a key has no value")
    if type(target) is dict:
      for i in range(0, len(items), 2):
        key = items[i]
        target[key if type(key) is str else self.key(key)] = items[i + 1]
    elif type(target) is not inert.Inert:
      raise inert.PickleError(f"it sets an item of {inert.describe(target)}")

  def key(self, key: Any) -> Any:
    """A key of a dictionary or set."""
    if type(key) is tuple:
      self.tuple_keys += 1
      if self.tuple_keys > inert.MAX_TUPLE_KEYS:
        raise inert.PickleError(f"more than {inert.MAX_TUPLE_KEYS} keys are tuples")
    return inert.check_key(key)

  def extend(self, target: Any, items: list[Any]) -> None:
    """Adds items to a list."""
    if type(target) is list:
      target += items
    elif type(target) is not inert.Inert:
      raise inert.PickleError(f"it appends to {inert.describe(target)}")

  def add_to_set(self) -> None:
    """Adds the items since the last mark to the set below it."""
    items = self.since_mark()
    target = self.stack[-1]
    if type(target) is set:
      target.update(map(self.key, items))
    elif type(target) is not inert.Inert:
      raise inert.PickleError(f"it adds to {inert.describe(target)}")

  # Names and objects.

  def push_name(self, module: Any, name: Any) -> None:
    """Pushes a name; nothing is imported."""
    if type(module) is not str or type(name) is not str:
      raise inert.PickleError(
        f"expected a name, found {inert.describe(module)}, {inert.describe(name)}"
      )
    self.stack.append(inert.Name(module, name))

  def call(self, target: Any, arguments: Any) -> None:
    """Pushes what stands for the result of a call; nothing that is named is called."""
    if type(arguments) is not tuple:
      raise inert.PickleError(
        f"expected arguments of a call, found {inert.describe(arguments)}"
      )
    if type(target) is inert.Name:
      function = self.known.get((target.module, target.name))
      if function is None:
        self.stack.append(inert.Inert(target.origin))
      else:
        self.stack.append(function(arguments, self.budget))
    elif type(target) is inert.Inert:
      self.stack.append(inert.Inert(target.origin))
    else:
      raise inert.PickleError(f"it calls {inert.describe(target)}")

  def reduce(self) -> None:
    """Replaces a name and arguments by what stands for the result of the call."""
    arguments = self.stack.pop()
    self.call(self.stack.pop(), arguments)

  def build(self) -> None:
    """Gives a state to the object below it."""
    state = self.stack.pop()
    target = self.stack[-1]
    if type(target) is inert.Inert:
      target.state = state
    elif isinstance(target, inert.Described):
      target.complete(state, self.budget)
    elif type(target) is not dict:  # Attributes of dictionaries are dropped.
      raise inert.PickleError(f"the pickle tries to change {inert.describe(target)}")

  def persistent(self, pid: Any) -> None:
    """Pushes what a persistent id stands for."""
    if self.persistent_load is None:
      raise inert.PickleError("the pickle refers to something outside of it")
    self.stack.append(self.persistent_load(pid))
