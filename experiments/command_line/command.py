"""What every program of `experiments` does with its command line."""

from collections.abc import Callable
from collections.abc import Sequence
import pathlib
import sys

from absl import flags
from absl import logging

FLAGS_FILE = "flags.txt"

# Which machine and how many processes a run uses is no part of it.
_NOT_STORED = (
  "flagfile",
  "coordinator_address",
  "num_processes",
  "process_id",
  "compilation_cache",
)
# Packages that define flags of their own when they are imported.
_FOREIGN_MODULES = ("absl", "chex")


class FlagError(ValueError):
  """Flags that cannot be used; the message says what to do."""


def define(define_flags: Callable[[], None]) -> None:
  """Defines the flags of a program so that its `--help` shows them.

  Args:
    define_flags: defines them in `flags.FLAGS`.
  """
  before = set(flags.FLAGS)
  define_flags()
  for name in set(flags.FLAGS) - before:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def run_main(
  run: Callable[[flags.FlagValues], object],
  argv: Sequence[str],
  errors: Callable[[], tuple[type[Exception], ...]] = tuple,
) -> int:
  """Runs a command line; wrong flags and bad input give one line and exit code 1.

  The lines that the library logs are shown: in a program that `absl.app` has started,
  absl's handler is that of Python's root logger.

  Args:
    run: what to do with the parsed flags.
    argv: what the flags have left over.
    errors: gives the further exceptions that are the user's to mend; asked only when
      something fails, so that it may import what is slow to import.

  Returns:
    The exit code.
  """
  logging.set_verbosity(logging.INFO)
  try:
    if len(argv) > 1:
      raise FlagError(f"Unexpected arguments {argv[1:]}.")
    run(flags.FLAGS)
  except Exception as error:
    if not isinstance(error, (FlagError, *errors())):
      raise
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  return 0


def save_flags(workdir: pathlib.Path, values: flags.FlagValues) -> pathlib.Path:
  """Stores all flags of the project, so that the run can be repeated by them.

  Args:
    workdir: directory of the run.
    values: parsed flags.

  Returns:
    A flag file: `--flagfile=WORKDIR/flags.txt` starts the same run.
  """
  lines = []
  for module, module_flags in sorted(values.flags_by_module_dict().items()):
    if module.split(".")[0] in _FOREIGN_MODULES:
      continue
    for flag in module_flags:
      if flag.name not in _NOT_STORED and flag.value is not None:
        lines += flag.serialize().splitlines()
  path = workdir / FLAGS_FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return path


def require(values: flags.FlagValues, *names: str) -> None:
  """Checks that flags are given.

  Raises:
    FlagError: one is missing; says what it is for.
  """
  for name in names:
    if not values[name].value:
      raise FlagError(f"--{name} is required: {values[name].help}")


def parse_pairs(entries: Sequence[str], flag: str) -> dict[str, str]:
  """Reads NAME=VALUE entries.

  Raises:
    FlagError: an entry reads otherwise, or a name occurs twice.
  """
  result: dict[str, str] = {}
  for entry in entries:
    name, separator, value = entry.partition("=")
    if not separator or not name or not value or name in result:
      raise FlagError(
        f"--{flag}: expected NAME=VALUE with different names, found {entry!r}."
      )
    result[name] = value
  return result
