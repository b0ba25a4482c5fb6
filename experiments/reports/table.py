"""A table of a report, as Markdown and as text, and the numbers in it."""

from collections.abc import Sequence
import dataclasses
import textwrap

from experiments.reports import comparison as comparison_lib
from experiments.reports import published as published_lib
from jmp_hk import text_table

_DIGITS = 4
_TEXT_WIDTH = 88  # Of sentences in a terminal.
_MOST_COLUMNS = 110  # Of tables.


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
    """The table with aligned columns, for a terminal.

    One that is wider than a terminal is turned, rows for columns, if that helps.
    """
    cells = [self.head, *self.rows]
    texts = [text_table.align(cells), text_table.align(list(zip(*cells, strict=True)))]
    widths = [max(map(len, text.splitlines())) for text in texts]
    is_turned = widths[0] > _MOST_COLUMNS and widths[1] < widths[0]
    title = f"{self.title}\n{'=' * len(self.title)}"
    parts = [title, fill(self.text), texts[is_turned], *map(fill, self.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def fill(text: str) -> str:
  """Sentences in lines for a terminal."""
  return textwrap.fill(text, _TEXT_WIDTH)


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
