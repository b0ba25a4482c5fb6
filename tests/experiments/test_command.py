"""Wrong command lines give one line and an exit code; our own mistakes a traceback."""

import subprocess
import sys

import pytest

from experiments.command_line import command
from tests.experiments import demo_data


def _fail(error):
  def run(values):
    del values
    raise error

  return run


def test_wrong_flags_give_one_line(capsys):
  wrong = _fail(command.FlagError("Something\n is wrong."))
  assert command.run_main(wrong, ["program"]) == 1
  assert capsys.readouterr().err == "error: Something is wrong.\n"
  assert command.run_main(wrong, ["program", "extra"]) == 1
  assert capsys.readouterr().err == "error: Unexpected arguments ['extra'].\n"
  assert command.run_main(lambda values: None, ["program"]) == 0


def test_other_errors_are_the_users_only_where_they_are_named(capsys):
  missing = _fail(KeyError("mine"))
  assert command.run_main(missing, ["program"], lambda: (KeyError,)) == 1
  assert "mine" in capsys.readouterr().err
  with pytest.raises(KeyError):
    command.run_main(missing, ["program"])


def test_help_shows_the_flags_of_the_program():
  process = subprocess.run(
    [sys.executable, "-m", "experiments.report", "--help"],
    cwd=demo_data.ROOT,
    capture_output=True,
    text=True,
  )
  assert "--output: Directory of the report." in process.stdout
