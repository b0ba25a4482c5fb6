"""Numbers and small tables as people read them in a log."""

from collections.abc import Sequence
import math

_GAP = "  "


def number(value: float, digits: int = 3) -> str:
  """A number with some significant digits and without an exponent where possible.

  Args:
    value: any number.
    digits: significant digits; digits before the decimal point are all written.
  """
  if not math.isfinite(value):
    return str(value)
  if value == 0:
    return "0"
  rounded = f"{value:.{digits - 1}e}"
  magnitude = int(rounded.partition("e")[2])
  if magnitude < -digits:
    return rounded
  return f"{value:.{max(0, digits - 1 - magnitude)}f}"


def quantity(value: float, unit: str, digits: int = 3) -> str:
  """A number with its unit."""
  return f"{number(value, digits)} {unit}".rstrip()


def align(rows: Sequence[Sequence[str]], num_text: int = 1) -> str:
  """Rows as lines with aligned columns.

  Args:
    rows: cells, as many in every row.
    num_text: number of first columns that hold text, which begins at the left; the
      others hold numbers and end at the right.
  """
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [
      cell.ljust(width) if index < num_text else cell.rjust(width)
      for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    lines.append(_GAP.join(cells).rstrip())
  return "\n".join(lines)
