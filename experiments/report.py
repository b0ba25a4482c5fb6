"""One report over finished fine-tuning runs.

  python -m experiments.report runs/qm9_* runs/rmd17_* --output=runs/report
  python -m experiments.report runs/study --output=runs/study/report

Runs are told apart by task, number of training structures, model, initial weights (by
what these were trained on, not by their path) and settings. Those that differ in fold
and seed alone are averaged, with the standard deviation over seeds. Fine-tuned models
are compared with the same model from scratch over the folds that both have, and with
the published errors. Writes report.md, groups.csv, runs.csv and pictures. A directory
stands for all runs below it.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import flags

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments.command_line import command
from jmp_hk import files

MARKDOWN_FILE, GROUPS_FILE, RUNS_FILE = "report.md", "groups.csv", "runs.csv"


@dataclasses.dataclass(frozen=True)
class Report:
  """A report that has been written.

  Attributes:
    markdown: the whole of it as Markdown.
    text: the same for a terminal.
    paths: its files.
  """

  markdown: str
  text: str
  paths: tuple[pathlib.Path, ...]


@flag_help.group("Output")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  flags.DEFINE_string(
    "output", "runs/report", "DIR: Directory of the report.", flag_values=values
  )
  flags.DEFINE_string(
    "reference",
    "",
    "LABEL: Part of the name, as the tables have it, of the fine-tuned models that "
    "ablations are compared with; by default the first of each size.",
    flag_values=values,
  )


def _print_report(values: flags.FlagValues, directories: Sequence[str]) -> None:
  written = run(directories, pathlib.Path(values.output), values.reference)
  print(written.text)
  print(f"Written to {values.output}: {', '.join(path.name for path in written.paths)}")


def run(
  directories: Sequence[str], output: pathlib.Path, reference: str = ""
) -> Report:
  """Writes the report.

  Args:
    directories: working directories of finished runs, or directories that hold some.
    output: where the report goes.
    reference: part of the label of what ablations are compared with.

  Raises:
    FlagError: no directory is given, or none holds a finished run.
  """
  if not directories:
    raise command.FlagError(
      "Name the working directories of finished fine-tuning runs, e.g. "
      "`python -m experiments.report runs/qm9_*`."
    )
  from experiments.reports import comparison as comparison_lib  # Slow to import.
  from experiments.reports import csv_files
  from experiments.reports import plot
  from experiments.reports import published as published_lib
  from experiments.reports import runs as runs_lib
  from experiments.reports import sections
  from experiments.reports import summaries

  found = runs_lib.find(directories)
  if not found.runs:
    raise command.FlagError(" ".join(found.left_out.values()))
  comparisons = comparison_lib.compare(found.runs)
  labels = summaries.arms(comparisons)
  if reference and not any(reference in label for label in labels):
    raise command.FlagError(
      f"--reference: there is no {reference!r} in {', '.join(labels)}."
    )
  published = published_lib.load()
  output.mkdir(parents=True, exist_ok=True)
  pictures = plot.draw(comparisons, published, output, reference)
  csv_files.write_groups(comparisons, published, output / GROUPS_FILE)
  csv_files.write_runs(comparisons, output / RUNS_FILE)
  tables = sections.tables(comparisons, published, reference)
  left_out = [f"Left out: {reason}" for reason in found.left_out.values()]
  notes = [*left_out, *sections.sources(comparisons, published)]
  markdown = sections.markdown(tables, pictures, notes)
  files.write_atomically(output / MARKDOWN_FILE, markdown)
  text = sections.plain(tables, notes)
  names = (MARKDOWN_FILE, GROUPS_FILE, RUNS_FILE)
  return Report(markdown, text, (*(output / name for name in names), *pictures))


PROGRAM = program_lib.Program(
  name="experiments.report",
  description=__doc__,
  define_flags=define_flags,
  run=_print_report,
  takes_arguments=True,
)

if __name__ == "__main__":
  PROGRAM.start()
