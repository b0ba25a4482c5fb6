"""Wrong command lines are understood: where the mistake is, and what was meant."""

import pathlib
import tempfile

from absl import flags
from absl.testing import absltest
from absl.testing import parameterized

from data.command_line import mistakes
from data.command_line import numbers
from data.command_line import program as program_lib
from jmp_hk import ranges


def _define(values):
  flags.DEFINE_integer("num_steps", 1, "Steps.", lower_bound=1, flag_values=values)
  flags.DEFINE_float("learning_rate", 0.1, "Rate.", flag_values=values)
  numbers.define("beta", 0.9, "Decay.", ranges.DECAY, values)
  numbers.define("epsilon", 1e-8, "Small.", ranges.POSITIVE, values)
  infinite = ranges.Range(above=0, is_finite=False)
  numbers.define("temperature", 2.0, "Heat.", infinite, values)
  flags.DEFINE_bool("ema", True, "Average.", flag_values=values)
  flags.DEFINE_enum("model", "small", ["small", "large"], "Size.", flag_values=values)
  flags.DEFINE_string("workdir", "", "Directory.", flag_values=values)
  flags.DEFINE_list("names", [], "Names.", flag_values=values)


_PROGRAM = program_lib.Program("some.program", "Does it.", _define, lambda values: None)


def _find(*arguments, takes_others=False):
  values = flags.FlagValues()
  _PROGRAM.define(values)
  return mistakes.find(arguments, values, takes_others=takes_others)


class FindTest(parameterized.TestCase):
  @parameterized.parameters(
    (("--num_step=3",), "unknown flag --num_step. Did you mean --num_steps?"),
    (("--num-steps=3",), "unknown flag --num-steps. Did you mean --num_steps?"),
    (("--NUM_STEPS=3",), "Did you mean --num_steps?"),
    (("--rate=3",), "Did you mean --learning_rate?"),
    (("--lr=3",), "unknown flag --lr. Did you mean --learning_rate?"),
    (("--no_ema",), "Did you mean --noema?"),
    (("--xyzzy",), "unknown flag --xyzzy."),
    (("--hlep",), "Did you mean --help?"),
    (("--num_steps=few",), "--num_steps=few: expected a whole number, at least 1."),
    (("--num_steps=0",), "--num_steps=0: expected a whole number, at least 1."),
    (("--num_steps=",), "--num_steps=: expected a whole number"),
    (("--num_steps=10,000",), "Leave out the separators: --num_steps=10000."),
    (("--num_steps=1'000'000",), "Leave out the separators: --num_steps=1000000."),
    (("--num_steps=1e4",), "Write a whole number: --num_steps=10000."),
    (("--num_steps=10k",), "Write the number in full: --num_steps=10000."),
    (("--num_steps=20 steps",), "without its unit: --num_steps=20."),
    (("--learning_rate=0,01",), "Write a decimal point: --learning_rate=0.01."),
    (("--learning_rate=1e-3eV",), "without its unit: --learning_rate=1e-3."),
    (("--learning_rate=nan",), "--learning_rate=nan: expected a number."),
    (("--learning_rate=inf",), "--learning_rate=inf: expected a number."),
    (("--learning_rate=1e999",), "--learning_rate=1e999: expected a number."),
    (("--learning_rate=1j",), "without its unit: --learning_rate=1."),
    (("--learning_rate=1_0",), "--learning_rate=1_0: expected a number."),
    (("--num_steps=2.5",), "--num_steps=2.5: expected a whole number, at least 1."),
    (("--num_steps=1_000",), "expected a whole number, at least 1."),
    (("--num_steps=١",), "expected a whole number, at least 1."),
    (("--num_steps=1" + 30 * "0",), "expected a whole number, at least 1."),
    (("--beta=1",), "--beta=1: expected a number, at least 0 and below 1."),
    (("--epsilon=0",), "--epsilon=0: expected a number, above 0."),
    (("--temperature=nan",), "--temperature=nan: expected a number, above 0."),
    (("--ema=maybe",), "--ema=maybe: expected true or false."),
    (("--noema=true",), "--noema takes no value"),
    (("--ema", "false"), "Did you mean --noema?"),
    (("--model=smal",), "one of small, large. Did you mean --model=small?"),
    (("--model=Small",), "Did you mean --model=small?"),
    (("--workdir",), "--workdir needs a value, as in --workdir=VALUE."),
    (("--workdir", "--noema"), "the next argument is --noema."),
    (("num_steps=3",), "Did you mean --num_steps=3?"),
    (("—num_steps=3",), "two plain hyphens, as in --num_steps=3."),
    (("run",), "unexpected argument 'run'. Flags are written --name=value."),
    (("-",), "unexpected argument '-'."),
    (("--flagfile",), "--flagfile needs a value"),
    (("--flagfile=/no/where.flags",), "flag file /no/where.flags does not exist."),
    (("--flagfile=/",), "is a folder."),
  )
  def test_mistakes(self, arguments, expected):
    found = _find(*arguments)
    self.assertIn(expected, found)
    self.assertNotIn("\n", found)

  @parameterized.parameters(
    ((),),
    (("--num_steps=3", "--noema", "--names=", "--workdir=a b"),),
    (("--num_steps", "3", "-ema", "--ema=false", "--names", "a,b"),),
    (("--temperature=inf", "--beta=0.5", "--epsilon=1e-8"),),
    (("--", "anything", "--goes"),),
  )
  def test_right_command_lines(self, arguments):
    self.assertEqual(_find(*arguments), "")

  def test_other_arguments_where_they_have_a_meaning(self):
    self.assertEqual(_find("a", "b", "--noema", takes_others=True), "")
    self.assertIn("--num_steps", _find("a", "--num_step=3", takes_others=True))

  def test_the_first_mistake_is_named(self):
    self.assertIn("--workdi.", _find("--workdi=x", "--num_steps=0"))
    self.assertIn("--num_steps=0", _find("--num_steps=0", "--workdi=x"))


class FlagFileTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.file = self.folder / "my.flags"

  def test_file_and_line_are_named(self):
    inner = self.folder / "inner.flags"
    inner.write_text("# A comment.\n\n--num_step=3\n")
    self.file.write_text(f"--ema\n--flagfile={inner}\n")
    self.assertStartsWith(
      _find(f"--flagfile={self.file}"), f"{inner}, line 3: unknown flag --num_step."
    )
    self.file.write_text("--ema\n\n--num_steps=ten\n")
    self.assertStartsWith(_find("--flagfile", str(self.file)), f"{self.file}, line 3: ")
    self.file.write_text("num_steps=3\n")
    self.assertIn("Did you mean --num_steps=3?", _find(f"--flagfile={self.file}"))

  def test_a_file_that_does_not_exist(self):
    self.file.write_text("")
    wrong = self.folder / "mi.flags"
    self.assertIn(f"Did you mean {self.file}?", _find(f"--flagfile={wrong}"))
    self.file.write_text(f"--flagfile={wrong}\n")
    self.assertStartsWith(
      _find(f"--flagfile={self.file}"),
      f"{self.file}, line 1: the flag file {wrong} does not exist.",
    )

  def test_files_that_absl_reads_are_right(self):
    self.file.write_text(f"// C++.\n--num_steps=3  \n--flagfile={self.file}\n")
    self.assertEqual(_find(f"--flagfile={self.file}"), "")
    self.file.write_text("")
    self.assertEqual(_find(f"--flagfile={self.file}"), "")


if __name__ == "__main__":
  absltest.main()
