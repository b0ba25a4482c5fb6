"""One table of what came of all faults, printed when the tests have run."""

import time

import pytest

from tests.faults import outcomes as outcomes_lib

_START = time.monotonic()


@pytest.fixture
def outcomes(request) -> outcomes_lib.Outcomes:
  """Where a test counts what came of its faults."""
  made = outcomes_lib.Outcomes()
  request.node.user_properties.append((outcomes_lib.PROPERTY, made.rows))
  return made


def pytest_terminal_summary(terminalreporter, exitstatus, config):
  """Prints the table, whichever processes the tests ran in."""
  del exitstatus, config
  rows = [
    row
    for reports in terminalreporter.stats.values()
    for report in reports
    if getattr(report, "when", "") == "call"
    for name, value in report.user_properties
    if name == outcomes_lib.PROPERTY
    for row in value
  ]
  if not rows:
    return
  minutes = (time.monotonic() - _START) / 60
  terminalreporter.section("what came of all faults")
  terminalreporter.write_line(outcomes_lib.table(rows))
  terminalreporter.write_line(f"{minutes:.1f} minutes")
