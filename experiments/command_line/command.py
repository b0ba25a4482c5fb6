"""How every program of `experiments` runs its command line."""

from collections.abc import Callable
from collections.abc import Sequence
import sys

from absl import flags
from absl import logging

from experiments.command_line import config as config_lib


def run_main(
  run: Callable[[flags.FlagValues], None],
  argv: Sequence[str],
  errors: Callable[[], tuple[type[Exception], ...]] = tuple,
) -> int:
  """Runs a command line; wrong flags and bad input give one line and exit code 1.

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
      raise config_lib.FlagError(f"Unexpected arguments {argv[1:]}.")
    run(flags.FLAGS)
  except Exception as error:
    if not isinstance(error, (config_lib.FlagError, *errors())):
      raise
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  return 0
