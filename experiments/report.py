"""One report over finished fine-tuning runs.

  python -m experiments.report runs/qm9_* runs/rmd17_* --output=runs/report

Runs from scratch and runs from a checkpoint of the same task are compared with each
other and with the published errors. Writes report.md, report.csv and report.png.
"""

from collections.abc import Sequence
import pathlib

from absl import flags

from data.command_line import flag_help
from data.command_line import program as program_lib
from experiments.command_line import command

MARKDOWN_FILE, CSV_FILE, PLOT_FILE = "report.md", "report.csv", "report.png"


@flag_help.group("Output")
def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  flags.DEFINE_string(
    "output", "runs/report", "DIR: Directory of the report.", flag_values=values
  )


def _print_report(values: flags.FlagValues, directories: Sequence[str]) -> None:
  output = pathlib.Path(values.output)
  print(run(directories, output))
  print(f"Written to {output}: {MARKDOWN_FILE}, {CSV_FILE}, {PLOT_FILE}")


def run(directories: Sequence[str], output: pathlib.Path) -> str:
  """Writes the report.

  Args:
    directories: working directories of finished runs.
    output: where the report goes.

  Returns:
    The report as Markdown.

  Raises:
    FlagError: no directory is given, or one holds no finished run.
  """
  if not directories:
    raise command.FlagError(
      "Name the working directories of finished fine-tuning runs, e.g. "
      "`python -m experiments.report runs/qm9_*`."
    )
  from experiments.reports import comparison as comparison_lib  # Slow to import.
  from experiments.reports import plot
  from experiments.reports import table as table_lib

  try:
    runs = [
      comparison_lib.load_run(pathlib.Path(directory)) for directory in directories
    ]
  except comparison_lib.UnfinishedRunError as error:
    raise command.FlagError(str(error)) from error
  comparisons = comparison_lib.compare(runs)
  published = comparison_lib.load_published()
  output.mkdir(parents=True, exist_ok=True)
  text = table_lib.markdown(comparisons, published)
  (output / MARKDOWN_FILE).write_text(text, encoding="utf-8")
  table_lib.write_csv(comparisons, published, output / CSV_FILE)
  plot.draw(comparisons, published, output / PLOT_FILE)
  return text


PROGRAM = program_lib.Program(
  name="experiments.report",
  description=__doc__,
  define_flags=define_flags,
  run=_print_report,
  takes_arguments=True,
)

if __name__ == "__main__":
  PROGRAM.start()
