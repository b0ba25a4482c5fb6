"""SIGINT and SIGTERM: an orderly end, and at the second signal an immediate one."""

from collections.abc import Iterator
import contextlib
import logging
import os
import select
import signal
import threading
import time
import types

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHELL = 128  # Exit codes of programs that a signal ended begin here.
# Terminals and launchers may send the same signal twice, to a process and to its group.
_REPEAT_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0  # An end that takes longer is announced.
_active: list["Signals"] = []  # At most one.


class Interrupted(KeyboardInterrupt):
  """SIGINT ended the work in good order.

  Attributes:
    message: what was finished, as a sentence that has been logged; "" before anybody
      has said something.
    number: number of the signal.
    exit_code: exit code of a program that ends for this reason.
  """

  number = signal.SIGINT
  exit_code = _SHELL + number

  def __init__(self, message: str = "") -> None:
    """Takes the message."""
    super().__init__(message)
    self.message = message


class Terminated(SystemExit):
  """SIGTERM ended the work in good order; attributes as of `Interrupted`."""

  number = signal.SIGTERM
  exit_code = _SHELL + number

  def __init__(self, message: str = "") -> None:
    """Takes the message."""
    super().__init__(self.exit_code)
    self.message = message


Stop = Interrupted | Terminated
STOPS = (Interrupted, Terminated)


def stop(number: int, message: str = "") -> Stop:
  """The exception to raise for a signal."""
  return (Interrupted if number == signal.SIGINT else Terminated)(message)


def name(number: int) -> str:
  """Name of a signal, e.g. "SIGINT"."""
  return signal.Signals(number).name


class Signals:
  """The signals that have come.

  The first one raises `Interrupted` or `Terminated` in the main thread; while
  `is_deferred` is true it is only noted, and whoever has set that looks at `received`
  now and then, finishes its work and raises. A second one does not wait.

  Attributes:
    received: number of the first signal, or 0.
    is_deferred: whether the first signal is only noted.
  """

  def __init__(self, *, ends_process: bool = False) -> None:
    """Nothing has come yet.

    Args:
      ends_process: whether a second signal ends the process at once, also in the
        middle of a compilation. Otherwise it raises as soon as Python goes on.
    """
    self.received = 0
    self.is_deferred = False
    self._ends_process = ends_process
    self._first_time = 0.0

  def handle(self, number: int, frame: types.FrameType | None = None) -> None:
    """Called by Python in the main thread."""
    del frame
    if not self.received:
      self.received, self._first_time = number, time.monotonic()
      if self.is_deferred:
        return
    elif _is_repeated(self._first_time):
      return
    raise stop(number)

  def watch(self, reader: int) -> None:
    """Follows the signals in a thread; the main one may be busy outside Python.

    Args:
      reader: end of a pipe into which Python writes the number of every signal.
    """
    first, first_time, patience = 0, 0.0, None
    while True:
      if not select.select([reader], [], [], patience)[0]:
        patience = None
        logger.warning(
          "%s: finishing what is under way (a step, a compilation, a checkpoint); a "
          "second signal ends the %s at once.",
          name(first),
          "program" if self._ends_process else "call",
        )
        continue
      numbers = os.read(reader, 64)
      if not numbers:
        return
      for number in set(numbers) & set(_SIGNALS):
        if not first:
          first, first_time, patience = number, time.monotonic(), _PATIENCE_SECONDS
        elif self._ends_process and not _is_repeated(first_time):
          os.write(2, f"Ended at once by a second {name(number)}.\n".encode())
          os._exit(_SHELL + number)


def _is_repeated(first_time: float) -> bool:
  return time.monotonic() - first_time < _REPEAT_SECONDS


@contextlib.contextmanager
def caught(*, ends_process: bool = False) -> Iterator[Signals]:
  """Takes SIGINT and SIGTERM over; afterwards the previous handlers are back.

  Inside another such block it gives that block's signals, and outside the main thread,
  where Python delivers none, it gives some that never come. A signal that the process
  ignores stays ignored.

  Args:
    ends_process: see `Signals`.
  """
  if _active:
    yield _active[0]
    return
  signals = Signals(ends_process=ends_process)
  if threading.current_thread() is not threading.main_thread():
    yield signals
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  thread = threading.Thread(
    target=signals.watch, args=(reader,), name="signals", daemon=True
  )
  thread.start()
  before_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  before = {
    number: signal.signal(number, signals.handle)
    for number in _SIGNALS
    if signal.getsignal(number) is not signal.SIG_IGN
  }
  _active.append(signals)
  try:
    yield signals
  finally:
    _active.clear()
    for number, handler in before.items():
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    signal.set_wakeup_fd(before_fd)
    os.close(writer)
    thread.join()
    os.close(reader)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
  """Lets a block come to its end before a signal that has come is raised.

  For what must not be left in the middle: jax goes on compiling in a thread of its own
  where the call is interrupted, and the process then ends with a segmentation fault.
  """
  if not _active or _active[0].is_deferred:
    yield
    return
  signals = _active[0]
  signals.is_deferred = True
  try:
    yield
  finally:
    signals.is_deferred = False
  if signals.received:
    raise stop(signals.received)
