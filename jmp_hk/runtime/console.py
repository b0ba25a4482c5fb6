"""Progress bars and log lines: on a terminal, in a notebook, and in a file."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import sys
import time
from typing import Any

from tqdm import auto as tqdm_auto
from tqdm.contrib import logging as tqdm_logging

from jmp_hk.runtime import configuration

logger = logging.getLogger(__name__)

_SECONDS = 30.0  # Between lines where there is no bar.

# Takes the number done, of how many, and optionally a note such as "1,200 structures".
Update = Callable[..., None]


def is_interactive() -> bool:
  """Whether somebody looks on: a terminal or a notebook, where bars can be drawn."""
  return sys.stderr.isatty() or _in_notebook()


def duration(seconds: float) -> str:
  """Hours, minutes and seconds, e.g. "1:02:03"."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}"


@contextlib.contextmanager
def bar(
  total: int | None,
  unit: str,
  description: str = "",
  *,
  initial: int = 0,
  is_shown: bool = True,
) -> Iterator[Any]:
  """A progress bar of tqdm's, above which log lines are written without tearing it.

  Where nobody looks on it draws nothing.

  Args:
    total: number of what there is to do; None where it is not known.
    unit: what is counted, in the singular.
    description: what is done.
    initial: how many are done already.
    is_shown: False draws nothing.

  Yields:
    The bar, see `tqdm.tqdm`.
  """
  with contextlib.ExitStack() as stack:
    drawn = stack.enter_context(
      tqdm_auto.tqdm(
        total=total,
        initial=initial,
        unit=f" {unit}s",
        desc=description or None,
        disable=not (is_shown and is_interactive()),
        dynamic_ncols=True,
      )
    )
    if not drawn.disable:
      # Only loggers that write to the terminal: others would get a second handler.
      loggers = [x for x in (logging.root, logging.getLogger("jmp_hk")) if _writes(x)]
      stack.enter_context(tqdm_logging.logging_redirect_tqdm(loggers))
    yield drawn


@contextlib.contextmanager
def progress(unit: str, description: str, *, is_shown: bool = True) -> Iterator[Update]:
  """Shows how far something is: a bar, or now and then a line of the log.

  Args:
    unit: what is counted, in the singular.
    description: what is done, e.g. "Test".
    is_shown: False shows nothing.

  Yields:
    A function to call with the number done, and of how many.
  """
  with bar(None, unit, description, is_shown=is_shown) as drawn:
    start = last = time.monotonic()

    def update(done: int, total: int, note: str = "") -> None:
      nonlocal last
      if not drawn.disable:
        drawn.total = total
        drawn.set_postfix_str(note, refresh=False)
        drawn.update(done - drawn.n)
        return
      now = time.monotonic()
      if is_shown and done and now - last > _SECONDS:
        last = now
        line = _line(description, done, total, unit, now - start)
        logger.info("%s%s", line, f" ({note})" if note else "")

    yield update


def log_to_stderr(level: int = logging.INFO) -> None:
  """Shows the lines that are logged, with the time; programs call it at their start.

  Other handlers of the root logger that write to the terminal, absl's for example, are
  replaced.

  Args:
    level: lines of lower levels are left out.
  """
  handler = _StderrHandler()
  handler.setFormatter(_Formatter())
  handler.addFilter(configuration.is_worth_reading)
  others = [x for x in logging.root.handlers if not _is_console(x)]
  logging.root.handlers[:] = [*others, handler]
  logging.root.setLevel(level)


class _StderrHandler(logging.StreamHandler):
  """Writes to what `sys.stderr` is at the time."""

  def __init__(self) -> None:
    logging.Handler.__init__(self)

  @property
  def stream(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
    return sys.stderr


class _Formatter(logging.Formatter):
  """The time and the message; warnings and errors say what they are.

  The date is left out on a terminal, where it is today's.
  """

  def __init__(self) -> None:
    date = "%H:%M:%S" if sys.stderr.isatty() else "%Y-%m-%d %H:%M:%S"
    super().__init__("%(asctime)s %(kind)s%(message)s", date)

  def format(self, record: logging.LogRecord) -> str:
    is_notable = record.levelno >= logging.WARNING
    record.kind = f"{record.levelname.lower()}: " if is_notable else ""
    return super().format(record)


def _line(description: str, done: int, total: int, unit: str, seconds: float) -> str:
  rate = done / seconds
  return (
    f"{description}: {done:,} of {total:,} {unit}s, {rate:.3g} {unit}s/s, "
    f"ETA {duration((total - done) / rate)}"
  )


def _writes(target: logging.Logger) -> bool:
  """Whether a logger has a handler of its own that writes to the terminal."""
  return any(map(_is_console, target.handlers))


def _is_console(handler: logging.Handler) -> bool:
  """Whether a handler writes to the terminal."""
  # absl's, which hides its stream, cannot be imported here.
  stream = getattr(getattr(handler, "python_handler", handler), "stream", None)
  return stream is not None and stream in (sys.stderr, sys.stdout)


def _in_notebook() -> bool:
  """Whether this is the kernel of a notebook."""
  shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
  return type(shell).__name__ == "ZMQInteractiveShell"
