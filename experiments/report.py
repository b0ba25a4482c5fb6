"""One report over finished fine-tuning runs.

  python -m experiments.report runs/qm9_* runs/rmd17_* --output=runs/report

Runs from scratch and runs from a checkpoint of the same task are compared with each
other and with the published errors. Writes report.md, report.csv and report.png.
"""

from collections.abc import Sequence
import pathlib

from absl import app
from absl import flags

from experiments.command_line import command
from experiments.reports import comparison as comparison_lib
from experiments.reports import plot
from experiments.reports import table as table_lib

MARKDOWN_FILE, CSV_FILE, PLOT_FILE = "report.md", "report.csv", "report.png"


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines all flags of this runner."""
  flags.DEFINE_string(
    "output", "runs/report", "Directory of the report.", flag_values=values
  )


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


def main(argv: Sequence[str]) -> int:
  """Runs the command line; wrong arguments give one line and exit code 1."""

  def write(values: flags.FlagValues) -> None:
    output = pathlib.Path(values.output)
    print(run(argv[1:], output))
    print(f"Written to {output}: {MARKDOWN_FILE}, {CSV_FILE}, {PLOT_FILE}")

  return command.run_main(write, argv[:1])


if __name__ == "__main__":
  command.define(define_flags)
  app.run(main)
