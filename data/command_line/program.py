"""What every program does with its command line: help, errors, exit codes."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import os
import sys
import traceback
from typing import NoReturn

from absl import app
from absl import flags

from data.command_line import failures
from data.command_line import flag_help
from data.command_line import mistakes
from jmp_hk.runtime import console
from jmp_hk.runtime import interruption

_HELP = ("help", "h", "helpshort", "?")
_FULL_HELP = ("helpfull",)
TROUBLESHOOTING = "docs/troubleshooting.md"


class FlagError(ValueError):
  """Flags that cannot be used; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Program:
  """A program that is started by `python -m NAME`.

  Attributes:
    name: name of its module.
    description: docstring of its module; `--help` begins with it.
    define_flags: defines its flags, in groups (`flag_help.group`).
    run: what it does with the parsed flags and, where `takes_arguments` is set, with
      the arguments that are no flags.
    required: names of flags that have to be given, which `run` checks.
    errors: gives exceptions that are the user's to mend and give two lines, besides
      those of `failures`; asked only when something fails, so that it may import what
      is slow.
    takes_arguments: whether arguments that are no flags have a meaning.
    complete: turns the arguments into those that are parsed.
  """

  name: str
  description: str | None
  define_flags: Callable[[flags.FlagValues], object]
  run: Callable[..., object]
  required: tuple[str, ...] = ()
  errors: Callable[[], tuple[type[Exception], ...]] = tuple
  takes_arguments: bool = False
  complete: Callable[[Sequence[str]], Sequence[str]] = list

  def start(self) -> NoReturn:
    """Runs the command line of this process, and ends the process."""
    self.define(flags.FLAGS)

    def parse(argv: Sequence[str]) -> list[str]:
      code, others = self._parse(argv[1:], flags.FLAGS)
      if code is not None:
        sys.exit(code)
      return [argv[0], *others]

    app.run(lambda argv: self._run(argv[1:], flags.FLAGS), flags_parser=parse)
    raise AssertionError("absl's app ends the process.")

  def execute(self, arguments: Sequence[str]) -> int:
    """Runs a command line in this process, with flags of its own.

    Args:
      arguments: the command line without the program.

    Returns:
      The exit code.
    """
    values = flags.FlagValues()
    self.define(values)
    code, others = self._parse(arguments, values)
    return self._run(others, values) if code is None else code

  def define(self, values: flags.FlagValues) -> None:
    """Defines the flags, each in a group."""
    before = set(values)
    self.define_flags(values)
    _define_debug(values)
    new = [name for name in values if name not in before]
    flag_help.assign(values, flag_help.OTHER, new)

  def parse(self, arguments: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Parses a command line.

    Afterwards `present` of a flag says whether the command line itself names it; flag
    files, such as that of an earlier run, name all flags.

    Args:
      arguments: the command line without the program.
      values: where the flags are defined.

    Returns:
      The arguments that are no flags.

    Raises:
      FlagError: it cannot be understood; says what was probably meant.
    """
    completed = list(self.complete(arguments))
    find = lambda: mistakes.find(completed, values, takes_others=self.takes_arguments)
    try:
      others = values([self.name, *completed])[1:]
    except (flags.Error, ValueError) as error:
      raise FlagError(find() or str(error)) from error
    problem = find()  # What absl lets pass: stray arguments, numbers that are none.
    if others and not self.takes_arguments and not problem:
      problem = f"unexpected argument {others[0]!r}."  # After "--".
    if problem:
      raise FlagError(problem)
    named = _names(arguments)
    for name in values:
      if not named & {name, f"no{name}"}:
        values[name].present = 0
    return others

  def _parse(
    self, arguments: Sequence[str], values: flags.FlagValues
  ) -> tuple[int | None, list[str]]:
    """The exit code, if the program ends already, and the other arguments."""
    asked = _names(arguments)
    if asked & {*_HELP, *_FULL_HELP}:
      is_full = bool(asked & set(_FULL_HELP))
      text = flag_help.text(
        self.description or "", values, self.required, is_full=is_full
      )
      _print(text)
      return 0, []
    try:
      return None, self.parse(arguments, values)
    except FlagError as error:
      return self._fail(str(error), is_of_flags=True), []

  def _run(self, others: Sequence[str], values: flags.FlagValues) -> int:
    """Runs the program; the lines that the library logs are shown.

    SIGINT and SIGTERM end it in good order with the exit codes 130 and 143, a second
    one at once.
    """
    console.log_to_stderr()
    try:
      with interruption.caught(ends_process=True):
        self.run(values, *([others] if self.takes_arguments else []))
    except interruption.STOPS as error:
      if not error.message:
        print(
          f"Stopped by {interruption.name(error.number)}. What is finished stays; the "
          "same command goes on.",
          file=sys.stderr,
        )
      return error.exit_code
    except Exception as error:
      if "debug" in values and values["debug"].value:
        traceback.print_exc()
      text = failures.sentence(error, self.errors())
      return self._fail(
        text or failures.report(error), is_of_flags=isinstance(error, FlagError)
      )
    return 0

  def _fail(self, text: str, *, is_of_flags: bool) -> int:
    """Says in two lines what is wrong; returns the exit code."""
    hint = f"Run python -m {self.name} --help for all flags"
    if not is_of_flags:
      hint += f", or see {TROUBLESHOOTING}"
    print(f"error: {' '.join(text.split())}\n{hint}.", file=sys.stderr)
    return 1


@flag_help.group("Machine")
def _define_debug(values: flags.FlagValues) -> None:
  flags.DEFINE_bool(
    "debug",
    False,
    "Show the traceback of an error, for reports of bugs.",
    flag_values=values,
  )


def is_chosen(flag: flags.Flag) -> bool:
  """Whether a flag was set on purpose: by the command line, or to another value.

  Flag files of earlier runs name all flags, also those that were left as they are.
  """
  return bool(flag.present) or flag.value != flag.default


def require(values: flags.FlagValues, *names: str) -> None:
  """Checks that flags are given.

  Raises:
    FlagError: some are missing; says what the first is for.
  """
  missing = [name for name in names if not values[name].value]
  if missing:
    first, *others = missing
    what = flag_help.sentence(values[first])
    also = f" Also required: {', '.join(f'--{n}' for n in others)}." if others else ""
    raise FlagError(f"--{first} is required: {what}{also}")


def _print(text: str) -> None:
  """Prints to a terminal or a pipe, which `head` or `less` may close early."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    # Else Python would fail once more when it closes the stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _names(arguments: Sequence[str]) -> set[str]:
  """Names of the flags of a command line, as they are written."""
  return {
    text.lstrip("-").partition("=")[0]
    for text in _before_dashes(arguments)
    if text.startswith("-")
  }


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
  """The arguments before "--", which ends the flags."""
  if "--" not in arguments:
    return arguments
  return arguments[: list(arguments).index("--")]
