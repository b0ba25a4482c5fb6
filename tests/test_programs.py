"""Every program explains itself: `--help`, its examples, and its exit codes."""

import contextlib
import importlib
import io
import re
import shlex
import subprocess
import sys

from absl import flags
from absl.testing import absltest
from absl.testing import parameterized

from data.command_line import flag_help
from data.command_line import program as program_lib
from tests import source_imports

_NAMES = sorted(
  name
  for name, path in source_imports.modules().items()
  if "\nPROGRAM = " in path.read_text()
)
# Titles of groups besides the common ones.
_OWN_TITLES = re.compile(r"What is measured|Only with (--dataset=\w+|some datasets)")


def _program(name: str) -> program_lib.Program:
  return importlib.import_module(name).PROGRAM


def _values(name: str) -> flags.FlagValues:
  values = flags.FlagValues()
  _program(name).define(values)
  return values


def _help(name: str) -> str:
  with contextlib.redirect_stdout(io.StringIO()) as out:
    code = _program(name).execute(["--help"])
  assert code == 0, code
  return out.getvalue()


class ProgramsTest(parameterized.TestCase):
  def test_all_programs_are_found(self):
    for name in ("pretrain", "finetune", "evaluate", "predict", "embed", "report"):
      self.assertIn(f"experiments.{name}", _NAMES)
    self.assertIn("data.convert", _NAMES)
    self.assertIn("benchmarks.train_step", _NAMES)
    # Nothing else parses a command line.
    starts = [
      name
      for name, path in source_imports.modules().items()
      if re.search(r"app\.run\(|argparse\.ArgumentParser", path.read_text())
    ]
    self.assertEqual(starts, ["data.command_line.program"])

  @parameterized.parameters(*_NAMES)
  def test_help_shows_the_programs_own_flags_and_no_others(self, name):
    shown = re.findall(r"^  --(?:\[no\])?(\w+)", _help(name), re.M)
    self.assertCountEqual(shown, list(_values(name)))
    self.assertEqual(_program(name).name, name)

  @parameterized.parameters(*_NAMES)
  def test_flags_have_a_group(self, name):
    values = _values(name)
    found = flag_help.groups(values)
    self.assertNotIn(
      flag_help.OTHER,
      found,
      f"{found.get(flag_help.OTHER)} of {name} have no group: define them in a "
      "function that is decorated with @flag_help.group(TITLE), with one of "
      "flag_help.TITLES.",
    )
    for title in found:
      self.assertTrue(
        title in flag_help.TITLES or _OWN_TITLES.fullmatch(title),
        f"{title!r} is not among flag_help.TITLES: use one of them, or add it there.",
      )

  @parameterized.parameters(*_NAMES)
  def test_help_texts_are_sentences(self, name):
    values = _values(name)
    for flag_name in values:
      text = flag_help.sentence(values[flag_name])
      self.assertRegex(
        text,
        r"^[A-Z].*[.)]$",
        f"The help of --{flag_name} shall be sentences, after what its value looks "
        'like, as in "DIR: Directory of the run."',
      )

  @parameterized.parameters(*_NAMES)
  def test_required_flags_exist_and_are_marked(self, name):
    text = _help(name)
    for flag_name in _program(name).required:
      self.assertRegex(text, rf"--{flag_name}=.*\(.*required|\(Required")

  @parameterized.parameters(*_NAMES)
  def test_examples_are_right_command_lines(self, name):
    description = (_program(name).description or "").replace("\\\n", " ")
    commands = re.findall(
      rf"^  python -m {name} (.*(?:\n {{6}}.*)*)", description, re.M
    )
    self.assertNotEmpty(commands, f"The docstring of {name} has no example.")
    with contextlib.chdir(source_imports.ROOT):
      for command in commands:
        values = _values(name)
        _program(name).parse(shlex.split(command), values)
        given = [name for name in values if not values[name].using_default_value]
        self.assertNotEmpty(given, command)

  def test_as_processes(self):
    run = lambda *arguments: subprocess.run(
      [sys.executable, "-m", "experiments.report", *arguments],
      cwd=source_imports.ROOT,
      capture_output=True,
      text=True,
    )
    shown = run("--help")
    self.assertEqual((shown.returncode, shown.stderr), (0, ""))
    self.assertIn("--output=DIR", shown.stdout)
    self.assertNotIn("--verbosity", shown.stdout)
    self.assertIn("--verbosity", run("--helpfull").stdout)
    early = subprocess.run(
      f"{sys.executable} -m experiments.report --helpfull | head -n 1",
      cwd=source_imports.ROOT,
      capture_output=True,
      text=True,
      shell=True,
    )
    self.assertEqual((early.stdout.count("\n"), early.stderr), (1, ""))
    wrong = run("--outptu=x")
    self.assertEqual((wrong.returncode, wrong.stdout), (1, ""))
    self.assertEqual(
      wrong.stderr,
      "error: unknown flag --outptu. Did you mean --output?\n"
      "Run python -m experiments.report --help for all flags.\n",
    )


if __name__ == "__main__":
  absltest.main()
