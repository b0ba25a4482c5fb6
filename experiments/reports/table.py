"""A table of a report, as Markdown and as text, and the numbers in it."""

from collections.abc import Sequence
import dataclasses
import textwrap

from experiments.reports import comparison as comparison_lib
from experiments.reports import published as published_lib
from jmp_hk import text_table

_DIGITS = 4
_TEXT_WIDTH = 88  # Of sentences in a terminal; tables are as wide as they are.


@dataclasses.dataclass(frozen=True)
class Table:
  """A table with its title.

  Attributes:
    title: title, without a full stop.
    text: what is shown, in sentences.
    head: titles of the columns.
    rows: cells.
    notes: what has to be known about single numbers, in sentences.
  """

  title: str
  text: str
  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  notes: Sequence[str] = ()

  def markdown(self) -> str:
    """The table as Markdown."""
    lines = [self.head, ["---"] * len(self.head), *self.rows]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"## {self.title}", self.text, rows, *self.notes]
    return "\n\n".join(part for part in parts if part) + "\n"

  def plain(self) -> str:
    """The table with aligned columns, for a terminal."""
    rows = text_table.align([self.head, *self.rows])
    title = f"{self.title}\n{'=' * len(self.title)}"
    fill = lambda text: textwrap.fill(text, _TEXT_WIDTH)
    parts = [title, fill(self.text), rows, *map(fill, self.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def scope(
  comparison: comparison_lib.Comparison,
  folds: Sequence[int],
  published: published_lib.Published,
) -> str:
  """Folds in words; "" for data that are not divided into folds."""
  if comparison.scopes == ((0,),) and not published.has_folds(comparison.task):
    return ""
  if len(folds) == 1:
    return f"fold {folds[0]}"
  if list(folds) == list(range(published_lib.NUM_FOLDS)):
    return f"mean of {len(folds)} folds"
  return f"mean of folds {', '.join(map(str, folds))}"


def estimate(value: comparison_lib.Estimate) -> str:
  """An error with its spread."""
  text = f"{value.mean:.{_DIGITS}g}"
  return text if value.spread is None else f"{text} ± {value.spread:.2g}"


def percent(value: comparison_lib.Estimate | None) -> str:
  """An improvement with its spread."""
  if value is None:
    return ""
  spread = "" if value.spread is None else f" ± {value.spread:.1f}"
  return f"{value.mean:+.1f}{spread} %"
