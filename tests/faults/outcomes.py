"""What comes of a fault, and the table of all faults that a run of these tests prints.

Every fault has one of three outcomes, and anything else is a failure:

  refused    a sentence that names what is wrong, and exit code 1
  equal      what was read or trained is equal, bit by bit, to what it would have been
             without the fault
  other      only for formats that carry no checksum: the damaged file is another valid
             one. What is read is finite and within all bounds, and nothing but the
             damaged molecule, record or list differs
"""

from collections.abc import Iterable
from typing import Any

from jmp_hk import text_table

REFUSED, EQUAL, OTHER = "refused", "equal", "other"
COLUMNS = {
  REFUSED: "refused with a sentence",
  EQUAL: "accepted and equal",
  OTHER: "accepted, other valid values",
}
PROPERTY = "outcomes of faults"  # Of a test's report.
_FAILURES = "failures"


class Outcomes:
  """Counts what came of the faults of one test.

  Attributes:
    rows: [fault, what is read, outcome, count], plain values that reports can carry.
  """

  def __init__(self) -> None:
    self.rows: list[list[Any]] = []

  def add(self, fault: str, what: str, outcome: str, count: int = 1) -> None:
    """Counts faults; whatever is none of the three outcomes is a failure.

    Args:
      fault: kind of the fault, e.g. "flipped bit".
      what: what is read or interrupted.
      outcome: what came of it.
      count: number of faults.
    """
    for row in self.rows:
      if row[:3] == [fault, what, outcome]:
        row[3] += count
        return
    self.rows.append([fault, what, outcome, count])


def table(rows: Iterable[list[Any]]) -> str:
  """All counts as a table of Markdown, by fault and what is read."""
  counts: dict[tuple[str, str], dict[str, int]] = {}
  for fault, what, outcome, count in rows:
    column = outcome if outcome in COLUMNS else _FAILURES
    row = counts.setdefault((fault, what), {})
    row[column] = row.get(column, 0) + count
  columns = [*COLUMNS, _FAILURES]
  titles = ["tried", *COLUMNS.values(), _FAILURES]
  lines = [["fault", "what is read", *titles]]
  total = dict.fromkeys(columns, 0)
  for (fault, what), row in sorted(counts.items(), key=lambda entry: entry[0][0]):
    numbers = [row.get(column, 0) for column in columns]
    lines.append([fault, what, *(f"{n:,}" for n in (sum(numbers), *numbers))])
    for column in columns:
      total[column] += row.get(column, 0)
  every = [sum(total.values()), *total.values()]
  lines.append(["all", "", *(f"{n:,}" for n in every)])
  lines.insert(1, ["---"] * len(lines[0]))
  aligned = text_table.align([_with_bars(line) for line in lines], num_text=5)
  return "\n".join(f"{line} |" for line in aligned.splitlines())


def _with_bars(cells: list[str]) -> list[str]:
  """Cells between which the bars of Markdown stand."""
  found = []
  for cell in cells:
    found += ["|", cell]
  return found
