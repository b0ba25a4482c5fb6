"""Exit codes, two lines for what users mend, tracebacks for our own mistakes."""

import contextlib
import errno
import io
import signal

from absl import flags
from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp

from data.command_line import program as program_lib
from jmp_hk import names
from jmp_hk.runtime import interruption


def _define(values):
  flags.DEFINE_string("data", None, "DIR: The data.", flag_values=values)
  flags.DEFINE_string("output", None, "The result.", flag_values=values)


def _program(run=lambda values, others=None: None, **settings):
  return program_lib.Program("some.program", "Does it.", _define, run, **settings)


def _execute(program, *arguments):
  """The exit code and what is printed to stdout and stderr."""
  with (
    contextlib.redirect_stdout(io.StringIO()) as out,
    contextlib.redirect_stderr(io.StringIO()) as err,
  ):
    code = program.execute(arguments)
  return code, out.getvalue(), err.getvalue()


def _fail(error):
  def run(values):
    del values
    raise error

  return run


class ProgramTest(parameterized.TestCase):
  @parameterized.parameters(
    "--help", "-help", "-h", "--help=true", "--helpshort", "--helpfull"
  )
  def test_help_is_no_error(self, flag):
    called = []
    program = _program(called.append)
    code, out, err = _execute(program, "--data=x", "--wrong", flag)
    self.assertEqual((code, err, called), (0, "", []))
    self.assertStartsWith(out, "Does it.")
    self.assertIn("--data=DIR", out)

  def test_help_may_be_a_value_behind_two_dashes(self):
    found = []
    program = _program(lambda values, rest: found.extend(rest), takes_arguments=True)
    self.assertEqual(_execute(program, "--", "--help")[0], 0)
    self.assertEqual(found, ["--help"])
    code, _, err = _execute(_program(), "--", "--help")
    self.assertEqual(code, 1)
    self.assertIn("unexpected argument '--help'.", err)

  @parameterized.parameters((signal.SIGINT, 130), (signal.SIGTERM, 143))
  def test_signals_give_one_line_and_their_exit_code(self, number, exit_code):
    before = signal.getsignal(number)
    program = _program(lambda values: signal.raise_signal(number))
    code, _, err = _execute(program)
    self.assertEqual(code, exit_code)
    self.assertLen(err.splitlines(), 1)
    name = signal.Signals(number).name
    self.assertStartsWith(err, f"Stopped by {name}. What is finished stays")
    # What has been said already where it stopped is not told again.
    told = _fail(interruption.stop(number, "Stopped after step 3."))
    self.assertEqual(_execute(_program(told)), (exit_code, "", ""))
    self.assertIs(signal.getsignal(number), before)

  def test_wrong_command_lines_give_two_lines(self):
    code, out, err = _execute(_program(), "--dta=x")
    self.assertEqual((code, out), (1, ""))
    self.assertEqual(
      err,
      "error: unknown flag --dta. Did you mean --data?\n"
      "Run python -m some.program --help for all flags.\n",
    )

  def test_what_users_mend_gives_two_lines(self):
    wrong = _program(_fail(program_lib.FlagError("Something\n is wrong.")))
    code, _, err = _execute(wrong)
    self.assertEqual(code, 1)
    self.assertStartsWith(err, "error: Something is wrong.\nRun python -m some.program")
    bad_data = _program(_fail(KeyError("mine")), errors=lambda: (KeyError,))
    code, _, err = _execute(bad_data)
    self.assertEqual((code, len(err.splitlines())), (1, 2))
    self.assertIn("mine", err)
    self.assertIn(program_lib.TROUBLESHOOTING, err)

  def test_our_own_mistakes_are_called_bugs_and_show_their_traceback_on_demand(self):
    program = _program(_fail(KeyError("mine")))
    code, _, err = _execute(program)
    self.assertEqual((code, len(err.splitlines())), (1, 2))
    self.assertIn("this is a bug in this program", err)
    self.assertIn("KeyError: 'mine'", err)
    self.assertIn("--debug", err)
    code, _, err = _execute(program, "--debug")
    self.assertEqual(code, 1)
    self.assertStartsWith(err, "Traceback (most recent call last)")
    self.assertIn("in run", err)

  @parameterized.parameters(
    (OSError(errno.ENOSPC, "No space left on device", "run/a"), "run/a: no space left"),
    (OSError(errno.EISDIR, "Is a directory", "out"), "out: is a directory. Name a f"),
    (RuntimeError("write: No space left on device"), "Free some space"),
    (OSError("damaged"), "a file cannot be read or written: damaged."),
    (MemoryError(), "the memory of the machine does not suffice"),
    (names.InvalidNameError("A name is wrong."), "error: A name is wrong."),
  )
  def test_errors_of_system_and_library_give_a_sentence(self, error, expected):
    code, _, err = _execute(_program(_fail(error)))
    self.assertEqual((code, len(err.splitlines())), (1, 2))
    self.assertIn(expected, err)
    self.assertNotIn("bug", err)

  def test_lack_of_memory_gives_two_lines(self):
    # More bytes than any machine has.
    program = _program(lambda values: jax.device_get(jnp.zeros((1 << 55,), jnp.int8)))
    code, _, err = _execute(program)
    self.assertEqual((code, len(err.splitlines())), (1, 2))
    self.assertIn("the memory of the device does not suffice", err)

  def test_required_flags(self):
    values = flags.FlagValues()
    _program().define(values)
    values(["program"])
    with self.assertRaisesRegex(
      program_lib.FlagError,
      "^--data is required: The data. Also required: --output.$",
    ):
      program_lib.require(values, "data", "output")
    values(["program", "--data=x"])
    with self.assertRaisesRegex(program_lib.FlagError, "^--output is required: The"):
      program_lib.require(values, "data", "output")
    program_lib.require(values, "data")


if __name__ == "__main__":
  absltest.main()
