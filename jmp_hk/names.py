"""Names that become parts of paths, of parameters and of metrics.

Datasets, splits, tasks, heads and labels have names that users choose, and that files
and folders are called by. One rule holds for all of them.
"""

import re

MAX_LETTERS = 100
# No separators of paths, flags or patterns, no spaces, and nothing like "..".
_NAME = re.compile(r"\w[\w.+-]*")


class InvalidNameError(ValueError):
  """A name cannot be part of a path; the message says which, and what can."""


def find_problem(name: str) -> str:
  """What is wrong with a name, as a clause; "" where nothing is."""
  if _NAME.fullmatch(name) and len(name) <= MAX_LETTERS:
    return ""
  shown = name if len(name) <= MAX_LETTERS else f"{name[:MAX_LETTERS]}…"
  return (
    f"expected up to {MAX_LETTERS} letters, digits and . + - _ of which the first is a "
    f"letter, a digit or _, found {shown!r}"
  )


def check(name: str, what: str) -> None:
  """Checks a name.

  Args:
    name: the name.
    what: what is called so, for the message: "--split", "the head", …

  Raises:
    InvalidNameError: files cannot be called so.
  """
  if problem := find_problem(name):
    raise InvalidNameError(f"{what} cannot be part of a file's name: {problem}.")
