"""Sums up what is wrong with many records, so that it can be read."""

from collections.abc import Sequence
import re

_MOST_NAMED = 5  # Records of one kind.
_MOST_KINDS = 6
# What differs between problems of one kind: numbers and what is quoted in brackets.
_DETAILS = re.compile(
  r"\[.*?\]|[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\bnan\b|[-+]?\binf\b"
)


def summarise(problems: Sequence[tuple[str, str]], total: int = 0) -> str:
  """Describes problems of records, those of one kind together.

  Example:
    >>> summarise([("a.xyz:0", "no energy"), ("a.xyz:4", "no energy")], total=9)
    '2 of 9 records: no energy (a.xyz:0, a.xyz:4).'

  Args:
    problems: (name of the record, what is wrong as a clause) of each bad record.
    total: number of all records, good ones too; 0 where that is not known.

  Returns:
    A sentence for each kind of problem, the most frequent one first, with the first
    five records. A single problem reads "record: clause."; "" without any.
  """
  kinds: dict[str, list[tuple[str, str]]] = {}
  for record, reason in problems:
    kinds.setdefault(_DETAILS.sub("#", reason), []).append((record, reason))
  groups = sorted(kinds.values(), key=len, reverse=True)
  sentences = [_sentence(group, total) for group in groups[:_MOST_KINDS]]
  if rest := groups[_MOST_KINDS:]:
    count = sum(map(len, rest))
    sentences.append(f"Records with other problems: {count}.")
  return " ".join(sentences)


def _sentence(group: Sequence[tuple[str, str]], total: int) -> str:
  """Problems of one kind; the reason is that of the first record."""
  (record, reason), *others = group
  reason = reason.rstrip(".")
  if not others:
    return f"{record}: {reason}."
  named = [record for record, _ in group[:_MOST_NAMED]]
  if len(group) > _MOST_NAMED:
    named.append(f"and {len(group) - _MOST_NAMED} more")
  of_all = f" of {total}" if total else ""
  return f"{len(group)}{of_all} records: {reason} ({', '.join(named)})."
