"""Bars on terminals, plain lines elsewhere."""

import io
import logging
import os
import pty
import subprocess
import sys
import termios
from unittest import mock

from absl import logging as absl_logging
from absl.testing import absltest
from absl.testing import parameterized

from jmp_hk.runtime import console
from tests import source_imports

_PROGRAM = """
import logging
from jmp_hk.runtime import console
console.log_to_stderr()
with console.bar(3, "step", "Training") as bar:
  for step in range(3):
    logging.getLogger("jmp_hk.test").info("line %d", step)
    bar.update()
logging.getLogger("other").warning("careful")
"""


def _run_on_a_terminal() -> str:
  """What a terminal receives of the program."""
  ours, theirs = pty.openpty()
  termios.tcsetwinsize(theirs, (24, 80))
  process = subprocess.Popen(
    [sys.executable, "-c", _PROGRAM],
    cwd=source_imports.ROOT,
    stdout=theirs,
    stderr=theirs,
  )
  os.close(theirs)
  parts = []
  try:
    while part := os.read(ours, 4096):
      parts.append(part)
  except OSError:  # The other side was closed.
    pass
  os.close(ours)
  assert process.wait() == 0
  return b"".join(parts).decode()


class ConsoleTest(parameterized.TestCase):
  @parameterized.parameters((0.4, "0:00:00"), (24, "0:00:24"), (3723.4, "1:02:03"))
  def test_durations(self, seconds, expected):
    self.assertEqual(console.duration(seconds), expected)

  def test_a_file_gets_lines_and_no_bar(self):
    text = subprocess.run(
      [sys.executable, "-c", _PROGRAM],
      cwd=source_imports.ROOT,
      capture_output=True,
      text=True,
      check=True,
    ).stderr
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    lines = text.splitlines()
    self.assertLen(lines, 4)
    for step in range(3):
      self.assertRegex(lines[step], f"^{date} line {step}$")
    self.assertRegex(lines[3], f"^{date} warning: careful$")

  def test_lines_do_not_tear_the_bar_of_a_terminal(self):
    text = _run_on_a_terminal()
    self.assertIn("Training: 100%", text)
    # What stays visible of a line is what follows its last carriage return.
    visible = [line.split("\r")[-1] for line in text.replace("\r\n", "\n").split("\n")]
    for step in range(3):
      written = [line for line in visible if line.endswith(f"line {step}")]
      self.assertLen(written, 1)
      self.assertRegex(written[0], r"^(\x1b\[A|\x1b\[K)*\d\d:\d\d:\d\d line \d$")

  def test_long_work_is_told_now_and_then(self):
    with (
      self.assertNoLogs("jmp_hk", logging.INFO),
      console.progress("structure", "Test") as update,
    ):
      update(1, 10)
    clock = iter((0.0, 31.0, 40.0, 62.0))
    with (
      mock.patch.object(console.time, "monotonic", lambda: next(clock)),
      self.assertLogs("jmp_hk", logging.INFO) as logs,
      console.progress("structure", "Test") as update,
    ):
      for done in (1_000, 1_500, 2_000):
        update(done, 4_000)
    self.assertEqual(
      [record.getMessage() for record in logs.records],
      [
        "Test: 1,000 of 4,000 structures, 32.3 structures/s, ETA 0:01:33",
        "Test: 2,000 of 4,000 structures, 32.3 structures/s, ETA 0:01:02",
      ],
    )

  def test_programs_replace_handlers_of_the_terminal_alone(self):
    before, level = list(logging.root.handlers), logging.root.level
    kept, old = logging.StreamHandler(io.StringIO()), logging.StreamHandler(sys.stderr)
    try:
      logging.root.handlers[:] = [kept, old, absl_logging.get_absl_handler()]
      console.log_to_stderr()
      console.log_to_stderr()  # Twice does not write twice.
      found = list(logging.root.handlers)
    finally:
      logging.root.handlers[:] = before
      logging.root.setLevel(level)
    self.assertLen(found, 2)
    self.assertIs(found[0], kept)
    self.assertIs(found[1].stream, sys.stderr)

  def test_nobody_looks_on_at_a_file(self):
    with mock.patch.object(sys, "stderr", io.StringIO()):
      self.assertFalse(console.is_interactive())


if __name__ == "__main__":
  absltest.main()
